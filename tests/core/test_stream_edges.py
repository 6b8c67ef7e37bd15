"""Where a small change of the core would go unseen: exact counts, limits and edges."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields
from itertools import count
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio import CancelScope, CapacityLimiter, Event, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Progress, Success, collect, stream
from genbatch._core import ParkingLot
from support import virtual
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio
in_virtual_time = pytest.mark.parametrize("backend", virtual.BACKENDS)


async def double(prompt: int) -> int:
    return prompt * 2


async def fail(prompt: int) -> int:
    raise ValueError(prompt)


async def foreign_cancellation() -> BaseException:
    """Return a cancellation that has nothing to do with the scopes around the caller."""
    caught: list[BaseException] = []
    with CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except anyio.get_cancelled_exc_class() as exc:
            caught.append(exc)
            raise
    return caught[0]


# Who is woken


async def test_a_ring_wakes_as_many_as_it_says_longest_parked_first() -> None:
    lot, woken = ParkingLot(), []

    async def park(number: int) -> None:
        await lot.park()
        woken.append(number)

    async with create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(park, number)
            await wait_all_tasks_blocked()
        lot.unpark(1)
        await wait_all_tasks_blocked()
        assert woken == [0]
        lot.unpark(2)
        await wait_all_tasks_blocked()
        assert sorted(woken) == [0, 1, 2]
        lot.unpark()
    assert sorted(woken) == [0, 1, 2, 3, 4]


# How often others get to run


class Ticker:
    """A task that runs whenever it can, and how far the others had come each time."""

    def __init__(self, how_far: Callable[[], int]) -> None:
        self._how_far = how_far
        self.seen: list[int] = []

    async def __call__(self) -> None:
        while True:
            self.seen.append(self._how_far())
            await checkpoint()

    @property
    def longest_wait(self) -> int:
        return max(
            later - earlier for earlier, later in zip(self.seen, self.seen[1:], strict=False)
        )


def longest_fair_wait(anyio_backend_name: str) -> int:
    # Trio shuffles whom it runs: two turns of one task may lie between two of another.
    return 64 if anyio_backend_name == "asyncio" else 128


async def test_others_run_after_at_most_64_reads_and_not_after_each(
    anyio_backend_name: str,
) -> None:
    reads = 0
    ticker = Ticker(lambda: reads)
    async with stream(double, range(400), max_concurrent=200) as outcomes:
        await wait_all_tasks_blocked()
        async with create_task_group() as group:
            group.start_soon(ticker)
            await checkpoint()
            for _ in range(400):
                await outcomes.receive()
                reads += 1
            group.cancel_scope.cancel()
    assert ticker.longest_wait <= longest_fair_wait(anyio_backend_name)
    assert len(ticker.seen) < 40


async def test_others_run_after_at_most_64_calls_and_not_after_each(
    anyio_backend_name: str,
) -> None:
    calls = 0

    async def generate(prompt: int) -> None:
        nonlocal calls
        calls += 1

    ticker = Ticker(lambda: calls)
    async with create_task_group() as group:
        group.start_soon(ticker)
        await checkpoint()
        await collect(generate, range(2000), max_concurrent=1)
        group.cancel_scope.cancel()
    assert ticker.longest_wait <= longest_fair_wait(anyio_backend_name)
    assert len(ticker.seen) < 100


async def test_others_run_while_many_workers_make_calls_that_never_block() -> None:
    calls = 0

    async def generate(prompt: int) -> None:
        nonlocal calls
        calls += 1

    ticker = Ticker(lambda: calls)
    async with create_task_group() as group:
        group.start_soon(ticker)
        await checkpoint()
        await collect(generate, range(3000), max_concurrent=20)
        group.cancel_scope.cancel()
    assert ticker.longest_wait <= 3 * 64


async def test_others_run_after_at_most_64_prompts_fed(
    anyio_backend_name: str,
) -> None:
    pulled = 0
    all_pulled = Event()

    async def prompts() -> AsyncIterator[int]:
        nonlocal pulled
        for prompt in range(1000):
            pulled += 1
            yield prompt
        all_pulled.set()

    ticker = Ticker(lambda: pulled)
    async with create_task_group() as group:
        group.start_soon(ticker)
        await checkpoint()
        async with stream(double, prompts(), max_concurrent=600):
            await all_pulled.wait()
        group.cancel_scope.cancel()
    assert ticker.longest_wait <= longest_fair_wait(anyio_backend_name)


# Clocks


async def test_elapsed_lies_within_the_time_that_the_batch_took() -> None:
    async def generate(prompt: int) -> None:
        await checkpoint()
        if prompt:
            raise ValueError

    began = perf_counter()
    success, failure = await collect(generate, [0, 1])
    took = perf_counter() - began
    assert isinstance(success, Success)
    assert isinstance(failure, Failure)
    assert 0 < success.elapsed < took
    assert 0 < failure.elapsed < took


@in_virtual_time
def test_the_clock_of_progress_runs_until_the_last_call_ends(backend: str) -> None:
    async def generate(prompt: int) -> None:
        await anyio.sleep(3)

    async def main() -> list[float]:
        await anyio.sleep(100)
        seen = []
        async with stream(generate, range(4), max_concurrent=2) as outcomes:
            await anyio.sleep(2)
            seen.append(outcomes.progress.elapsed)
            async for _ in outcomes:
                pass
            await anyio.sleep(10)
            seen.append(outcomes.progress.elapsed)
        return seen

    assert virtual.run(backend, main) == pytest.approx([2, 6])


@in_virtual_time
def test_a_source_that_does_not_close_is_waited_for_five_seconds(backend: str) -> None:
    async def prompts() -> AsyncIterator[int]:
        try:
            for prompt in count():
                yield prompt
        finally:
            await anyio.sleep_forever()

    async def main() -> float:
        async with stream(double, prompts()):
            await anyio.sleep(1)
            began = anyio.current_time()
        return anyio.current_time() - began

    assert virtual.run(backend, main) == pytest.approx(5)


@in_virtual_time
def test_a_source_has_time_to_close_when_the_batch_is_cancelled(backend: str) -> None:
    closed = []

    async def prompts() -> AsyncIterator[int]:
        try:
            for prompt in count():
                yield prompt
        finally:
            await anyio.sleep(4)
            closed.append(True)

    async def main() -> None:
        with anyio.move_on_after(1):
            async with stream(double, prompts(), max_concurrent=2):
                await anyio.sleep_forever()

    virtual.run(backend, main)
    assert closed == [True]


# The limiter


async def test_every_token_is_given_back_however_calls_end() -> None:
    limiter = CapacityLimiter(2)
    await collect(double, range(9), limiter=limiter)
    assert limiter.borrowed_tokens == 0
    await collect(fail, range(9), limiter=limiter)
    assert limiter.borrowed_tokens == 0
    async with stream(lambda prompt: anyio.sleep_forever(), range(9), limiter=limiter):
        await wait_all_tasks_blocked()
        assert limiter.borrowed_tokens == 2
        assert limiter.statistics().tasks_waiting == 3
    assert limiter.borrowed_tokens == 0
    assert limiter.statistics().tasks_waiting == 0


async def test_a_token_is_held_during_the_call() -> None:
    limiter = CapacityLimiter(3)
    held = []

    async def generate(prompt: int) -> None:
        await wait_all_tasks_blocked()
        held.append(limiter.borrowed_tokens)

    async with stream(generate, range(3), limiter=limiter) as outcomes:
        async for _ in outcomes:
            pass
    assert max(held) == 3
    assert limiter.borrowed_tokens == 0


async def test_a_limiter_of_no_tokens_is_a_pause() -> None:
    limiter = CapacityLimiter(1)
    limiter.total_tokens = 0
    async with stream(double, range(3), limiter=limiter) as outcomes:
        await wait_all_tasks_blocked()
        assert outcomes.progress.started == outcomes.progress.in_flight == 0
        limiter.total_tokens = 2
        assert len([outcome async for outcome in outcomes]) == 3


async def test_a_call_that_waited_for_a_token_is_not_made_once_the_block_is_left() -> None:
    limiter = CapacityLimiter(1)
    made = []

    async def generate(prompt: int) -> None:
        made.append(prompt)

    async with limiter:
        async with stream(generate, range(3), limiter=limiter) as outcomes:
            await wait_all_tasks_blocked()
            limiter.total_tokens = 2  # wakes one, which finds itself cancelled
            await outcomes.aclose()
    assert made == []
    assert limiter.borrowed_tokens == 0


# Failures and exits


async def test_an_exit_wins_over_failures() -> None:
    async def generate(prompt: str) -> None:
        if prompt == "bad":
            await wait_all_tasks_blocked()
            raise ValueError(prompt)
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="now"):
        await collect(generate, ["bad", "exits"], fail_fast=True)
    with pytest.raises(KeyboardInterrupt, match="now"):
        async with stream(generate, ["bad", "exits"], fail_fast=True):
            await wait_all_tasks_blocked()


async def test_an_exit_cancels_the_block() -> None:
    async def generate(prompt: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit), anyio.fail_after(60):
        async with stream(generate, [1]) as outcomes:
            await anyio.sleep_forever()
    with pytest.raises(anyio.ClosedResourceError):
        await outcomes.receive()


async def test_a_reader_outside_the_block_does_not_take_an_exit_for_the_end() -> None:
    seen: list[type[Exception]] = []
    now = Event()

    async def generate(prompt: int) -> None:
        await now.wait()
        raise SystemExit(3)

    async def read(outcomes: Any) -> None:
        try:
            await outcomes.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError) as exc:
            seen.append(type(exc))

    async with create_task_group() as group:
        with pytest.raises(SystemExit):
            async with stream(generate, [1]) as outcomes:
                group.start_soon(read, outcomes)
                await wait_all_tasks_blocked()
                now.set()
                with CancelScope(shield=True):
                    await wait_all_tasks_blocked()
    assert seen == [anyio.ClosedResourceError]


async def test_the_first_failure_comes_first_in_the_group() -> None:
    async def generate(prompt: int) -> None:
        for _ in range(prompt):
            await checkpoint()
        raise ValueError(prompt)

    with pytest.raises(ExceptionGroup, match="with fail_fast, a prompt failed") as info:
        await collect(generate, [3, 0, 5], fail_fast=True, max_concurrent=1)
    assert [error.args for error in info.value.exceptions] == [(3,)]


async def test_a_failure_that_was_read_is_not_raised_again_at_the_exit() -> None:
    async with stream(fail, [1], fail_fast=True) as outcomes:
        with pytest.raises(ExceptionGroup):
            await outcomes.receive()


async def test_a_source_error_that_nobody_reads_is_not_raised() -> None:
    def prompts() -> Iterator[int]:
        yield 1
        raise OSError("source")

    async with stream(double, prompts()) as outcomes:
        await outcomes.receive()
        await wait_all_tasks_blocked()


async def test_a_native_error_beside_a_cancellation_keeps_the_error() -> None:
    """Of a task group's mixture the errors remain, and a mere cancellation is its cause."""

    async def generate(prompt: int) -> None:
        cancellation = await foreign_cancellation()
        raise BaseExceptionGroup("mixed", [cancellation, ValueError(prompt)])

    (outcome,) = await collect(generate, [7])
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, ExceptionGroup)
    assert [error.args for error in outcome.error.exceptions] == [(7,)]


