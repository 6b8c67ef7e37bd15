"""A trio program that draws images in its nursery, beside its other tasks.

Shows genbatch under plain ``trio.run``: prompts come over a trio channel, one by one, while the
images of earlier ones are being made, and a deadline of trio's own ends it all, cleanly.
"""

from __future__ import annotations

import trio

from genbatch import Failure, GeminiClient, Image, OutcomeStream, Success, stream
from genbatch.testing import FakeGemini

ANIMALS = ["a fox", "an owl", "an otter", "a hedgehog"]
PLACES = ["in the snow", "by candlelight", "on a bicycle", "at the opera", "in the fog"]


async def imagine(prompts: trio.MemorySendChannel[str]) -> None:
    """Think of prompts, one every now and then."""
    async with prompts:  # closing the channel ends the batch
        for animal in ANIMALS:
            for place in PLACES:
                await prompts.send(f"{animal} {place}")
                await trio.sleep(0.1)


async def report(outcomes: OutcomeStream[str, Image], every: float) -> None:
    """Say how far it is, until cancelled."""
    while True:
        await trio.sleep(every)
        print(outcomes.progress)


async def draw(client: GeminiClient, prompts: trio.MemoryReceiveChannel[str]) -> None:
    """Draw what comes over the channel, at most four images at once."""
    async with (
        stream(client.generate_image, prompts, max_concurrent=4) as outcomes,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(report, outcomes, 0.5)
        async for outcome in outcomes:
            match outcome:
                case Success(_, prompt, image):
                    print(f"{prompt}: {len(image.data):,} bytes")
                case Failure(_, prompt, error):
                    print(f"{prompt}: {error}")
        nursery.cancel_scope.cancel()


async def main(client: GeminiClient, seconds: float = 30.0) -> None:
    """Imagine and draw side by side, for a while."""
    send, receive = trio.open_memory_channel[str](0)
    with trio.move_on_after(seconds) as deadline:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(imagine, send)
            nursery.start_soon(draw, client, receive)
    print("Time is up." if deadline.cancelled_caught else "All drawn.")


async def demo() -> None:
    """Draw with a fake of Gemini; with a key, ``GeminiClient()`` is all it takes."""
    async with (
        FakeGemini(latency=0.5) as fake,
        GeminiClient("any-key", base_url=fake.url) as client,
    ):
        await main(client)


if __name__ == "__main__":
    trio.run(demo)
