"""outcomes.limiter: the batch's own CapacityLimiter, which may be resized while it runs."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter, Event, create_task_group, to_thread, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Stopped, Success, collect, stream

pytestmark = pytest.mark.anyio


class Calls:
    """A generate whose calls end when told, and how many run."""

    def __init__(self) -> None:
        self.running = 0
        self.peak = 0
        self._end = Event()

    async def generate(self, prompt: int) -> int:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self._end.wait()
            await checkpoint()
        finally:
            self.running -= 1
        return prompt

    def end(self) -> None:
        """End the calls that run now."""
        self._end.set()
        self._end = Event()


async def test_the_limiter_has_max_concurrent_tokens_and_each_call_holds_one() -> None:
    calls, shared = Calls(), CapacityLimiter(3)
    async with stream(calls.generate, count(), max_concurrent=4, limiter=shared) as outcomes:
        assert isinstance(outcomes.limiter, CapacityLimiter)
        assert outcomes.limiter is not shared
        assert outcomes.limiter.total_tokens == 4
        await wait_all_tasks_blocked()
        assert calls.running == shared.borrowed_tokens == 3
        shared.total_tokens = 10
        await wait_all_tasks_blocked()
        assert calls.running == outcomes.limiter.borrowed_tokens == 4
        assert outcomes.limiter.available_tokens == 0
    assert outcomes.limiter.borrowed_tokens == shared.borrowed_tokens == 0


async def test_more_tokens_start_more_calls_at_once() -> None:
    calls = Calls()
    async with stream(calls.generate, count(), max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        assert calls.running == 1
        outcomes.limiter.total_tokens = 20
        await wait_all_tasks_blocked()
        assert calls.running == 20


async def test_fewer_tokens_let_those_that_run_finish() -> None:
    calls = Calls()
    async with stream(calls.generate, range(60), max_concurrent=20) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 3
        await wait_all_tasks_blocked()
        assert calls.running == 20
        calls.end()
        seen = [await outcomes.receive() for _ in range(20)]
        await wait_all_tasks_blocked()
        assert calls.running == 3
        calls.peak = 0
        while len(seen) < 60:
            calls.end()
            await wait_all_tasks_blocked()
            seen += [await outcomes.receive() for _ in range(3 if len(seen) < 59 else 1)]
    assert calls.peak == 3
    assert sorted(outcome.unwrap() for outcome in seen) == list(range(60))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_no_tokens_are_a_pause_and_more_go_on(asynchronous: bool) -> None:
    calls = Calls()

    async def prompts() -> AsyncIterator[int]:
        for prompt in range(9):
            yield prompt

    source: Any = prompts() if asynchronous else range(9)
    async with stream(calls.generate, source, max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 0
        calls.end()
        seen = [await outcomes.receive() for _ in range(2)]
        await wait_all_tasks_blocked()
        assert calls.running == outcomes.progress.in_flight == 0
        assert outcomes.progress.started == 2
        outcomes.limiter.total_tokens = 9
        await wait_all_tasks_blocked()
        assert calls.running == 7
        calls.end()
        seen += [outcome async for outcome in outcomes]
    assert sorted(outcome.unwrap() for outcome in seen) == list(range(9))


async def test_a_paused_batch_can_be_drained_and_left() -> None:
    calls = Calls()
    async with stream(calls.generate, count()) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 0
        calls.end()
        await wait_all_tasks_blocked()
        outcomes.drain()
        assert len([outcome async for outcome in outcomes]) == 5
    async with stream(calls.generate, count()) as outcomes:
        outcomes.limiter.total_tokens = 0


async def test_infinitely_many_tokens_count_as_a_thousand() -> None:
    calls = Calls()
    async with stream(calls.generate, count(), max_concurrent=1) as outcomes:
        outcomes.limiter.total_tokens = math.inf
        await wait_all_tasks_blocked()
        assert calls.running == 1_000


async def test_twice_the_present_total_is_pulled_ahead() -> None:
    pulled = 0

    def prompts() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    async def generate(prompt: int) -> int:
        return prompt

    async with stream(generate, prompts(), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        assert pulled == 4
        outcomes.limiter.total_tokens = 10
        await wait_all_tasks_blocked()
        assert pulled == 20
        outcomes.limiter.total_tokens = 3
        for _ in range(17):
            await outcomes.receive()
        await wait_all_tasks_blocked()
        assert pulled - 17 <= 6
        for _ in range(100):
            await outcomes.receive()
        await wait_all_tasks_blocked()
        assert pulled - 117 == 6


async def test_tokens_that_others_hold_are_not_there_for_calls() -> None:
    calls = Calls()
    async with stream(calls.generate, range(9), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        async with create_task_group() as group:
            got = Event()

            async def hold() -> None:
                async with outcomes.limiter:
                    got.set()
                    await anyio.sleep_forever()

            group.start_soon(hold)
            await wait_all_tasks_blocked()
            assert not got.is_set()
            calls.end()
            await got.wait()
            await wait_all_tasks_blocked()
            assert calls.running == 1
            group.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert calls.running == 2


async def test_draining_drops_a_worker_that_waits_for_a_token() -> None:
    calls = Calls()
    async with stream(calls.generate, count(), max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        async with create_task_group() as group:

            async def hold() -> None:
                async with outcomes.limiter:
                    await anyio.sleep_forever()

            group.start_soon(hold)
            await wait_all_tasks_blocked()
            calls.end()
            await wait_all_tasks_blocked()
            outcomes.drain()
            assert [outcome.unwrap() async for outcome in outcomes] == [0]
            group.cancel_scope.cancel()


async def test_a_reader_may_use_the_limiter_of_its_batch() -> None:
    async def generate(prompt: int) -> int:
        await checkpoint()
        return prompt

    async with stream(generate, range(30), max_concurrent=1) as outcomes:
        async for outcome in outcomes:
            async with outcomes.limiter:
                assert await to_thread.run_sync(int, outcome.index) == outcome.index


@pytest.mark.parametrize(("total", "error"), [(-1, ValueError), (1.5, TypeError)])
async def test_a_bad_total_is_refused_and_changes_nothing(
    total: float, error: type[Exception]
) -> None:
    calls = Calls()
    async with stream(calls.generate, count(), max_concurrent=3) as outcomes:
        with pytest.raises(error):
            outcomes.limiter.total_tokens = total
        await wait_all_tasks_blocked()
        assert outcomes.limiter.total_tokens == calls.running == 3


async def test_resizing_after_the_end_starts_nothing() -> None:
    calls = Calls()
    async with stream(calls.generate, count()) as outcomes:
        await wait_all_tasks_blocked()
    outcomes.limiter.total_tokens = 50
    await wait_all_tasks_blocked()
    assert calls.running == 0
    assert outcomes.progress.started == 5


async def test_draining_stops_a_prompt_that_a_worker_was_to_take_in_a_pause() -> None:
    come = Event()

    async def prompts() -> AsyncIterator[int]:
        await come.wait()
        yield 0
        await anyio.sleep_forever()

    async def generate(prompt: int) -> int:
        raise AssertionError("called")

    async with stream(generate, prompts(), max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 0
        come.set()
        await wait_all_tasks_blocked()
        assert outcomes.progress.started == 0
        outcomes.drain()
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, Stopped)


async def test_a_batch_with_a_limiter_of_its_own_collects() -> None:
    async def generate(prompt: int) -> int:
        await checkpoint()
        return prompt

    assert await collect(generate, range(5)) == [Success(n, n, n) for n in range(5)]


@pytest.mark.parametrize("seed", range(20))
async def test_both_limiters_may_be_resized_at_any_moment(seed: int) -> None:
    """Calls wait for either then, and none of them for another that waits for it."""
    pick = random.Random(seed)
    shared = CapacityLimiter(1)
    running = 0

    async def generate(prompt: int) -> int:
        nonlocal running
        running += 1
        assert running <= shared.borrowed_tokens
        for _ in range(5):
            await checkpoint()
        running -= 1
        return prompt

    async def resize() -> None:
        for _ in range(12):
            for _ in range(pick.randrange(10)):
                await checkpoint()
            pick.choice([outcomes.limiter, shared]).total_tokens = pick.choice([0, 1, 1, 2, 6])
        outcomes.limiter.total_tokens = shared.total_tokens = 3

    async with stream(generate, range(40), max_concurrent=6, limiter=shared) as outcomes:
        async with create_task_group() as group:
            group.start_soon(resize)
            with anyio.fail_after(30):
                seen = [outcome.unwrap() async for outcome in outcomes]
        assert sorted(seen) == list(range(40))
    assert shared.borrowed_tokens == outcomes.limiter.borrowed_tokens == 0


async def test_a_call_that_waits_for_the_shared_limiter_does_not_start_in_a_pause() -> None:
    calls, shared = Calls(), CapacityLimiter(1)
    async with stream(calls.generate, range(2), max_concurrent=2, limiter=shared) as outcomes:
        await wait_all_tasks_blocked()
        assert calls.running == 1
        outcomes.limiter.total_tokens = 0
        calls.end()
        assert (await outcomes.receive()).unwrap() == 0
        await wait_all_tasks_blocked()
        assert calls.running == shared.borrowed_tokens == 0
        outcomes.limiter.total_tokens = 1
        await wait_all_tasks_blocked()
        assert calls.running == 1


async def test_the_limiter_knows_how_many_wait_for_it_so_that_workers_let_go() -> None:
    async with stream(Calls().generate, [], max_concurrent=1) as outcomes:
        limiter = outcomes.limiter
        assert [outcome async for outcome in outcomes] == []  # or a worker would wait too
        async with limiter, create_task_group() as group:
            group.start_soon(limiter.acquire)
            group.start_soon(limiter.acquire_on_behalf_of, object())
            await wait_all_tasks_blocked()
            # 3 where anyio's acquire calls the other method.
            assert limiter._waiting in (2, 3)  # type: ignore[attr-defined]
            group.cancel_scope.cancel()
        assert limiter._waiting == 0  # type: ignore[attr-defined]
