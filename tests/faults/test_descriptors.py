"""Limits of open files: fewer connections, and nothing lost that is paid for."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpcore
import pytest

import genbatch
from genbatch import GeminiClient, StoreError, Success
from genbatch._client import http
from genbatch._store._reports import verify
from genbatch.testing import FakeGemini
from support.archives import begin, image, opened, plan_all

PROMPTS = [str(number) for number in range(12)]


def client_for(server: FakeGemini) -> GeminiClient:
    return GeminiClient("a-key-of-some-length", base_url=server.url)


@contextmanager
def all_descriptors_taken() -> Iterator[None]:
    """Let this process open no more files in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        stack.callback(os.close, highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                stack.callback(os.close, os.dup(0))
        yield


@pytest.mark.anyio
async def test_calls_wait_for_a_connection_that_the_limit_of_open_files_allows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "most_connections", lambda: 3)
    async with FakeGemini(image_size=8, latency=0.01) as server, client_for(server) as client:
        assert client.max_connections == 3
        outcomes = await genbatch.collect(client.generate_image, PROMPTS, max_concurrent=12)
        assert all(isinstance(outcome, Success) for outcome in outcomes)
        assert (server.stats.images, server.stats.peak) == (12, 3)
    said = "calls wait: the limit of open files allows no more than 3 at once"
    assert caplog.text.count(said) == 1


@pytest.mark.anyio
async def test_a_process_that_may_open_no_more_connections_uses_those_it_has(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    opened = 0
    connect = httpcore.AnyIOBackend.connect_tcp

    async def connect_tcp(*args: Any, **options: Any) -> Any:
        nonlocal opened
        if opened == 3:
            raise httpcore.ConnectError from OSError(errno.EMFILE, "Too many open files")
        opened += 1
        return await connect(*args, **options)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    async with FakeGemini(image_size=8, latency=0.01) as server, client_for(server) as client:
        outcomes = await genbatch.collect(client.generate_image, PROMPTS, max_concurrent=12)
        assert all(isinstance(outcome, Success) for outcome in outcomes)
        assert client.max_connections == 3
        assert server.stats.calls == server.stats.images == 12
    assert pauses


def test_a_process_that_may_open_no_more_files_saves_with_the_one_kept_for_that(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as archive:
        first, second = [begin(archive, plan) for plan in plan_all(archive, ["a cup", "a mug"])]
        for call, number in ((first, 1), (second, 2)):
            with all_descriptors_taken():
                archive.save(call, image(number, extras=(image(7),)), 1.0)
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert list(verify(tmp_path)) == []


def test_an_image_that_was_not_saved_is_saved_when_the_store_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        call = begin(archive, plan_all(archive, ["a cup"])[0])
        archive._close_spare()
        with all_descriptors_taken():
            with pytest.raises(StoreError, match="Too many open files"):
                archive.save(call, image(), 1.0)
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert list(verify(tmp_path)) == []
