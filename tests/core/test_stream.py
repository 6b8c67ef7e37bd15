"""What the promises of the core come to in single cases; tests/property has them at random."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from anyio import CapacityLimiter, Event, create_task_group

from genbatch import Failure, Outcome, Success, collect, stream
from support.backends import foreign_cancellation, only_asyncio, only_trio, until
from support.calls import HeldCalls

pytestmark = pytest.mark.anyio
setting: ContextVar[object] = ContextVar("setting", default="outside")


async def double(prompt: int) -> int:
    return prompt * 2


async def wait_until_idle() -> None:
    await anyio.wait_all_tasks_blocked()


# 1. Exactly one outcome


async def test_outcomes_arrive_as_calls_complete() -> None:
    gate = HeldCalls(factor=10)
    async with stream(gate.generate, range(3), max_concurrent=3) as outcomes:
        await wait_until_idle()
        for prompt in (2, 0, 1):
            gate.release(prompt)
            assert await outcomes.receive() == Success(prompt, prompt, prompt * 10)
        with pytest.raises(anyio.EndOfStream):
            await outcomes.receive()
        with pytest.raises(anyio.EndOfStream):
            await outcomes.receive()


async def test_ordered_hands_over_by_index() -> None:
    gate = HeldCalls(factor=10)
    async with stream(gate.generate, range(3), max_concurrent=3, ordered=True) as outcomes:
        gate.release(2, 1)
        await wait_until_idle()
        gate.release(0)
        assert [outcome.index async for outcome in outcomes] == [0, 1, 2]


async def test_ordered_calls_go_on_behind_a_slow_one_until_the_window_is_full() -> None:
    gate = HeldCalls(factor=10)
    gate.release(*range(1, 9))
    async with stream(gate.generate, range(9), max_concurrent=2, ordered=True) as outcomes:
        await wait_until_idle()
        assert gate.started == [0, 1, 2, 3]
        gate.release(0)
        assert [outcome.index async for outcome in outcomes] == list(range(9))


async def test_elapsed_is_the_time_of_the_call() -> None:
    (outcome,) = await collect(double, [1])
    assert outcome.elapsed > 0


async def test_a_cancellation_of_its_own_is_the_failure_of_its_prompt() -> None:
    async def generate(prompt: int) -> int:
        if prompt % 2:
            raise await foreign_cancellation()
        return prompt

    outcomes = await collect(generate, range(6), max_concurrent=2)
    assert [type(outcome) for outcome in outcomes] == [Success, Failure] * 3
    error = outcomes[1].error  # type: ignore[union-attr]
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, anyio.get_cancelled_exc_class())


async def test_a_group_of_cancellations_of_its_own_is_a_failure_too() -> None:
    async def generate(prompt: int) -> None:
        raise BaseExceptionGroup("nursery", [await foreign_cancellation()])

    (outcome,) = await collect(generate, [1])
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error.__cause__, BaseExceptionGroup)


@only_asyncio
async def test_awaiting_a_cancelled_asyncio_task_is_a_failure() -> None:
    async def generate(prompt: int) -> None:
        task = asyncio.ensure_future(anyio.sleep_forever())
        task.cancel()
        await task

    assert all(isinstance(outcome, Failure) for outcome in await collect(generate, range(20)))


async def test_a_failure_leaves_no_reference_cycle() -> None:
    class Error(Exception):  # one that a weak reference can be made to
        pass

    async def generate(prompt: int) -> None:
        raise Error(prompt)

    gc.collect()
    gc.disable()
    try:
        outcomes = await collect(generate, range(3))
        errors = [weakref.ref(outcome.error) for outcome in outcomes]  # type: ignore[union-attr]
        del outcomes
        assert [error() for error in errors] == [None] * 3
    finally:
        gc.enable()


# 2. The bound


async def test_the_smaller_of_both_bounds_wins() -> None:
    for max_concurrent, tokens in ((3, 5), (5, 3)):
        gate = HeldCalls(factor=10)
        limiter = CapacityLimiter(tokens)
        async with stream(
            gate.generate, range(20), max_concurrent=max_concurrent, limiter=limiter
        ) as outcomes:
            await wait_until_idle()
            assert len(gate.started) == 3
            assert outcomes.progress.in_flight == 3


async def test_lowering_the_limiter_lets_running_calls_finish() -> None:
    gate = HeldCalls(factor=10)
    limiter = CapacityLimiter(3)
    async with stream(gate.generate, range(6), limiter=limiter) as outcomes:
        await wait_until_idle()
        limiter.total_tokens = 1
        gate.release(0, 1)
        await wait_until_idle()
        assert gate.started == [0, 1, 2]
        gate.release(2)
        await wait_until_idle()
        assert len(gate.started) == 4
        limiter.total_tokens = 2
        await wait_until_idle()
        assert len(gate.started) == 5
        gate.release(3, 4, 5)
        assert len([outcome async for outcome in outcomes]) == 6
    assert gate.cancelled == []


async def test_batches_share_a_limiter() -> None:
    gate = HeldCalls(factor=10)
    limiter = CapacityLimiter(4)
    first = stream(gate.generate, range(10), limiter=limiter)
    second = stream(gate.generate, range(10, 20), limiter=limiter)
    async with first as outcomes, second as others:
        await wait_until_idle()
        assert len(gate.started) == 4
        gate.release(*range(20))
        assert len([outcome async for outcome in outcomes]) == 10
        assert len([outcome async for outcome in others]) == 10


# 3 and 4. Laziness and backpressure


async def test_at_most_twice_the_bound_is_pulled_ahead_of_the_reader() -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for prompt in range(100):
            pulled.append(prompt)
            yield prompt

    async with stream(double, source(), max_concurrent=3) as outcomes:
        await wait_until_idle()
        assert len(pulled) == 6
        for _ in range(3):
            await outcomes.receive()
        await wait_until_idle()
        assert len(pulled) == 9


async def test_an_endless_source_may_be_left() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    async with stream(double, endless()) as outcomes:
        async for outcome in outcomes:
            if outcome.index == 500:
                break


async def test_the_reader_may_use_the_limiter_of_the_calls() -> None:
    limiter = CapacityLimiter(1)
    async with stream(double, range(10), limiter=limiter) as outcomes:
        async for _ in outcomes:
            async with limiter:
                await anyio.lowlevel.checkpoint()


async def test_the_source_iterator_stays_the_callers() -> None:
    source = iter(range(100))
    async with stream(double, source, max_concurrent=1) as outcomes:
        await outcomes.receive()
    assert next(source) <= 3


# 5. Leaving


async def test_break_starts_no_further_call_and_cancels_those_in_flight() -> None:
    gate = HeldCalls(factor=10)
    gate.release(0)
    async with stream(gate.generate, range(40), max_concurrent=5) as outcomes:
        async for _ in outcomes:
            break
    assert len(gate.started) <= 11
    assert sorted(gate.cancelled) == gate.started[1:]


async def test_leaving_waits_for_the_cleanup_of_the_calls() -> None:
    cleaned = []

    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                cleaned.append(prompt)

    async with stream(generate, range(3)):
        await wait_until_idle()
    assert sorted(cleaned) == [0, 1, 2]


async def test_aclose_equals_leaving() -> None:
    gate = HeldCalls(factor=10)
    async with stream(gate.generate, range(9)) as outcomes:
        await wait_until_idle()
        await outcomes.aclose()
        assert sorted(gate.cancelled) == gate.started == [0, 1, 2, 3, 4]
        await outcomes.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
    assert outcomes.progress.in_flight == 0


async def test_a_call_may_close_its_own_stream() -> None:
    async def generate(prompt: int) -> None:
        await outcomes.aclose()

    async with stream(generate, range(9)) as outcomes:
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()


async def test_a_parked_reader_learns_that_the_block_was_left() -> None:
    gate = HeldCalls(factor=10)

    async def read(outcomes: Any) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()

    async with create_task_group() as group:
        async with stream(gate.generate, range(3)) as outcomes:
            group.start_soon(read, outcomes)
            await wait_until_idle()


async def test_a_reader_outside_a_cancelled_block_sees_no_normal_end() -> None:
    gate = HeldCalls(factor=10)
    seen: list[type[Exception]] = []

    async def read(outcomes: Any) -> None:
        try:
            await outcomes.receive()
        except Exception as exc:  # noqa: BLE001
            seen.append(type(exc))

    async with create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with stream(gate.generate, range(3)) as outcomes:
                group.start_soon(read, outcomes)
                await wait_until_idle()
                scope.cancel()
                await anyio.sleep_forever()
    assert seen == [anyio.ClosedResourceError]


async def test_outcomes_not_read_are_dropped() -> None:
    async with stream(double, range(9)) as outcomes:
        await wait_until_idle()
    with pytest.raises(anyio.ClosedResourceError):
        await outcomes.receive()


# 6. Failure


async def test_one_failure_leaves_the_other_successes() -> None:
    async def generate(prompt: int) -> int:
        if prompt == 50:
            raise ValueError("fifty")
        return prompt

    outcomes = await collect(generate, range(100))
    assert [outcome.index for outcome in outcomes if isinstance(outcome, Failure)] == [50]
    assert sum(isinstance(outcome, Success) for outcome in outcomes) == 99


class FailFast:
    """Prompts: "ok" succeeds, "bad" fails when told, "slow" waits, "untidy" fails in cleanup."""

    def __init__(self) -> None:
        self.fail = Event()
        self.cancelled: list[str] = []

    async def fail_when_idle(self) -> None:
        await wait_until_idle()
        self.fail.set()

    async def generate(self, prompt: str) -> str:
        kind = prompt.split()[0]
        if kind == "ok":
            return prompt
        if kind == "bad":
            await self.fail.wait()
            raise ValueError(prompt)
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(prompt)
            if kind == "untidy":
                raise KeyError(prompt) from None
            raise
        raise AssertionError("unreachable")


async def test_fail_fast_raises_one_flat_group_of_all_failures() -> None:
    calls = FailFast()
    prompts = ["ok", "bad 1", "bad 2", "slow", "untidy", "last"]
    seen: list[Outcome[str, str]] = []
    with pytest.raises(ExceptionGroup) as info:
        async with stream(calls.generate, prompts, fail_fast=True) as outcomes:
            await wait_until_idle()
            calls.fail.set()
            async for outcome in outcomes:
                seen.append(outcome)
    assert [type(error) for error in info.value.exceptions][-1] is KeyError
    assert sorted(map(str, info.value.exceptions)) == ["'untidy'", "bad 1", "bad 2"]
    assert seen == [Success(0, "ok", "ok")]
    assert sorted(calls.cancelled) == ["last", "slow", "untidy"]


async def test_fail_fast_raises_at_the_exit_if_nobody_reads() -> None:
    calls = FailFast()
    calls.fail.set()
    reached = False
    with pytest.raises(ExceptionGroup):
        async with stream(calls.generate, ["bad", "slow"], fail_fast=True):
            await wait_until_idle()
            await anyio.lowlevel.checkpoint()  # the block itself is not cancelled
            reached = True
    assert reached


async def test_fail_fast_does_not_raise_again_what_the_block_has_caught() -> None:
    calls = FailFast()
    calls.fail.set()
    async with stream(calls.generate, ["bad", "slow"], fail_fast=True) as outcomes:
        for _ in range(2):
            with pytest.raises(ExceptionGroup):
                await outcomes.receive()


async def test_fail_fast_blames_nobody_for_cleanup_errors_of_leaving() -> None:
    calls = FailFast()
    async with stream(calls.generate, ["untidy", "slow"], fail_fast=True):
        await wait_until_idle()
    assert sorted(calls.cancelled) == ["slow", "untidy"]


async def test_fail_fast_in_order_hands_over_what_finished_behind_the_failure() -> None:
    calls = FailFast()
    seen = []
    with pytest.raises(ExceptionGroup):
        async with stream(
            calls.generate, ["ok 0", "bad 1", "ok 2", "ok 3"], fail_fast=True, ordered=True
        ) as outcomes:
            await wait_until_idle()
            calls.fail.set()
            async for outcome in outcomes:
                seen.append(outcome.index)
    assert seen == [0, 2, 3]


async def test_collect_with_fail_fast_raises_the_group() -> None:
    calls = FailFast()
    async with create_task_group() as group:
        group.start_soon(calls.fail_when_idle)
        with pytest.raises(ExceptionGroup) as info:
            await collect(calls.generate, ["bad 1", "bad 2", "slow"], fail_fast=True)
    assert {str(error) for error in info.value.exceptions} == {"bad 1", "bad 2"}
    assert calls.cancelled == ["slow"]


async def test_fail_fast_pulls_no_further_prompt() -> None:
    async def generate(prompt: int) -> None:
        raise ValueError(prompt)

    prompts = iter(range(9))
    with pytest.raises(ExceptionGroup):
        await collect(generate, prompts, max_concurrent=1, fail_fast=True)
    assert next(prompts) == 1


async def test_fail_fast_loses_no_source_error() -> None:
    calls = FailFast()

    def source() -> Iterator[str]:
        yield "bad"
        raise OSError("source")

    async with create_task_group() as group:
        group.start_soon(calls.fail_when_idle)
        with pytest.raises(ExceptionGroup) as info:
            await collect(calls.generate, source(), fail_fast=True)
    assert [type(error) for error in info.value.exceptions] == [ValueError, OSError]


async def test_a_source_error_keeps_its_cause() -> None:
    cause = ValueError("cause")

    def source() -> Iterator[int]:
        yield 1
        raise OSError("source") from cause

    async with stream(double, source()) as outcomes:
        await outcomes.receive()
        with pytest.raises(OSError, match="source") as info:
            await outcomes.receive()
    assert info.value.__cause__ is cause


async def test_an_iterator_that_goes_on_after_its_error_is_not_asked_again() -> None:
    class Source:
        asked = 0

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> int:
            self.asked += 1
            if self.asked == 3:
                raise OSError
            return self.asked

    source = Source()
    with pytest.raises(OSError):  # noqa: PT011
        await collect(double, source, max_concurrent=2)
    assert source.asked == 3


async def test_a_cancellation_out_of_the_source_is_a_source_error() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise await foreign_cancellation()

    with pytest.raises(RuntimeError, match="prompts raised a cancellation"):
        await collect(double, source())


async def test_a_blocks_own_error_wins_over_failures_and_cancellation() -> None:
    calls = FailFast()
    calls.fail.set()
    with pytest.raises(KeyError, match="mine"), anyio.CancelScope() as scope:
        async with stream(calls.generate, ["bad"], fail_fast=True):
            await wait_until_idle()
            scope.cancel()
            raise KeyError("mine")


async def test_a_group_out_of_the_block_is_not_wrapped() -> None:
    with pytest.raises(BaseExceptionGroup) as info:
        async with stream(double, range(3)):
            raise BaseExceptionGroup("mine", [KeyboardInterrupt()])
    assert info.value.message == "mine"


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("culprit", ["generate", "source", "asynchronous source"])
async def test_an_exit_out_of_a_call_or_the_source_ends_the_block_bare(
    exit_type: type[BaseException], culprit: str
) -> None:
    async def generate(prompt: int) -> None:
        if culprit == "generate" and prompt == 2:
            raise exit_type("now")
        await anyio.sleep_forever()

    def source() -> Iterator[int]:
        yield from range(3)
        raise exit_type("now")

    async def asynchronous_source() -> AsyncIterator[int]:
        for number in source():
            yield number

    make = asynchronous_source if culprit.startswith("async") else source
    with pytest.raises(exit_type, match="now"), anyio.fail_after(30):
        async with stream(generate, make()):
            await anyio.sleep_forever()
    with pytest.raises(exit_type, match="now"):
        await collect(generate, make())


async def test_cleanup_errors_beside_a_cancellation_count_as_failures() -> None:
    async def generate(prompt: str) -> None:
        if prompt == "bad":
            await wait_until_idle()
            raise ValueError("bad")
        cancelled = anyio.get_cancelled_exc_class()
        try:
            await anyio.sleep_forever()
        except cancelled as exc:
            raise BaseExceptionGroup("nursery", [exc, KeyError("cleanup")]) from None

    with pytest.raises(ExceptionGroup) as info:
        await collect(generate, ["bad", "slow"], fail_fast=True)
    failures = info.value.exceptions
    assert [type(error) for error in failures] == [ValueError, ExceptionGroup]
    assert [type(error) for error in failures[1].exceptions] == [KeyError]  # type: ignore[attr-defined]


# 8. Isolation


async def test_no_prompt_sees_a_contextvar_that_another_set() -> None:
    class Unequal:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise TypeError("like an array, it has no truth value")

    async def generate(prompt: int) -> object:
        before = setting.get()
        setting.set(Unequal() if prompt % 2 else prompt)
        return before

    outcomes = await collect(generate, range(50), max_concurrent=4)
    assert [outcome.unwrap() for outcome in outcomes] == ["outside"] * 50


async def test_workers_replaced_for_their_context_do_not_lower_the_bound() -> None:
    gate = HeldCalls(factor=10)

    async def generate(prompt: int) -> None:
        setting.set(prompt)
        if prompt >= 10:
            await gate.generate(prompt)

    async with stream(generate, range(100), max_concurrent=8):
        await wait_until_idle()
        assert len(gate.started) == 6  # with the ten unread, the window is full
    async with stream(generate, range(10, 100), max_concurrent=8):
        await wait_until_idle()
        assert len(gate.started) == 6 + 8


async def test_an_equal_but_distinct_value_does_not_leak_either() -> None:
    setting.set([])

    async def generate(prompt: int) -> object:
        seen = setting.get()
        setting.set([])
        return seen

    outside = setting.get()
    for outcome in await collect(generate, range(9), max_concurrent=2):
        assert outcome.unwrap() is outside


async def test_calls_see_the_contextvars_of_whoever_opened_the_stream() -> None:
    setting.set("mine")

    async def generate(prompt: int) -> object:
        return setting.get()

    async with stream(generate, range(20)) as outcomes:
        setting.set("later")
        assert {outcome.unwrap() async for outcome in outcomes} == {"mine"}


# 9. Fairness


@pytest.mark.parametrize("dirty", [False, True])
async def test_a_call_that_never_blocks_cannot_outrun_a_cancellation(dirty: bool) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    async def generate(prompt: int) -> None:
        if dirty:
            setting.set(object())

    for collecting in (True, False):
        with anyio.CancelScope() as scope:
            async with create_task_group() as group:
                group.start_soon(cancel_soon, scope)
                if collecting:
                    await collect(generate, endless())
                else:
                    async with stream(generate, endless()) as outcomes:
                        async for _ in outcomes:
                            pass
        assert scope.cancelled_caught


async def cancel_soon(scope: anyio.CancelScope) -> None:
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_an_asynchronous_source_that_never_blocks_is_fair() -> None:
    async def endless() -> AsyncIterator[int]:
        while True:
            yield 1

    with anyio.CancelScope() as scope:
        async with create_task_group() as group:
            group.start_soon(cancel_soon, scope)
            await collect(double, endless())
    assert scope.cancelled_caught


async def test_a_reader_of_outcomes_that_are_ready_lets_others_run() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    async with stream(double, range(300), max_concurrent=100) as outcomes:
        await wait_until_idle()
        async with create_task_group() as group:
            group.start_soon(tick)
            await anyio.lowlevel.checkpoint()
            before = ticks
            for _ in range(3 * 64):
                await outcomes.receive()
            assert ticks > before
            group.cancel_scope.cancel()


async def test_an_asynchronous_source_that_is_always_ready_lets_others_run() -> None:
    ticks = []

    async def tick() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            ticks.append(len(pulled))

    pulled: list[int] = []

    async def source() -> AsyncIterator[int]:
        for prompt in range(300):
            pulled.append(prompt)
            yield prompt

    async with create_task_group() as group:
        group.start_soon(tick)
        await anyio.lowlevel.checkpoint()
        await collect(double, source(), max_concurrent=1000)
        group.cancel_scope.cancel()
    assert {0 < seen < 300 for seen in ticks} == {True, False}


async def test_a_thousand_workers_start_without_recursion() -> None:
    gate = HeldCalls(factor=10)
    async with stream(gate.generate, range(1000), max_concurrent=1000):
        await wait_until_idle()
        assert len(gate.started) == 1000


# Asynchronous sources


async def test_an_asynchronous_source_is_pulled_no_further_than_the_window() -> None:
    pulled: list[int] = []

    async def source() -> AsyncIterator[int]:
        for prompt in range(100):
            pulled.append(prompt)
            yield prompt

    async with stream(double, source(), max_concurrent=3) as outcomes:
        await wait_until_idle()
        assert len(pulled) == 6
        assert outcomes.progress.total is None


@pytest.mark.parametrize("way", ["break", "cancel"])
async def test_an_asynchronous_source_is_closed_under_a_shield_by_the_task_that_iterates_it(
    way: str,
) -> None:
    tasks = []

    async def source() -> AsyncIterator[int]:
        tasks.append(anyio.get_current_task().id)
        try:
            for prompt in range(100):
                yield prompt
        finally:
            await anyio.lowlevel.checkpoint()
            tasks.append(anyio.get_current_task().id)

    with anyio.CancelScope() as scope:
        async with stream(double, source()) as outcomes:
            await outcomes.receive()
            await wait_until_idle()
            if way == "cancel":
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert len(tasks) == 2
    assert tasks[0] == tasks[1]


async def test_an_asynchronous_source_may_hold_a_task_group_when_it_is_left() -> None:
    async def source() -> AsyncIterator[int]:
        async with create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            for prompt in range(100):
                yield prompt

    async with stream(double, source()) as outcomes:
        await outcomes.receive()
        await wait_until_idle()


async def test_fail_fast_counts_cleanup_errors_of_the_source() -> None:
    async def source() -> AsyncIterator[int]:
        async with create_task_group():
            try:
                for prompt in range(100):
                    yield prompt
            finally:
                raise OSError("cleanup")

    async def generate(prompt: int) -> None:
        await wait_until_idle()
        raise ValueError(prompt)

    with pytest.raises(ExceptionGroup) as info:
        await collect(generate, source(), fail_fast=True, max_concurrent=1)
    assert info.value.subgroup(ValueError)
    assert info.value.subgroup(OSError)


async def test_an_error_while_closing_the_source_is_a_source_error() -> None:
    class Source:
        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> int:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            raise OSError("closing")

    with pytest.raises(OSError, match="closing"):
        await collect(double, Source())


async def test_an_asynchronous_iterator_needs_no_aclose() -> None:
    class Source:
        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> int:
            raise StopAsyncIteration

    assert await collect(double, Source()) == []


# Progress, arguments, composition


async def test_progress_counts() -> None:
    gate = HeldCalls(factor=10)

    async def generate(prompt: int) -> int:
        await gate.generate(prompt)
        if prompt == 1:
            raise ValueError
        return prompt

    async with stream(generate, range(5), max_concurrent=3) as outcomes:
        await wait_until_idle()
        gate.release(0, 1)
        await outcomes.receive()
        await wait_until_idle()
        now = outcomes.progress
        assert (now.total, now.started, now.in_flight) == (5, 5, 3)
        assert (now.succeeded, now.failed, now.done) == (1, 1, 1)
        assert now.elapsed >= 0


async def test_the_total_of_an_iterator_is_known_when_it_is_exhausted() -> None:
    gate = HeldCalls(factor=10)
    async with stream(gate.generate, iter(range(3)), max_concurrent=1) as outcomes:
        await wait_until_idle()
        assert outcomes.progress.total is None
        gate.release(0, 1, 2)
        assert len([outcome async for outcome in outcomes]) == 3
        assert outcomes.progress.total == 3


async def test_the_clock_of_progress_stops_with_the_last_call() -> None:
    async with stream(double, range(3)) as outcomes:
        async for _ in outcomes:
            pass
        await wait_until_idle()
        assert outcomes.progress == outcomes.progress


async def test_no_prompts_make_no_outcomes() -> None:
    assert await collect(double, []) == []
    async with stream(double, []) as outcomes:
        assert [outcome async for outcome in outcomes] == []


async def test_a_stream_is_an_anyio_receive_stream() -> None:
    async with stream(double, range(3)) as outcomes:
        assert isinstance(outcomes, anyio.abc.ObjectReceiveStream)
        async with outcomes:
            await outcomes.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()


async def test_a_batch_may_run_inside_a_call_of_another() -> None:
    async def inner(prompt: int) -> list[int]:
        return [outcome.unwrap() for outcome in await collect(double, range(prompt))]

    outcomes = await collect(inner, range(4), max_concurrent=2)
    assert outcomes[3].unwrap() == [0, 2, 4]


async def test_a_batch_runs_from_a_worker_thread() -> None:
    def in_thread() -> list[int]:
        outcomes = anyio.from_thread.run(collect, double, range(4))
        return [outcome.unwrap() for outcome in outcomes]

    assert await anyio.to_thread.run_sync(in_thread) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((double, "one prompt"), {}, TypeError, "not a single string"),
        ((double, b"one prompt"), {}, TypeError, "not a single string"),
        ((double, 7), {}, TypeError, "prompts must be an iterable, got int"),
        ((None, []), {}, TypeError, "generate must be callable, got NoneType"),
        ((double, []), {"max_concurrent": 0}, ValueError, "max_concurrent must be >= 1, got 0"),
        ((double, []), {"max_concurrent": 2.5}, TypeError, "must be an int, got float"),
        ((double, []), {"limiter": 3}, TypeError, "must be an anyio.CapacityLimiter, got int"),
    ],
)
async def test_bad_arguments_raise_at_the_call(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stream(*arguments, **options)
    with pytest.raises(error, match=message):
        await collect(*arguments, **options)


@only_trio
async def test_a_trio_nursery_around_the_reader_ends_cleanly() -> None:
    gate = HeldCalls(factor=10)

    async def cancel(scope: trio.CancelScope) -> None:
        await until(lambda: len(gate.started) == 3)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel, nursery.cancel_scope)
        async with stream(gate.generate, range(3)) as outcomes:
            async for _ in outcomes:
                pass
    assert sorted(gate.cancelled) == [0, 1, 2]
