"""The scenarios that streamable tests its concurrent map by, on a stream of outcomes.

From streamable 2.0, tests/test_map.py, test_do.py, test_buffer.py, test_flatten.py,
test_ref_cycles.py and test_other.py, and from its repository tests/test_closing.py; only the
scenarios are theirs. ``concurrency`` is max_concurrent here, and ``as_completed`` is the default.

What differs, and the promise that makes the difference:

- Nothing is pulled before the first next: calls begin as the block is entered; promise 3 bounds
  what is pulled ahead of the reader.
- concurrency + 1 items are pulled ahead: twice max_concurrent; promise 3.
- Ordered results hold up the next calls: they go on behind a slow one inside that bound; promise 3.
- An error of the source is one item, and it is asked again: it ends the source, and is raised when
  what was pulled before is handed over; promise 6.
- next after closing is the end, as after exhaustion: a ClosedResourceError; promise 7.
- A read that is cancelled cancels the pull and ends the iterator: it loses nothing; promise 1.
- Closing waits for a pull of the source and leaves the source open: it cancels the pull and closes
  an asynchronous source; promise 5. A synchronous iterator stays the caller's in both.
- A BaseException of a call is lost with as_completed (an expected failure there): bare; promise 6.
- Cancelling its background tasks from outside ends them: so it does, and the batch, which is cut
  short, raises or has its outcomes; it does not end clean; promise 7.

Without a counterpart here:
- Functions that are not asynchronous, executors and processes: to_thread in generate (tested).
- A function as the source: iter(function, sentinel) makes an iterable of it (tested).
- flatten, group, catch, observe, skip, take, throttle and the algebra of streams: plain Python.
- Event loops that a synchronous iterator opens and keeps.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, count
from typing import Any

import anyio
import pytest
from anyio import CancelScope, Event, create_task_group, to_thread, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Success, collect, stream
from support import virtual
from support.backends import only_asyncio
from support.calls import HeldCalls

pytestmark = pytest.mark.anyio
in_virtual_time = pytest.mark.parametrize("backend", virtual.BACKENDS)
both_orders = pytest.mark.parametrize("ordered", [False, True])
NUMBERS = range(24)


class OwnError(Exception):
    """One that a weak reference can be made to."""


async def asynchronous(prompts: Iterable[Any]) -> AsyncIterator[Any]:
    for prompt in prompts:
        await checkpoint()
        yield prompt


both_sources = pytest.mark.parametrize("source", [iter, asynchronous])
Source = Callable[[Iterable[Any]], Any]


async def echo(prompt: Any) -> Any:
    return prompt


async def sleep(seconds: int) -> int:
    await anyio.sleep(seconds)
    return seconds


async def slow_square(prompt: int) -> int:
    """Let some others pass: later prompts are often done before earlier ones."""
    for _ in range(prompt * 7 % 5):
        await checkpoint()
    return prompt**2


async def invert(prompt: int) -> float:
    return 1 / prompt


# Order


@pytest.mark.parametrize("limit", [1, 2, 2 * len(NUMBERS)])
@both_sources
async def test_the_order_of_the_source_is_kept_on_request(source: Source, limit: int) -> None:
    """streamable: map keeps the order at any concurrency, for both kinds of sources."""
    expected = [number**2 for number in NUMBERS]
    outcomes = stream(slow_square, source(NUMBERS), max_concurrent=limit, ordered=True)
    async with outcomes as several:
        assert [outcome.unwrap() async for outcome in several] == expected
    collected = await collect(slow_square, source(NUMBERS), max_concurrent=limit)
    assert [outcome.unwrap() for outcome in collected] == expected


@both_sources
@pytest.mark.parametrize(("limit", "size"), [(16, 0), (1, 0), (16, 1), (16, 15), (16, 16)])
async def test_there_may_be_fewer_prompts_than_calls_allowed(
    source: Source, limit: int, size: int
) -> None:
    """streamable: map with more concurrency than elements."""
    outcomes = await collect(echo, source(range(size)), max_concurrent=limit)
    assert [outcome.unwrap() for outcome in outcomes] == list(range(size))


@pytest.mark.parametrize(("ordered", "expected"), [(True, [1, 100, 50]), (False, [1, 50, 100])])
@in_virtual_time
def test_results_come_in_one_order_or_the_other(
    backend: str, ordered: bool, expected: list[int]
) -> None:
    """streamable: map as completed, or in order, of calls that last differently long."""

    async def main() -> list[int]:
        async with stream(sleep, [1, 100, 50], max_concurrent=2, ordered=ordered) as outcomes:
            return [outcome.unwrap() async for outcome in outcomes]

    # The last begins as the first ends, and ends before the second.
    assert virtual.run(backend, main) == expected


@both_orders
@in_virtual_time
def test_neither_order_holds_up_the_next_calls(backend: str, ordered: bool) -> None:
    """streamable: where order is kept, a slow call holds up the next ones; here it does not."""

    async def main() -> tuple[list[int], float]:
        began = anyio.current_time()
        async with stream(sleep, [30, 1, 1, 40], max_concurrent=2, ordered=ordered) as outcomes:
            values = [outcome.unwrap() async for outcome in outcomes]
        return values, anyio.current_time() - began

    values, took = virtual.run(backend, main)
    assert values == ([30, 1, 1, 40] if ordered else [1, 1, 30, 40])
    assert took == pytest.approx(42)


@pytest.mark.parametrize("limit", [1, 2, 4])
@in_virtual_time
def test_twice_as_many_calls_at_once_take_half_the_time(backend: str, limit: int) -> None:
    """streamable: map is faster in proportion to its concurrency."""

    async def main() -> float:
        began = anyio.current_time()
        await collect(sleep, [1] * len(NUMBERS), max_concurrent=limit)
        return anyio.current_time() - began

    assert virtual.run(backend, main) == pytest.approx(len(NUMBERS) / limit)


@in_virtual_time
def test_several_batches_run_at_the_same_time(backend: str) -> None:
    """streamable: three streams that are iterated at once take no longer than one."""

    async def main() -> float:
        began = anyio.current_time()
        async with create_task_group() as group:
            for _ in range(3):
                group.start_soon(partial(collect, sleep, [1] * 8, max_concurrent=4))
        return anyio.current_time() - began

    assert virtual.run(backend, main) == pytest.approx(2)


@both_sources
async def test_a_side_effect_happens_once_for_each_prompt(source: Source) -> None:
    """streamable: do, which passes its elements on."""
    seen: list[int] = []

    async def generate(prompt: int) -> None:
        await checkpoint()
        seen.append(prompt)

    async with stream(generate, source(NUMBERS), max_concurrent=2, ordered=True) as outcomes:
        assert [outcome.prompt async for outcome in outcomes] == list(NUMBERS)
    assert sorted(seen) == list(NUMBERS)


async def test_the_bound_is_a_number() -> None:
    """streamable: a coroutine function with an executor for its concurrency."""
    wrong: Any = ThreadPoolExecutor(2)
    with pytest.raises(TypeError, match="max_concurrent must be an int, got ThreadPoolExecutor"):
        stream(echo, NUMBERS, max_concurrent=wrong)
    with pytest.raises(TypeError, match=r"limiter must be an anyio\.CapacityLimiter"):
        stream(echo, NUMBERS, limiter=wrong)


# Errors


@pytest.mark.parametrize("limit", [1, 2, 3])
@both_orders
async def test_prompts_that_fail_are_followed_by_others(limit: int, ordered: bool) -> None:
    """streamable: map goes on after errors of its function."""
    async with stream(invert, [0, 1, 0, 2, 0], max_concurrent=limit, ordered=ordered) as outcomes:
        received = [outcome async for outcome in outcomes]
    if ordered:
        assert [outcome.index for outcome in received] == [0, 1, 2, 3, 4]
    failed = {outcome.index for outcome in received if isinstance(outcome, Failure)}
    values = {outcome.index: outcome.value for outcome in received if isinstance(outcome, Success)}
    assert failed == {0, 2, 4}
    assert values == {1: 1.0, 3: 0.5}


@in_virtual_time
def test_errors_come_as_they_happen(backend: str) -> None:
    """streamable: map as completed, where calls that fail are done before those that do not."""

    async def generate(prompt: int) -> float:
        inverse = 1 / prompt
        await anyio.sleep(inverse)
        return inverse

    async def main() -> list[float | None]:
        async with stream(generate, [0, 1, 0, 2, 0], max_concurrent=3) as outcomes:
            return [
                outcome.value if isinstance(outcome, Success) else None
                async for outcome in outcomes
            ]

    assert virtual.run(backend, main) == [None, None, None, 0.5, 1.0]


@both_orders
@both_sources
async def test_a_source_that_fails_is_not_asked_again(source: Source, ordered: bool) -> None:
    """streamable: map goes on after errors of its source; here the first one ends it."""
    received = []
    with pytest.raises(ZeroDivisionError):
        prompts = source(1 / number for number in [1, 2, 0, 4])
        async with stream(echo, prompts, ordered=ordered) as outcomes:
            async for outcome in outcomes:
                received.append(outcome.unwrap())
    assert sorted(received) == [0.5, 1.0]


async def test_errors_of_the_function_leave_the_source_where_it_is() -> None:
    """streamable: an iterator is pulled no further than its bound while all calls fail."""
    source = iter(NUMBERS)
    async with stream(invert, (0 for _ in source), max_concurrent=2) as outcomes:
        with pytest.raises(ZeroDivisionError):
            (await outcomes.receive()).unwrap()
        await wait_all_tasks_blocked()
    assert 1 < next(source) <= 5


@pytest.mark.parametrize("limit", [2, 10])
@both_orders
async def test_an_error_dies_with_its_last_reference(limit: int, ordered: bool) -> None:
    """streamable: an error that an iterator has raised is in no reference cycle."""

    async def generate(prompt: int) -> int:
        if prompt == 3:
            raise OwnError
        return prompt

    gc.collect()
    gc.disable()
    try:
        async with stream(generate, range(9), max_concurrent=limit, ordered=ordered) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, Failure):
                    error = weakref.ref(outcome.error)
        assert error() is None
    finally:
        gc.enable()


@both_orders
async def test_an_exit_out_of_a_call_arrives_in_either_order(ordered: bool) -> None:
    """streamable: a BaseException of a function, raised while others run."""

    class Exit(BaseException):
        pass

    gate = HeldCalls()

    async def generate(prompt: int) -> int:
        if prompt == 3:
            await wait_all_tasks_blocked()
            raise Exit
        return await gate.generate(prompt)

    gate.release(0, 1)
    with pytest.raises(Exit):
        async with stream(generate, range(9), max_concurrent=2, ordered=ordered) as outcomes:
            async for _ in outcomes:
                pass
    assert gate.cancelled == [2]


# What is pulled


@pytest.mark.parametrize("limit", [1, 2, 4])
@both_orders
async def test_a_stream_that_is_not_opened_pulls_nothing(limit: int, ordered: bool) -> None:
    """streamable: what is pulled before the first next, and after it; there limit + 1."""
    pulled: list[int] = []

    def prompts() -> Iterator[int]:
        for number in NUMBERS:
            pulled.append(number)
            yield number

    made = stream(echo, prompts(), max_concurrent=limit, ordered=ordered)
    await wait_all_tasks_blocked()
    assert pulled == []
    async with made as outcomes:
        await wait_all_tasks_blocked()
        assert len(pulled) == 2 * limit
        await outcomes.receive()
        await wait_all_tasks_blocked()
        assert len(pulled) <= 2 * limit + 1


@both_sources
async def test_each_read_makes_room_in_the_source(source: Source) -> None:
    """streamable: buffer, which pulls one more for each that is taken."""
    pulled: list[int] = []

    def prompts() -> Iterator[int]:
        for number in NUMBERS:
            pulled.append(number)
            yield number

    async with stream(echo, source(prompts()), max_concurrent=3) as outcomes:
        for taken in range(10):
            await wait_all_tasks_blocked()
            assert taken + 3 <= len(pulled) <= taken + 6
            await outcomes.receive()


async def test_errors_take_room_as_results_do() -> None:
    """streamable: buffer with exceptions among what it holds."""
    calls: list[str] = []

    async def generate(prompt: str) -> int:
        calls.append(prompt)
        return int(prompt)

    async with stream(generate, "0 - 2 3 - - 6".split(), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        assert calls == ["0", "-", "2", "3"]
        failed = [isinstance(outcome, Failure) async for outcome in outcomes]
    assert sum(failed) == 3
    assert len(calls) == len(failed) == 7


# Sources


@both_sources
async def test_a_source_may_be_an_iterator(source: Source) -> None:
    """streamable: a stream of an iterator, and of an asynchronous one."""
    outcomes = await collect(echo, source(NUMBERS))
    assert [outcome.unwrap() for outcome in outcomes] == list(NUMBERS)


@pytest.mark.parametrize("source", [1, None, echo])
async def test_a_source_must_be_iterable(source: Any) -> None:
    """streamable: a source that is nothing of the kind."""
    with pytest.raises(TypeError, match="prompts must be an iterable"):
        stream(echo, source)
    with pytest.raises(TypeError, match="prompts must be an iterable"):
        await collect(echo, source)


async def test_a_function_becomes_a_source_by_iter() -> None:
    """streamable: a function that is called for each item."""
    rest = iter([3, 1, 2, 0, 9])
    outcomes = await collect(echo, iter(partial(next, rest), 0))
    assert [outcome.unwrap() for outcome in outcomes] == [3, 1, 2]
    assert next(rest) == 9


async def test_an_error_that_means_the_end_can_be_caught() -> None:
    """streamable: a queue that is empty ends the stream; here the reader catches its error."""
    prompts: queue.Queue[int] = queue.Queue()
    for number in range(10):
        prompts.put(number)
    received = []
    with pytest.raises(queue.Empty):
        async with stream(echo, iter(prompts.get_nowait, None), ordered=True) as outcomes:
            async for outcome in outcomes:
                received.append(outcome.unwrap())
    assert received == list(range(10))


async def test_a_queue_that_is_fed_meanwhile_is_a_source() -> None:
    """streamable: an asynchronous queue from which each item is awaited."""
    send, prompts = anyio.create_memory_object_stream[int](0)

    async def feed() -> None:
        async with send:
            for number in range(10):
                await send.send(number)

    async with create_task_group() as group:
        group.start_soon(feed)
        outcomes = await collect(echo, prompts, max_concurrent=2)
    assert sorted(outcome.unwrap() for outcome in outcomes) == list(range(10))


async def test_sources_can_be_chained() -> None:
    """streamable: the sum of streams."""
    outcomes = await collect(echo, chain(range(10), range(10, 20), map(str, range(3))))
    assert [outcome.unwrap() for outcome in outcomes] == [*range(20), "0", "1", "2"]


async def test_prompts_can_be_run_again() -> None:
    """streamable: iterating the same stream twice; here what is run again are the prompts."""
    for _ in range(2):
        outcomes = await collect(echo, NUMBERS)
        assert [outcome.unwrap() for outcome in outcomes] == list(NUMBERS)


# The end


@both_orders
@both_sources
async def test_the_end_is_the_end_however_often_it_is_read(source: Source, ordered: bool) -> None:
    """streamable: next after exhaustion."""
    async with stream(echo, source(NUMBERS), ordered=ordered) as outcomes:
        assert len([outcome async for outcome in outcomes]) == len(NUMBERS)
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(outcomes)
            with pytest.raises(anyio.EndOfStream):
                await outcomes.receive()


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_stream_that_was_closed_has_not_ended(taken: int) -> None:
    """streamable: next after closing, there the same as the end."""
    async with stream(echo, NUMBERS, max_concurrent=2) as outcomes:
        for _ in range(taken):
            await outcomes.receive()
        await outcomes.aclose()
        for _ in range(2):
            with pytest.raises(anyio.ClosedResourceError):
                await anext(outcomes)


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
@both_orders
async def test_leaving_cancels_what_was_started_and_is_not_done(taken: int, ordered: bool) -> None:
    """streamable: closing map after some results; there nothing is started before the first."""
    gate = HeldCalls()
    received = []
    async with stream(gate.generate, range(10), max_concurrent=2, ordered=ordered) as outcomes:
        for prompt in range(taken):
            gate.release(prompt)
            received.append((await outcomes.receive()).unwrap())
        await wait_all_tasks_blocked()
    assert received == gate.completed == list(range(taken))
    assert sorted(gate.started) == list(range(taken + 2))
    assert sorted(gate.cancelled) == [taken, taken + 1]


async def stop_after_one(generate: Callable[[int], Awaitable[int]]) -> None:
    async with stream(generate, range(10), max_concurrent=2) as outcomes:
        await outcomes.receive()


async def stop_at_a_value(generate: Callable[[int], Awaitable[int]]) -> None:
    async with stream(generate, range(10), max_concurrent=2) as outcomes:
        async for outcome in outcomes:
            if outcome.prompt == 0:
                return


async def stop_at_an_error(generate: Callable[[int], Awaitable[int]]) -> None:
    async def fail(prompt: int) -> int:
        await generate(prompt)
        raise OwnError

    with pytest.raises(OwnError):
        async with stream(fail, range(10), max_concurrent=2) as outcomes:
            (await outcomes.receive()).unwrap()


@pytest.mark.parametrize("stop", [stop_after_one, stop_at_a_value, stop_at_an_error])
async def test_stopping_early_leaves_no_task(
    stop: Callable[[Callable[[int], Awaitable[int]]], Awaitable[None]],
) -> None:
    """streamable: tasks that are left over after ways to stop early."""
    before = len(anyio.get_running_tasks())
    gate = HeldCalls()
    gate.release(0)
    await stop(gate.generate)
    assert len(anyio.get_running_tasks()) == before
    assert set(gate.started) == {*gate.completed, *gate.cancelled}


async def test_a_synchronous_iterator_stays_the_callers() -> None:
    """streamable: closing leaves the source open, which goes on where it was."""
    closed = []

    def prompts() -> Generator[int, None, None]:
        try:
            yield from count()
        finally:
            closed.append(True)

    source = prompts()
    async with stream(echo, source, max_concurrent=1) as outcomes:
        await outcomes.receive()
    assert closed == []
    assert next(source) in {1, 2, 3}
    source.close()


async def test_leaving_cancels_the_pull_and_closes_the_source() -> None:
    """streamable: closing waits for a pull and leaves the source open; here neither."""
    steps = []

    async def prompts() -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            steps.append("cancelled")
            raise
        finally:
            steps.append("closed")

    source = prompts()
    async with stream(echo, source) as outcomes:
        await outcomes.receive()
        await wait_all_tasks_blocked()
    assert steps == ["cancelled", "closed"]
    with pytest.raises(StopAsyncIteration):
        await anext(source)


async def test_leaving_closes_a_source_that_nobody_waits_for() -> None:
    """streamable: closing while the source is not being pulled."""
    steps = []

    async def prompts() -> AsyncIterator[int]:
        try:
            for number in count():
                yield number
        except GeneratorExit:
            steps.append("closed")
            raise

    async with stream(echo, prompts(), max_concurrent=1):
        await wait_all_tasks_blocked()
    assert steps == ["closed"]


async def test_a_cancelled_read_does_not_cancel_the_source() -> None:
    """streamable: a timeout around next cancels what the source awaits; here it loses nothing."""
    go_on, cancelled = Event(), []

    async def prompts() -> AsyncIterator[int]:
        try:
            await go_on.wait()
        except anyio.get_cancelled_exc_class():
            cancelled.append(True)
            raise
        yield 0

    async with stream(echo, prompts()) as outcomes:
        async with create_task_group() as group:
            group.start_soon(outcomes.receive)
            await wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        go_on.set()
        assert [outcome.unwrap() async for outcome in outcomes] == [0]
    assert cancelled == []


@both_orders
async def test_a_cancelled_read_does_not_cancel_the_calls(ordered: bool) -> None:
    """streamable: a timeout around next reaches a call that it waits for; here it does not."""
    gate = HeldCalls()
    async with stream(gate.generate, range(3), max_concurrent=2, ordered=ordered) as outcomes:
        for _ in range(3):
            with anyio.move_on_after(0):
                await outcomes.receive()
        await wait_all_tasks_blocked()
        gate.release(0, 1, 2)
        assert sorted([outcome.unwrap() async for outcome in outcomes]) == [0, 1, 2]
    assert gate.cancelled == []


async def test_cancelling_around_the_block_cancels_calls_and_source() -> None:
    """streamable: a cancellation lands while the stream is held, and nobody reads."""
    gate, steps = HeldCalls(), []

    async def prompts() -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            steps.append("cancelled")
            raise

    with CancelScope() as scope:
        async with create_task_group() as group, stream(gate.generate, prompts()):

            async def cancel() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            group.start_soon(cancel)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (gate.cancelled, steps) == ([0], ["cancelled"])


async def test_a_timeout_in_one_batch_does_not_affect_a_later_one() -> None:
    """streamable: a task that has recovered from a cancellation closes another stream."""
    for _ in range(2):
        gate = HeldCalls()
        with anyio.move_on_after(0) as scope:
            async with stream(gate.generate, range(3)) as outcomes:
                await outcomes.receive()
        assert scope.cancelled_caught
    gate.release(*NUMBERS)
    assert len(await collect(gate.generate, NUMBERS)) == len(NUMBERS)


async def test_waiting_for_the_close_can_be_cancelled() -> None:
    """streamable: a cancellation while closing waits for cleanup that takes its time."""
    may_end, ended = Event(), []

    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await may_end.wait()
            ended.append(prompt)

    async with stream(generate, [1]) as outcomes:
        await wait_all_tasks_blocked()
        async with create_task_group() as group:
            group.start_soon(outcomes.aclose)
            await wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert ended == []
        may_end.set()
    assert ended == [1]


async def test_threads_are_waited_for() -> None:
    """streamable: work that cannot be cancelled runs to its end before the block is left."""
    may_end = threading.Event()
    both_run, ended = Event(), []

    def work(prompt: int) -> int:
        if prompt == 1:
            anyio.from_thread.run_sync(both_run.set)
        may_end.wait(60)
        ended.append(prompt)
        return prompt

    async def leave() -> None:
        async with stream(partial(to_thread.run_sync, work), range(9), max_concurrent=2):
            await both_run.wait()

    async with create_task_group() as group:
        group.start_soon(leave)
        await both_run.wait()
        await wait_all_tasks_blocked()
        assert ended == []
        may_end.set()
    assert sorted(ended) == [0, 1]


@only_asyncio
@both_orders
async def test_a_batch_whose_tasks_are_all_cancelled_does_not_end_clean(ordered: bool) -> None:
    """streamable: a shutdown that natively cancels all other tasks and waits for them."""
    gate = HeldCalls()
    known = asyncio.all_tasks()
    failed: BaseException | None = None
    received = []
    with anyio.fail_after(60):
        try:
            async with stream(
                gate.generate, range(3), max_concurrent=2, ordered=ordered
            ) as outcomes:
                await wait_all_tasks_blocked()
                for task in asyncio.all_tasks() - known:
                    task.cancel()
                gate.release(2)
                async for outcome in outcomes:
                    received.append(outcome)
        except RuntimeError as exc:
            failed = exc
    # Each of both calls has heard of it, and no prompt is missing unless the reader hears so.
    assert sorted(gate.cancelled) == [0, 1]
    assert failed or sorted(outcome.index for outcome in received) == [0, 1, 2]
    assert not [
        outcome for outcome in received if outcome.index < 2 and isinstance(outcome, Success)
    ]
    await checkpoint()
    assert not asyncio.all_tasks() - known