async def test_a_cancellation_out_of_a_synchronous_source_is_a_source_error() -> None:
    cancellation = await foreign_cancellation()

    def prompts() -> Iterator[int]:
        yield from range(3)
        raise cancellation

    with pytest.raises(RuntimeError, match="prompts raised a cancellation"):
        await collect(double, prompts(), max_concurrent=2)


async def test_failures_too_are_made_by_a_few_tasks() -> None:
    tasks = set()

    async def generate(prompt: int) -> None:
        tasks.add(anyio.get_current_task().id)
        await checkpoint()
        raise ValueError(prompt) from (KeyError(prompt) if prompt % 2 else None)

    outcomes = await collect(generate, range(50), max_concurrent=3)
    assert len(outcomes) == 50
    assert len(tasks) <= 3


# Sources


async def test_the_total_is_the_count_once_a_sized_source_is_exhausted() -> None:
    class Boasting(list[int]):
        def __len__(self) -> int:
            return 99

    async with stream(double, Boasting([1, 2])) as outcomes:
        assert outcomes.progress.total == 99
        assert len([outcome async for outcome in outcomes]) == 2
        assert outcomes.progress.total == 2


async def test_the_total_of_an_asynchronous_source_is_known_at_its_end() -> None:
    last = Event()

    async def prompts() -> AsyncIterator[int]:
        yield 1
        yield 2
        await last.wait()

    async with stream(double, prompts()) as outcomes:
        await wait_all_tasks_blocked()
        assert outcomes.progress.total is None
        last.set()
        assert len([outcome async for outcome in outcomes]) == 2
        assert outcomes.progress.total == 2


