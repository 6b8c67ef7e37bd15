"""Connections in numbers: how many there are, and what is left of them after cancellations."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from genbatch import GeminiClient, Throttle, _http, collect
from genbatch.testing import FakeGemini, Fault
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ports of the connections that were opened."""
    ports: list[int] = []
    connect = _http._Connection.connect_tcp

    async def counted(self: _http._Connection, host: str, port: int, **options: Any) -> object:
        ports.append(port)
        return await connect(self, host, port, **options)

    monkeypatch.setattr(_http._Connection, "connect_tcp", counted)
    return ports


def descriptors() -> set[str]:
    """Return what this process has open: files and sockets, each by its inode."""
    gc.collect()
    directory = Path("/proc/self/fd")
    return {os.readlink(path) for path in directory.iterdir() if path.is_symlink()}


async def test_there_are_never_more_connections_than_calls_and_they_are_used_again(
    opened: list[int],
) -> None:
    async with (
        FakeGemini(image_size=8, latency=0.5) as server,
        GeminiClient("a-key", base_url=server.url, throttle=Throttle(capacity=100)) as client,
    ):
        for _ in range(2):
            prompts = map(str, range(150))
            outcomes = await collect(client.generate_image, prompts, max_concurrent=100)
            assert all(outcome.unwrap() for outcome in outcomes)
            assert len(opened) <= 100
        assert server.stats.calls == 300
        assert server.stats.peak > 30


async def test_large_images_come_whole_and_beside_each_other() -> None:
    content = b"\x89PNG\r\n\x1a\n" + random.Random(7).randbytes(5_000_000) + b"IEND\xaeB`\x82"
    body = {
        "candidates": [
            {"content": {"parts": [{"inlineData": {"data": base64.b64encode(content).decode()}}]}}
        ]
    }
    async with (
        FakeGemini(faults=[Fault(body=body)] * 4) as server,
        GeminiClient("a-key", base_url=server.url) as client,
    ):
        outcomes = await collect(client.generate_image, map(str, range(4)), max_concurrent=4)
    assert [outcome.unwrap().data == content for outcome in outcomes] == [True] * 4


async def pass_time(passes: int) -> None:
    for _ in range(passes):
        await anyio.lowlevel.checkpoint()


async def cancel_by_scope(call: Callable[[], object], passes: int) -> bool:
    async with anyio.create_task_group() as tasks:
        done: list[object] = []

        async def run() -> None:
            done.append(await call())  # type: ignore[misc]

        tasks.start_soon(run)
        await pass_time(passes)
        tasks.cancel_scope.cancel()
    return bool(done)


async def cancel_natively(call: Callable[[], object], passes: int) -> bool:
    task = asyncio.create_task(call())  # type: ignore[arg-type]
    await pass_time(passes)
    task.cancel()
    try:
        return bool(await task)
    except asyncio.CancelledError:
        return False


async def survive(cancel: Callable[..., object], opened: list[int]) -> None:
    """Cancel 250 calls, ten at a time, each after another number of passes of the loop."""
    # Not a security matter; the same numbers each time.
    passes = random.Random(7)
    async with FakeGemini(image_size=8) as server:
        before = descriptors()
        async with GeminiClient("a-key", base_url=server.url, max_retries=0) as client:

            async def call() -> object:
                return await client.generate_image("a cat")

            ended: list[bool] = []

            async def one() -> None:
                ended.append(await cancel(call, passes.randrange(120)))  # type: ignore[misc]

            for _ in range(25):
                async with anyio.create_task_group() as tasks:
                    for _ in range(10):
                        tasks.start_soon(one)
            assert len(ended) == 250
            assert True in ended
            assert False in ended
            # All goes on, over connections that are there: no more than there were calls.
            opened.clear()
            outcomes = await collect(client.generate_image, map(str, range(40)), max_concurrent=10)
            assert all(outcome.unwrap() for outcome in outcomes)
            assert len(opened) <= 10
        while server.stats.in_flight:
            await anyio.lowlevel.checkpoint()
        if sys.platform == "linux":
            with anyio.fail_after(60):  # the server's ends, which see that the client has gone
                while not descriptors() <= before:
                    await anyio.lowlevel.checkpoint()


async def test_cancelled_calls_leave_nothing_behind(opened: list[int]) -> None:
    tasks = {task.id for task in anyio.get_running_tasks()}
    await survive(cancel_by_scope, opened)
    assert {task.id for task in anyio.get_running_tasks()} == tasks


@only_asyncio
async def test_natively_cancelled_calls_leave_nothing_behind(opened: list[int]) -> None:
    tasks = asyncio.all_tasks()
    await survive(cancel_natively, opened)
    assert asyncio.all_tasks() == tasks
