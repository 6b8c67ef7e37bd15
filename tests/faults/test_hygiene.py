"""What is left behind by a batch that is left, through the real SDK over real HTTP: nothing."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import anyio
import pytest

from genbatch import Failure, GeminiClient, collect, generate_images, stream
from genbatch.testing import FakeGemini, Fault

pytestmark = pytest.mark.anyio
PROMPTS = [f"prompt {index}" for index in range(40)]


def descriptors() -> set[str]:
    """Return what this process has open: files and sockets, each by its inode."""
    gc.collect()
    directory = Path("/proc/self/fd")
    return {os.readlink(path) for path in directory.iterdir() if path.is_symlink()}


def running_tasks() -> set[int]:
    """Return the tasks that run now, by their ids: anyio lists them in no order."""
    return {task.id for task in anyio.get_running_tasks()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("way", ["break", "error", "cancel"])
async def test_leaving_after_the_first_outcome_leaves_nothing(way: str, tmp_path: Path) -> None:
    tasks = running_tasks()
    async with FakeGemini(latency=0.01, image_size=32) as server:
        before = descriptors()
        serving = running_tasks()
        async with GeminiClient("a-key", base_url=server.url) as client:
            try:
                with anyio.CancelScope() as scope:
                    async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
                        await outcomes.receive()
                        if way == "error":
                            raise KeyError("mine")
                        if way == "cancel":
                            scope.cancel()
                            await anyio.sleep_forever()
            except KeyError:
                assert way == "error"
        assert server.stats.calls <= 11
        while running_tasks() != serving:  # the server's, seeing that the client has gone
            await anyio.lowlevel.checkpoint()
        assert descriptors() <= before
    assert running_tasks() == tasks


async def test_one_failing_call_leaves_the_others_and_fail_fast_cancels_them() -> None:
    def fault(call: object) -> Fault | None:
        return Fault(status=400) if call.prompt == "prompt 7" else None  # type: ignore[attr-defined]

    async with (
        FakeGemini(faults=fault, image_size=16) as server,
        GeminiClient("a-key", base_url=server.url) as client,
    ):
        outcomes = await collect(client.generate_image, PROMPTS)
        assert [outcome.index for outcome in outcomes if isinstance(outcome, Failure)] == [7]
        before = server.stats.calls
        with pytest.raises(ExceptionGroup) as info:
            async with stream(client.generate_image, PROMPTS, fail_fast=True) as running:
                async for _ in running:
                    pass
        assert len(info.value.exceptions) == 1
        assert server.stats.calls - before < len(PROMPTS)