async def test_each_prompt_of_a_trickling_source_is_called_as_it_comes() -> None:
    steps = [Event() for _ in range(4)]
    called = []

    async def prompts() -> AsyncIterator[int]:
        for prompt, step in enumerate(steps):
            await step.wait()
            yield prompt

    async def generate(prompt: int) -> int:
        called.append(prompt)
        return prompt

    async with stream(generate, prompts(), max_concurrent=2) as outcomes:
        for prompt, step in enumerate(steps):
            await wait_all_tasks_blocked()
            assert called == list(range(prompt))
            step.set()
        assert [outcome.index async for outcome in outcomes] == [0, 1, 2, 3]


@only_asyncio
async def test_a_worker_cancelled_alone_while_it_waits_is_not_waited_for() -> None:
    """Whoever cancels a task of a call may strike after it, when nothing has come to be called."""
    tasks: list[asyncio.Task[Any]] = []
    more = Event()

    async def prompts() -> AsyncIterator[int]:
        yield 0
        await more.wait()
        yield 1
        await anyio.sleep_forever()

    async def generate(prompt: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return prompt

    async with stream(generate, prompts(), max_concurrent=1) as outcomes:
        assert (await outcomes.receive()).unwrap() == 0
        await wait_all_tasks_blocked()
        tasks[0].cancel()
        await wait_all_tasks_blocked()
        more.set()
        assert (await outcomes.receive()).unwrap() == 1


async def test_a_source_is_asked_for_nothing_once_it_has_ended() -> None:
    class Once:
        ended = 0

        def __iter__(self) -> Once:
            return self

        def __next__(self) -> int:
            self.ended += 1
            raise StopIteration

    source = Once()
    assert await collect(double, source, max_concurrent=9) == []
    assert source.ended == 1


async def test_half_a_window_read_makes_room_for_more_calls() -> None:
    """Not only a whole one, which would let the calls idle; nor is each read worth a wake-up."""
    async with stream(double, range(100), max_concurrent=8) as outcomes:
        await wait_all_tasks_blocked()
        assert outcomes.progress.started == 16
        for _ in range(8):
            await outcomes.receive()
        await wait_all_tasks_blocked()
        assert outcomes.progress.started == 24


# Outcomes and progress


def test_the_fields_of_an_outcome_say_what_its_constructor_does() -> None:
    for kind, arguments in ((Success, (0, "p", 7)), (Failure, (0, "p", ValueError()))):
        default = next(field.default for field in fields(kind) if field.name == "elapsed")
        assert kind(*arguments).elapsed == default == 0.0


def test_progress_is_frozen_and_slotted() -> None:
    now = Progress(5, 3, 1, 1, 1, 2, 0.5)
    with pytest.raises(AttributeError):
        now.done = 3  # type: ignore[misc]
    assert not hasattr(now, "__dict__")


def test_there_is_a_rate_within_the_first_second() -> None:
    assert Progress(5, 3, 1, 1, 1, 2, 0.5).rate == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (59, "59 s"),
        (60, "1 min 0 s"),
        (119, "1 min 59 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7199, "1 h 59 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_what_is_left_is_told_in_the_units_that_fit(seconds: int, text: str) -> None:
    now = Progress(2, 1, 0, 1, 0, 1, elapsed=float(seconds))
    assert str(now) == f"1/2 done, 50 %, {text} left"


# Readers and leaving


async def test_a_waiting_reader_learns_of_leaving_before_the_calls_have_ended() -> None:
    may_end = Event()

    async def generate(prompt: int) -> None:
        with CancelScope(shield=True):
            await may_end.wait()

    async def read(outcomes: Any) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
        may_end.set()

    async with create_task_group() as group:
        async with stream(generate, range(2)) as outcomes:
            group.start_soon(read, outcomes)
            await wait_all_tasks_blocked()


async def test_every_waiting_reader_learns_of_the_end() -> None:
    last = Event()
    ended = []

    async def generate(prompt: int) -> None:
        await last.wait()

    async def read(outcomes: Any) -> None:
        async for _ in outcomes:
            pass
        ended.append(True)

    async with stream(generate, range(2)) as outcomes, create_task_group() as group:
        for _ in range(4):
            group.start_soon(read, outcomes)
        await wait_all_tasks_blocked()
        last.set()
    assert ended == [True] * 4


async def test_closing_waits_until_the_calls_have_ended() -> None:
    ended = []

    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await wait_all_tasks_blocked()
            ended.append(prompt)

    async with stream(generate, range(3)) as outcomes:
        await wait_all_tasks_blocked()
        await outcomes.aclose()
        assert sorted(ended) == [0, 1, 2]
        assert outcomes.progress.in_flight == 0


async def test_no_collected_outcome_is_kept_alive_by_a_cycle() -> None:
    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    async def generate(prompt: int) -> Value:
        return Value()

    gc.collect()
    gc.disable()
    try:
        outcomes = await collect(generate, range(20))
        assert Value.alive == 20
        del outcomes
        assert Value.alive == 0
    finally:
        gc.enable()


@only_asyncio
async def test_a_native_cancellation_of_the_block_is_passed_on_and_leaves_no_task() -> None:
    async def run() -> None:
        async with stream(double, count()) as outcomes:
            async for _ in outcomes:
                await checkpoint()
        await anyio.sleep_forever()

    before = asyncio.all_tasks()
    for steps in range(30):
        task = asyncio.ensure_future(run())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == before
    gc.collect()


@only_asyncio
async def test_a_native_cancellation_of_the_block_is_not_swallowed_by_it() -> None:
    after = []

    async def run() -> None:
        async with stream(double, []):
            await anyio.sleep_forever()
        after.append("the block")

    task = asyncio.ensure_future(run())
    await wait_all_tasks_blocked()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert after == []


async def test_an_error_of_the_block_leaves_no_reference_cycle() -> None:
    class Error(Exception):
        pass

    gc.collect()
    gc.disable()
    try:
        try:
            async with stream(double, [1]) as outcomes:
                await outcomes.receive()
                raise Error
        except Error as exc:
            error = weakref.ref(exc)
        assert error() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("collecting", [True, False])
async def test_five_calls_run_at_once_unless_told_otherwise(collecting: bool) -> None:
    running: list[int] = []

    async def generate(prompt: int) -> None:
        running.append(prompt)
        await anyio.sleep_forever()

    async with create_task_group() as group:
        if collecting:
            group.start_soon(collect, generate, range(20))
            await wait_all_tasks_blocked()
        else:
            async with stream(generate, range(20)):
                await wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(running) == 5
