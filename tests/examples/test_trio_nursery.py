"""The trio program: prompts over a channel, images beside other tasks, and nothing left behind."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

import trio_nursery
from genbatch import GeminiClient
from genbatch.testing import FakeGemini
from support.backends import only_trio, until

pytestmark = [pytest.mark.anyio, only_trio]


@asynccontextmanager
async def fake_and_client(latency: float = 0.0) -> AsyncIterator[tuple[FakeGemini, GeminiClient]]:
    async with (
        FakeGemini(image_size=8, latency=latency) as fake,
        GeminiClient("a-key", base_url=fake.url) as client,
    ):
        yield fake, client


async def test_every_prompt_that_comes_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trio_nursery, "ANIMALS", ["a fox"])
    async with fake_and_client() as (fake, client):
        await trio_nursery.main(client)
        places = trio_nursery.PLACES
        assert sorted(call.prompt for call in fake.calls) == sorted(f"a fox {at}" for at in places)
    shown = capsys.readouterr().out
    assert shown.count(" bytes\n") == len(places)
    assert shown.endswith("All drawn.\n")


async def test_images_are_drawn_while_prompts_still_come() -> None:
    async with fake_and_client() as (fake, client), trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[str](0)
        nursery.start_soon(trio_nursery.draw, client, receive)
        await send.send("a fox")
        await until(lambda: fake.stats.images == 1)
        await send.send("an owl")
        await until(lambda: fake.stats.images == 2)
        await send.aclose()


async def test_at_the_deadline_the_calls_in_flight_are_cancelled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deadline = trio.CancelScope()
    monkeypatch.setattr(trio, "move_on_after", lambda seconds: deadline)
    async with fake_and_client(latency=math.inf) as (fake, client), trio.open_nursery() as nursery:
        nursery.start_soon(trio_nursery.main, client)
        await until(lambda: fake.stats.in_flight == 4)
        deadline.cancel()
        await until(lambda: fake.stats.in_flight == 0)
    assert capsys.readouterr().out.endswith("Time is up.\n")
