"""Hazards of cancellation and errors around the core, each of which once went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from anyio import CapacityLimiter, create_task_group

from genbatch import Failure, collect, stream
from support import virtual
from support.backends import foreign_cancellation, only_asyncio, only_trio

pytestmark = pytest.mark.anyio


async def double(prompt: int) -> int:
    return prompt * 2


# Cancellations that strike a worker alone


async def test_a_cancellation_out_of_a_synchronous_source_does_not_end_the_batch_short() -> None:
    cancellation = await foreign_cancellation()

    def source() -> Iterator[int]:
        yield from range(4)
        raise cancellation

    with pytest.raises(RuntimeError, match="prompts raised a cancellation"):
        await collect(double, source(), max_concurrent=2)


@only_asyncio
@pytest.mark.parametrize("max_concurrent", [1, 3])
@pytest.mark.parametrize("tokens", [None, 1])
async def test_a_task_cancelled_as_its_call_returns_is_replaced(
    max_concurrent: int, tokens: int | None
) -> None:
    async def generate(prompt: int) -> int:
        if prompt % 5 == 4:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # strikes at the worker's next await, outside any call
        if prompt % 3 == 0:
            await asyncio.sleep(0)
        return prompt

    limiter = CapacityLimiter(tokens) if tokens else None
    outcomes = await collect(generate, range(300), max_concurrent=max_concurrent, limiter=limiter)
    assert [outcome.index for outcome in outcomes] == list(range(300))
    if limiter:
        assert limiter.borrowed_tokens == 0


@only_asyncio
async def test_a_late_watchdog_cannot_take_a_worker_that_waits_for_the_limiter() -> None:
    limiter = CapacityLimiter(1)
    watched: list[asyncio.Task[Any]] = []

    async def generate(prompt: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        watched.append(task)
        await asyncio.sleep(0)
        return prompt

    async with stream(generate, range(20), limiter=limiter) as outcomes:
        seen = [await outcomes.receive()]
        async with limiter:
            await anyio.wait_all_tasks_blocked()  # the workers wait for the token
            for task in watched:
                task.cancel()
            await anyio.wait_all_tasks_blocked()
        seen += [outcome async for outcome in outcomes]
    assert sorted(outcome.index for outcome in seen) == list(range(20))
    assert limiter.borrowed_tokens == 0


@only_asyncio
async def test_no_later_prompt_runs_in_a_task_that_was_cancelled() -> None:
    async def generate(prompt: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        remembered = task.cancelling()
        if prompt == 1:
            task.cancel()
            await asyncio.sleep(0)
        return remembered

    outcomes = await collect(generate, range(5), max_concurrent=1)
    assert isinstance(outcomes[1], Failure)
    assert [outcome.unwrap() for outcome in outcomes if outcome.index != 1] == [0] * 4


# Errors of the block and exits


async def test_an_error_of_the_block_that_is_false_is_not_lost() -> None:
    class Errors(Exception):
        def __len__(self) -> int:
            return 0

    with pytest.raises(Errors):
        async with stream(double, range(3)):
            raise Errors

    def source() -> Iterator[int]:
        yield 1
        raise Errors

    with pytest.raises(Errors):
        await collect(double, source())


class Stop(BaseException):
    """Neither an Exception nor an exit, as pytest's own are."""


@pytest.mark.parametrize("error", [Stop, GeneratorExit])
async def test_any_error_of_the_block_arrives_bare(error: type[BaseException]) -> None:
    with pytest.raises(error):
        async with stream(double, range(3)):
            raise error


@pytest.mark.parametrize("own", [KeyError, KeyboardInterrupt, Stop])
async def test_an_error_of_the_block_survives_a_cancellation_around_it(
    own: type[BaseException],
) -> None:
    with pytest.raises(own, match="mine"), anyio.CancelScope() as scope:
        async with stream(double, range(3)):
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            raise own("mine")


