"""Waiting is not running, and a batch that drains waits for nothing but the calls in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import count

import anyio
import pytest
from anyio import CapacityLimiter, Event, create_task_group, wait_all_tasks_blocked

from genbatch import Failure, Outcome, Stopped, Success, collect, stream
from genbatch._core import Workers, open_stream, waiting
from support import virtual

pytestmark = pytest.mark.anyio
in_virtual_time = pytest.mark.parametrize("backend", virtual.BACKENDS)


async def test_a_call_that_waits_is_not_in_flight() -> None:
    turn, end = Event(), Event()

    async def generate(prompt: int) -> int:
        if prompt:
            with waiting():
                await turn.wait()
        await end.wait()
        return prompt

    async with stream(generate, range(3), max_concurrent=3) as outcomes:
        await wait_all_tasks_blocked()
        now = outcomes.progress
        assert (now.started, now.in_flight, now.waiting) == (3, 1, 2)
        assert str(now) == "0/3 done, 2 waiting, 0 %"
        turn.set()
        await wait_all_tasks_blocked()
        assert (outcomes.progress.in_flight, outcomes.progress.waiting) == (3, 0)
        end.set()
        assert {outcome.index async for outcome in outcomes} == {0, 1, 2}


async def test_waiting_is_no_part_of_elapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    for module in ("_waiting", "_workers"):
        monkeypatch.setattr(f"genbatch._core.{module}.perf_counter", lambda: float(next(ticks)))

    async def generate(prompt: int) -> int:
        next(ticks)
        for _ in range(prompt):
            with waiting():
                for _ in range(100):
                    next(ticks)
        return prompt

    async def fail(prompt: int) -> int:
        raise ValueError(await generate(prompt))

    waited = await collect(generate, [3, 0], max_concurrent=1)
    assert [outcome.elapsed for outcome in waited] == [5.0, 2.0]  # 3 more to read the clock itself
    failed = await collect(fail, [3, 0], max_concurrent=1)
    assert [outcome.elapsed for outcome in failed] == [5.0, 2.0]


async def test_waiting_outside_a_batch_is_just_waiting() -> None:
    with waiting():
        await anyio.lowlevel.checkpoint()


async def test_waiting_inside_a_nested_batch_is_that_batchs() -> None:
    turn = Event()

    async def wait(prompt: int) -> int:
        with waiting():
            await turn.wait()
        return prompt

    async def nest(prompt: int) -> list[Outcome[int, int]]:
        return await collect(wait, range(prompt))

    async with stream(nest, [2]) as outcomes:
        await wait_all_tasks_blocked()
        assert (outcomes.progress.in_flight, outcomes.progress.waiting) == (1, 0)
        turn.set()
        assert [len(outcome.unwrap()) async for outcome in outcomes] == [2]


@pytest.mark.parametrize("ordered", [False, True])
async def test_draining_drops_what_waits_and_hands_over_what_runs(ordered: bool) -> None:
    never, end = Event(), Event()
    called: list[int] = []

    async def generate(prompt: int) -> int:
        called.append(prompt)
        if prompt == 1:
            with waiting():
                await never.wait()
        await end.wait()
        return prompt

    async with stream(generate, count(), max_concurrent=3, ordered=ordered) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        await wait_all_tasks_blocked()
        assert (outcomes.progress.in_flight, outcomes.progress.waiting) == (2, 0)
        end.set()
        ended = {outcome.index: outcome async for outcome in outcomes}
    assert sorted(called) == sorted(ended) == [0, 1, 2]
    assert isinstance(ended[0], Success)
    assert isinstance(ended[2], Success)
    assert isinstance(ended[1], Failure)
    assert isinstance(ended[1].error, Stopped)
    assert outcomes.progress.total == 3


async def test_a_call_that_would_wait_after_draining_is_dropped_too() -> None:
    begin = Event()

    async def generate(prompt: int) -> int:
        await begin.wait()
        with waiting():
            pytest.fail("waits although the batch drains")
        return prompt

    async with stream(generate, range(1)) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        begin.set()
        ended = [outcome async for outcome in outcomes]
    assert isinstance(ended[0], Failure)
    assert isinstance(ended[0].error, Stopped)


@pytest.mark.parametrize("ordered", [False, True])
async def test_draining_drops_what_waits_for_a_shared_limiter(ordered: bool) -> None:
    limiter, another, end = CapacityLimiter(2), object(), Event()
    limiter.acquire_on_behalf_of_nowait(another)
    called: list[int] = []

    async def generate(prompt: int) -> int:
        called.append(prompt)
        await end.wait()
        return prompt

    async with stream(
        generate, count(), max_concurrent=3, limiter=limiter, ordered=ordered
    ) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        await wait_all_tasks_blocked()
        now = outcomes.progress
        assert (now.started, now.in_flight, now.waiting, now.failed) == (3, 1, 0, 2)
        end.set()
        ended = {outcome.index: outcome async for outcome in outcomes}
    assert called == [0]
    assert ended[0].unwrap() == 0
    for index in (1, 2):
        with pytest.raises(Stopped):
            ended[index].unwrap()
    assert limiter.borrowed_tokens == 1


async def test_a_token_that_comes_as_the_batch_drains_is_given_back() -> None:
    limiter, another = CapacityLimiter(1), object()
    limiter.acquire_on_behalf_of_nowait(another)

    async def generate(prompt: int) -> int:
        pytest.fail("called")

    async with stream(generate, range(3), max_concurrent=3, limiter=limiter) as outcomes:
        await wait_all_tasks_blocked()
        limiter.release_on_behalf_of(another)
        outcomes.drain()
        ended = [outcome async for outcome in outcomes]
    assert len(ended) == 3
    assert limiter.borrowed_tokens == 0


async def test_with_fail_fast_draining_cancels_no_call_in_flight() -> None:
    limiter, never, end = CapacityLimiter(2), Event(), Event()

    async def generate(prompt: int) -> int:
        if prompt:
            with waiting():
                await never.wait()
        await end.wait()
        return prompt

    async with stream(
        generate, range(3), max_concurrent=3, limiter=limiter, fail_fast=True
    ) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        await wait_all_tasks_blocked()
        end.set()
        ended = {outcome.index: type(outcome) async for outcome in outcomes}
    assert ended == {0: Success, 1: Failure, 2: Failure}


async def test_draining_wakes_workers_that_wait_for_room() -> None:
    async def generate(prompt: int) -> int:
        return prompt

    async with stream(generate, count(), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        assert len([outcome async for outcome in outcomes]) == 4


class Trickle:
    """An asynchronous source that stands still after two prompts, and notes how it was closed."""

    def __init__(self) -> None:
        self.pulled = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        self.pulled += 1
        if self.pulled > 2:
            await anyio.sleep_forever()
        return self.pulled

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


async def echo(prompt: int) -> int:
    return prompt


async def test_draining_does_not_wait_for_a_source_that_stands_still() -> None:
    source = Trickle()
    async with stream(echo, source, max_concurrent=5) as outcomes:
        assert {await outcomes.receive(), await outcomes.receive()}
        await wait_all_tasks_blocked()
        outcomes.drain()
        assert [outcome async for outcome in outcomes] == []
    assert source.closed


async def test_draining_closes_a_source_that_is_not_asked() -> None:
    closed, hold = Event(), Event()
    pulled: list[int] = []

    async def source() -> AsyncIterator[int]:
        async with create_task_group() as tasks:  # which must be left where it was entered
            tasks.start_soon(anyio.sleep_forever)
            try:
                for number in count():
                    pulled.append(number)
                    yield number
            finally:
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
                closed.set()

    async def generate(prompt: int) -> int:
        await hold.wait()
        return prompt

    async with stream(generate, source(), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        await closed.wait()
        hold.set()
        assert len([outcome async for outcome in outcomes]) == 2
        assert outcomes.progress.total == 2
    assert pulled == [0, 1]  # asked for no prompt that no worker wants


async def test_a_prompt_that_comes_as_the_batch_drains_is_stopped() -> None:
    come = Event()

    async def source() -> AsyncIterator[int]:
        await come.wait()
        yield 0

    async def generate(prompt: int) -> int:
        pytest.fail("called")

    async with stream(generate, source()) as outcomes:
        await wait_all_tasks_blocked()
        come.set()
        outcomes.drain()
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, Stopped)
    assert (outcome.index, outcome.prompt) == (0, 0)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("ends", ["whole", "drained", "broken"])
async def test_a_source_tells_whether_it_was_read_to_its_end(asynchronous: bool, ends: str) -> None:
    def plain() -> Iterator[int]:
        yield from range(9)
        if ends == "broken":
            raise KeyError("source")

    async def slow() -> AsyncIterator[int]:
        for number in plain():
            yield number

    workers = Workers(echo, slow() if asynchronous else plain(), 2, None, False)
    async with open_stream(workers, ordered=False) as outcomes:
        assert not workers.source.read_to_end
        if ends == "drained":
            outcomes.drain()
        with suppress(KeyError):
            async for _ in outcomes:
                pass
    assert workers.source.read_to_end == (ends == "whole")


@in_virtual_time
@pytest.mark.parametrize("seed", range(20))
def test_every_prompt_called_has_its_outcome_whenever_the_batch_drains(
    backend: str, seed: int
) -> None:
    async def main() -> None:
        called: list[int] = []

        async def generate(prompt: int) -> int:
            called.append(prompt)
            with waiting():
                await anyio.sleep(prompt % 3)
            await anyio.sleep(prompt % 2)
            return prompt

        async def source() -> AsyncIterator[int]:
            for number in count():
                await anyio.sleep(number % 2)
                yield number

        prompts = source() if seed % 2 else count()
        async with stream(generate, prompts, max_concurrent=4) as outcomes:
            async with create_task_group() as tasks:

                async def drain() -> None:
                    await anyio.sleep(seed / 2)
                    outcomes.drain()

                tasks.start_soon(drain)
                indexes = [outcome.index async for outcome in outcomes]
        assert sorted(indexes) == sorted(called)

    virtual.run(backend, main, seed=seed)
