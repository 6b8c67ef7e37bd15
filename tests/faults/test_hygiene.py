"""What is left behind by a batch that is left, through the real SDK over real HTTP: nothing."""

from __future__ import annotations

import base64
import gc
import logging
import os
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from genbatch import Failure, GeminiClient, collect, generate_images, stream
from genbatch.testing import (
    Call,
    FakeGemini,
    Fault,
    bad_base64,
    bad_key,
    broken_json,
    garbage,
    html_page,
    no_image,
    rate_limited,
    redirect,
    reset,
    short_body,
)

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


@pytest.mark.usefixtures("pauses")
async def test_no_record_of_a_run_shows_key_bytes_or_more_than_80_characters_of_a_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "canary-0123456789"
    words = " ".join(f"canary{number}" for number in range(60))
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)

    def fault(call: Call) -> Fault | None:
        echo = f"{call.prompt} {key}"
        error = {"error": {"message": echo, "details": [{"requestId": key}]}}
        faults = [
            None,
            Fault(status=400, body=error, headers={"x-request-id": key}),
            Fault(status=503, body=error),
            no_image(echo),
            no_image(echo, finish_reason=""),
            Fault(body=echo),
            Fault(body={"promptFeedback": {"blockReason": echo}}),
            *(bad_base64(), broken_json(), garbage(), html_page(502), reset(), short_body()),
            None,
            redirect(f"http://127.0.0.2/?key={key}"),
            bad_key(key),
        ]
        return rate_limited(0.01) if call.number == 1 else faults[int(call.prompt.split()[0])]

    prompts = [f"{number} {words}" for number in range(16)]
    async with (
        FakeGemini(image_size=32, faults=fault) as server,
        GeminiClient(key, base_url=server.url, max_retries=1) as client,
        generate_images(client, prompts, save_dir=tmp_path, max_concurrent=3) as outcomes,
    ):
        saved = [o.unwrap() async for o in outcomes if not isinstance(o, Failure)]
    images = await anyio.to_thread.run_sync(lambda: [each.data for each in saved])
    assert len(images) == 2
    shown = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    for told in ("another in", "no call starts", "may have been paid", "the run stops", "saved"):
        assert told in shown
    assert key not in shown
    assert not any(words[start : start + 81] in shown for start in range(len(words) - 80))
    for image in images:
        assert base64.b64encode(image)[:24].decode() not in shown
        assert repr(image[16:32])[2:-1] not in shown
