"""Limits of open files that are lower than the calls in flight: every paid image is on disk."""

from __future__ import annotations

import resource
from functools import partial
from pathlib import Path

import pytest

from support.commands import Genbatch, Serve, images, write_prompts

pytestmark = pytest.mark.slow


def limited(soft: int, hard: int) -> partial[None]:
    """Return what sets the limit of a process before it starts."""
    return partial(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("limit", "calls"), [(64, 60), (20, 200)])
def test_no_image_is_lost_to_the_limit_of_open_files(
    genbatch: Genbatch, serve: Serve, backend: str, limit: int, calls: int
) -> None:
    fake = serve(latency=0.2)
    write_prompts(limit)
    command = ["run", "prompts.txt", "-k", str(calls), "--backend", backend]
    done = genbatch(*command, preexec_fn=limited(limit, limit))
    assert done.returncode == 0, done.stderr
    assert "in flight: the limit of open files allows no more.\n" in done.stderr
    assert fake.stats.calls == fake.stats.images == len(images("genbatch-out")) == limit
    assert len(Path("genbatch-out/results.jsonl").read_text().splitlines()) == limit


def test_a_demo_has_room_for_both_ends_of_its_connections(genbatch: Genbatch) -> None:
    done = genbatch("demo", "-k", "20", preexec_fn=limited(40, 40))
    assert done.returncode == 0, done.stderr
    assert len(images("genbatch-demo")) == 20


def test_the_command_may_open_as_many_files_as_the_system_allows(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(latency=0.5)
    write_prompts(60)
    done = genbatch("run", "prompts.txt", "-k", "60", preexec_fn=limited(30, 512))
    assert done.returncode == 0, done.stderr
    assert "open files" not in done.stderr
    assert fake.stats.images == len(images("genbatch-out")) == 60
