"""How soon a cancellation is noticed by a batch in which nothing ever blocks."""

from __future__ import annotations

from itertools import count

import pytest
from anyio import CancelScope, create_task_group
from anyio.lowlevel import checkpoint

from genbatch import collect, stream

pytestmark = pytest.mark.anyio

SOME_HUNDRED = 400  # some rounds of 64 calls


class Calls:
    """A generate that returns at once and counts its calls after a cancellation."""

    def __init__(self) -> None:
        self.before = self.after = 0
        self.scope = CancelScope()

    async def generate(self, prompt: int) -> int:
        if self.scope.cancel_called:
            self.after += 1
            assert self.after <= 100_000, "the cancellation is not noticed at all"
        else:
            self.before += 1
            assert self.before <= 1_000_000, "no other task gets to run"
        return prompt

    async def cancel(self, checkpoints: int) -> None:
        for _ in range(checkpoints):
            await checkpoint()
        self.scope.cancel()


@pytest.mark.parametrize("max_concurrent", [5, 1000])
@pytest.mark.parametrize("checkpoints", [1, 5, 50])
@pytest.mark.parametrize("way", ["collect", "stream", "ordered"])
async def test_a_cancellation_is_noticed_within_a_round_or_two(
    max_concurrent: int, checkpoints: int, way: str
) -> None:
    calls = Calls()
    async with create_task_group() as group:
        group.start_soon(calls.cancel, checkpoints)
        with calls.scope:
            if way == "collect":
                await collect(calls.generate, count(), max_concurrent=max_concurrent)
            else:
                async with stream(
                    calls.generate,
                    count(),
                    max_concurrent=max_concurrent,
                    ordered=way == "ordered",
                ) as outcomes:
                    async for _ in outcomes:
                        pass
    assert calls.scope.cancelled_caught
    # In a round of the event loop, the workers make 64 calls together and then one each.
    assert calls.after <= SOME_HUNDRED + max_concurrent