@pytest.mark.parametrize("collecting", [True, False])
async def test_what_a_call_raises_that_is_no_exception_arrives_bare(collecting: bool) -> None:
    async def generate(prompt: int) -> None:
        if prompt == 1:
            raise Stop
        await anyio.sleep_forever()

    with pytest.raises(Stop), anyio.fail_after(30):
        if collecting:
            await collect(generate, range(3))
        else:
            async with stream(generate, range(3)) as outcomes:
                await outcomes.receive()


async def test_an_exit_inside_a_task_group_of_a_call_is_grouped_once() -> None:
    async def generate(prompt: int) -> None:
        async with create_task_group():
            raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as info:
        async with stream(generate, range(3)):
            await anyio.sleep_forever()
    assert [type(error) for error in info.value.exceptions] == [KeyboardInterrupt]


@only_trio
async def test_an_exit_out_of_a_call_is_not_lost_in_a_nursery_of_the_block() -> None:
    async def generate(prompt: int) -> None:
        await anyio.wait_all_tasks_blocked()
        raise SystemExit(5)

    with pytest.raises(SystemExit) as info:
        async with stream(generate, range(3)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
    assert info.value.code == 5


@only_trio
async def test_cancelling_a_block_with_a_nursery_stays_inside_its_scope() -> None:
    with anyio.CancelScope() as scope:
        async with stream(double, range(3)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
    assert scope.cancelled_caught


@pytest.mark.parametrize("collecting", [True, False])
async def test_an_exit_in_the_cleanup_of_a_call_survives_a_cancellation(collecting: bool) -> None:
    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise SystemExit(3)

    async with create_task_group() as group:
        with pytest.raises(SystemExit), anyio.CancelScope() as scope:
            group.start_soon(cancel_when_idle, scope)
            if collecting:
                await collect(generate, [1])
            else:
                async with stream(generate, [1]) as outcomes:
                    await outcomes.receive()


async def cancel_when_idle(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


# Leaving waits


@pytest.mark.parametrize("way", ["aclose", "leave"])
async def test_leaving_waits_for_cleanup_of_many_steps(way: str) -> None:
    steps = 0

    async def generate(prompt: int) -> None:
        nonlocal steps
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                    steps += 1

    async with stream(generate, range(2), max_concurrent=2) as outcomes:
        await anyio.wait_all_tasks_blocked()
        if way == "aclose":
            await outcomes.aclose()
            assert steps == 40
    assert steps == 40


# Sources


class Lengthless:
    """Has a length in name only, as a loader over a stream does."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        raise self.error

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize("error", [TypeError, OverflowError, NotImplementedError])
async def test_prompts_need_not_know_their_number(error: type[Exception]) -> None:
    async with stream(double, Lengthless(error), max_concurrent=1) as outcomes:
        assert outcomes.progress.total is None
        assert len([outcome async for outcome in outcomes]) == 3


async def test_a_range_longer_than_any_list_is_a_source() -> None:
    async with stream(double, range(10**20)) as outcomes:
        assert (await outcomes.receive()).index == 0


async def test_prompts_that_arrive_one_by_one_are_each_answered() -> None:
    send, receive = anyio.create_memory_object_stream[int]()

    async def generate(prompt: int) -> int:
        return prompt

    async with send, stream(generate, receive, max_concurrent=50) as outcomes:
        for prompt in range(60):
            await send.send(prompt)
            assert (await outcomes.receive()).unwrap() == prompt
        await send.aclose()
        with pytest.raises(anyio.EndOfStream):
            await outcomes.receive()


@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_a_source_that_hangs_while_it_closes_is_given_five_seconds(backend: str) -> None:
    closing: list[float] = []

    async def source() -> AsyncIterator[int]:
        try:
            for prompt in range(100):
                yield prompt
        finally:
            closing.append(anyio.current_time())
            await anyio.sleep_forever()

    async def main() -> float:
        async with stream(double, source()) as outcomes:
            await outcomes.receive()
            await anyio.sleep(1)
        return anyio.current_time() - closing[0]

    assert virtual.run(backend, main) == pytest.approx(5.0)
