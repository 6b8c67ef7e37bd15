"""The scenarios that aiostream tests its map and what goes with it by, on a stream of outcomes.

From aiostream 0.8, tests/test_combine.py (map, merge), test_advanced.py (concatmap, flatmap),
test_transform.py (starmap), test_misc.py (action), test_core.py and test_aiter.py (streamcontext,
aitercontext), test_task_group.py and test_time.py (timeout); only the scenarios are theirs.
``task_limit`` is max_concurrent here, and ``ordered`` is False unless asked for.

What differs, and the promise that makes the difference:

- A read that times out ends the stream: nothing is lost, the next read gets it; promise 1.
- concatmap and flatmap hand over each item of a sequence as it comes: a prompt has one outcome,
  which has all of them; promise 1.
- An error ends the stream, unless what was asked for came before it: it is the outcome of its
  prompt, and the others follow; promise 6. Where the block is left first, it is dropped; promise 1.
- Without a task_limit, all at once: max_concurrent is always a number; promise 3.
- A source that goes on after it was told to stop is an error of the reader's: where the reader has
  left, nobody hears of it; promise 5.
- A stream that was left is a RuntimeError to read: a ClosedResourceError; promise 7.

Without a counterpart here:
- Functions that are not asynchronous: generate must be, and the first call says so (tested here).
- switchmap, which cancels a call as the next item comes: each prompt has its outcome.
- zip, chain, merge, chunks, take and other operators: the source and the reader are plain Python.
- athrow, pipes, operators and their introspection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count, repeat
from operator import add
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Outcome, Success, collect, stream
from support import virtual
from support.calls import HeldCalls

pytestmark = pytest.mark.anyio
in_virtual_time = pytest.mark.parametrize("backend", virtual.BACKENDS)


async def double(prompt: int) -> int:
    return prompt * 2


async def sleep(seconds: int) -> int:
    await anyio.sleep(seconds)
    return seconds


def arrivals(
    backend: str,
    generate: Callable[[Any], Awaitable[Any]],
    prompts: Any,
    most: int | None = None,
    **options: Any,
) -> list[tuple[int, Any]]:
    """Return when each value came, and the value, in virtual time."""

    async def main() -> list[tuple[int, Any]]:
        began, seen = anyio.current_time(), []
        async with stream(generate, prompts, **options) as outcomes:
            async for outcome in outcomes:
                seen.append((round(anyio.current_time() - began), outcome.unwrap()))
                if len(seen) == most:
                    break
        return seen

    return virtual.run(backend, main)


# map


@in_virtual_time
def test_calls_run_at_the_same_time(backend: str) -> None:
    """aiostream: map of a coroutine function, without a limit that matters."""
    assert arrivals(backend, sleep, [1, 2, 3]) == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("ordered", [False, True])
@in_virtual_time
def test_with_a_limit_of_one_calls_run_one_after_another(backend: str, ordered: bool) -> None:
    """aiostream: map with task_limit=1."""
    seen = arrivals(backend, sleep, [3, 1, 2], max_concurrent=1, ordered=ordered)
    assert seen == [(3, 3), (4, 1), (6, 2)]


@in_virtual_time
def test_unordered_results_come_as_calls_end(backend: str) -> None:
    """aiostream: map with ordered=False."""
    seen = arrivals(backend, sleep, [2, 4, 1, 3, 5])
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]


@in_virtual_time
def test_ordered_results_come_in_the_order_of_the_source(backend: str) -> None:
    """aiostream: map with ordered=True; a result that was overtaken comes with the next."""
    seen = arrivals(backend, sleep, [2, 4, 1, 3, 5], ordered=True)
    assert seen == [(2, 2), (4, 4), (4, 1), (4, 3), (5, 5)]


async def test_unordered_results_come_in_any_order_that_calls_end_in() -> None:
    """aiostream: map with ordered=False, also on uvloop."""
    gate = HeldCalls()
    async with stream(gate.generate, range(4)) as outcomes:
        for prompt in (2, 0, 3, 1):
            gate.release(prompt)
            assert (await outcomes.receive()).unwrap() == prompt


async def test_ordered_results_wait_for_earlier_ones() -> None:
    """aiostream: map with ordered=True, also on uvloop."""
    gate = HeldCalls()
    async with stream(gate.generate, range(4), ordered=True) as outcomes:
        gate.release(2, 3, 1)
        await wait_all_tasks_blocked()
        assert outcomes.progress.finished == 3
        with anyio.move_on_after(0):
            pytest.fail(f"{await outcomes.receive()} has overtaken the first")
        gate.release(0)
        assert [outcome.unwrap() async for outcome in outcomes] == [0, 1, 2, 3]


async def test_several_sources_are_mapped_together() -> None:
    """aiostream: map over several sources at once ends with the shortest; here zip does that."""

    async def generate(prompt: tuple[int, int]) -> int:
        return add(*prompt)

    outcomes = await collect(generate, zip(range(5), count(), strict=False))
    assert [outcome.unwrap() for outcome in outcomes] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_tuples_can_be_spread_into_arguments(limit: int) -> None:
    """aiostream: starmap, with and without a limit."""

    async def total(first: int, second: int) -> int:
        await checkpoint()
        return first + second

    async def generate(prompt: tuple[int, int]) -> int:
        return await total(*prompt)

    pairs = [(number, 2 * number) for number in range(5)]
    outcomes = await collect(generate, pairs, max_concurrent=limit)
    assert [outcome.unwrap() for outcome in outcomes] == [0, 3, 6, 9, 12]


async def test_a_limit_of_none_at_all_is_refused() -> None:
    """aiostream: map with task_limit=0."""
    with pytest.raises(ValueError, match="max_concurrent must be >= 1, got 0"):
        stream(double, range(1, 4), max_concurrent=0)


async def test_a_function_that_is_not_asynchronous_is_refused_at_its_first_call() -> None:
    """aiostream: map of a plain function, which there is called without concurrency."""
    called: list[int] = []
    generate: Any = called.append
    with pytest.raises(TypeError, match="generate must be an async function"):
        async with stream(generate, range(9), max_concurrent=1) as outcomes:
            async for outcome in outcomes:
                assert isinstance(outcome, Failure)
    assert called == [0]


async def test_an_endless_source_is_left_after_a_few_results() -> None:
    """aiostream: the first three of map over a source without an end, which leaves no task."""
    gate = HeldCalls()
    before = len(anyio.get_running_tasks())
    received = []
    async with stream(gate.generate, count(), max_concurrent=10) as outcomes:
        gate.release(0, 1, 2)
        async for outcome in outcomes:
            received.append(outcome.unwrap())
            if len(received) == 3:
                break
        await wait_all_tasks_blocked()
    assert sorted(received) == [0, 1, 2]
    assert len(gate.started) == 13
    assert sorted(gate.cancelled) == list(range(3, 13))
    assert len(anyio.get_running_tasks()) == before


@in_virtual_time
def test_the_next_read_gets_what_one_that_timed_out_has_waited_for(backend: str) -> None:
    """aiostream: a timeout for each item of map with task_limit=1; there it is the end."""

    async def main() -> list[object]:
        seen: list[object] = []
        async with stream(sleep, [1, 2, 3, 6, 4], max_concurrent=1) as outcomes:
            while len(seen) < 6:
                try:
                    with anyio.fail_after(5):
                        seen.append((await outcomes.receive()).unwrap())
                except TimeoutError:
                    seen.append("timeout")
        return seen

    assert virtual.run(backend, main) == [1, 2, 3, "timeout", 6, 4]


@in_virtual_time
def test_a_timeout_that_is_not_caught_ends_the_batch(backend: str) -> None:
    """aiostream: a source whose items come in time and then never again."""
    cancelled = []

    async def prompts() -> AsyncIterator[int]:
        try:
            for prompt in range(3):
                yield prompt
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append("source")
            raise

    async def main() -> list[int]:
        seen = []
        with pytest.raises(TimeoutError):
            async with stream(double, prompts(), ordered=True) as outcomes:
                while True:
                    with anyio.fail_after(1):
                        seen.append((await outcomes.receive()).unwrap())
        return seen

    assert virtual.run(backend, main) == [0, 2, 4]
    assert cancelled == ["source"]


async def test_a_lambda_may_return_what_is_awaited() -> None:
    """aiostream: map of a function that is no coroutine function and returns an awaitable."""
    outcomes = await collect(lambda prompt: double(prompt), [1, 2, 3])
    assert [outcome.unwrap() for outcome in outcomes] == [2, 4, 6]


async def test_awaitables_can_be_the_prompts() -> None:
    """aiostream: map of a source of awaitables with what awaits them."""

    async def generate(awaitable: Awaitable[int]) -> int:
        return await awaitable

    outcomes = await collect(generate, map(double, [1, 2, 3]))
    assert [outcome.unwrap() for outcome in outcomes] == [2, 4, 6]


async def test_an_action_passes_its_items_on() -> None:
    """aiostream: action, whose own results are not wanted; an outcome has its prompt."""
    send, queue = anyio.create_memory_object_stream[int](9)
    with send, queue:
        async with stream(send.send, range(3), ordered=True) as outcomes:
            assert [outcome.prompt async for outcome in outcomes] == [0, 1, 2]
        assert sorted(queue.receive_nowait() for _ in range(3)) == [0, 1, 2]


# concatmap and flatmap


async def sequence(first: int) -> list[int]:
    """Take five seconds between the items."""
    await anyio.sleep(5)
    return [first, first + 1]


async def trickle() -> AsyncIterator[int]:
    """One item after another, a second between them."""
    for prompt in (0, 2, 4):
        yield prompt
        await anyio.sleep(1)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("limit", "times"), [(1, [5, 11, 17]), (2, [5, 6, 11]), (3, [5, 6, 7]), (9, [5, 6, 7])]
)
@in_virtual_time
def test_a_call_that_makes_a_sequence_has_one_outcome(
    backend: str, limit: int, times: list[int], ordered: bool
) -> None:
    """aiostream: concatmap and flatmap with limits, which slow the source; there items trickle."""
    seen = arrivals(backend, sequence, trickle(), max_concurrent=limit, ordered=ordered)
    assert seen == list(zip(times, [[0, 1], [2, 3], [4, 5]], strict=True))


@in_virtual_time
def test_an_error_behind_what_was_wanted_is_dropped(backend: str) -> None:
    """aiostream: concatmap where a later sequence fails before the first one ends."""

    async def generate(prompt: int) -> int:
        await anyio.sleep(prompt)
        if prompt == 1:
            raise ZeroDivisionError
        return prompt

    seen = arrivals(backend, generate, [3, 1, 2], most=1, ordered=True)
    assert seen == [(3, 3)]


async def test_an_error_before_what_was_wanted_is_one_outcome_among_others() -> None:
    """aiostream: a sequence that fails; there it is the end."""

    async def generate(prompt: int) -> float:
        return 6 / prompt

    outcomes = await collect(generate, [3, 0, 2])
    assert [type(outcome) for outcome in outcomes] == [Success, Failure, Success]


# merge and sources


async def test_a_source_that_fails_costs_nothing_that_came_before() -> None:
    """aiostream: merge hands over what is ready before it raises the error of a source."""

    async def prompts() -> AsyncIterator[int]:
        for prompt in (1, 2, 3):
            yield prompt
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        async with stream(double, prompts(), ordered=True) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome.unwrap())
    assert seen == [2, 4, 6]


async def test_a_source_that_fails_later_does_not_matter_to_who_has_left() -> None:
    """aiostream: merge with a source that fails, of which only the first items are taken."""

    async def prompts() -> AsyncIterator[int]:
        for prompt in (1, 2, 3):
            yield prompt
        raise ZeroDivisionError

    async with stream(double, prompts(), ordered=True) as outcomes:
        seen = [(await outcomes.receive()).unwrap() for _ in range(3)]
        await wait_all_tasks_blocked()
    assert seen == [2, 4, 6]


async def test_a_source_may_take_a_cancellation_for_its_end() -> None:
    """aiostream: merge with a source that swallows the cancellation when it is left."""
    swallowed = []

    async def prompts() -> AsyncIterator[int]:
        yield 1
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            swallowed.append(True)

    async with stream(double, prompts()) as outcomes:
        assert (await outcomes.receive()).unwrap() == 2
        await wait_all_tasks_blocked()
    assert swallowed == [True]


async def test_a_source_of_nothing_is_no_error() -> None:
    """aiostream: merge and the like of nothing."""

    async def nothing() -> AsyncIterator[int]:
        for prompt in ():
            yield prompt

    async with stream(double, nothing()) as outcomes:
        assert [outcome async for outcome in outcomes] == []


async def test_a_source_in_a_list_can_be_run_again() -> None:
    """aiostream: the same stream is run twice, and its sources are asked twice."""
    calls = []

    async def generate(prompt: int) -> int:
        calls.append(prompt)
        return prompt

    prompts = [0, 1, 2]
    runs = [await collect(generate, prompts) for _ in range(2)]
    assert runs[0] == runs[1]
    assert sorted(calls) == [0, 0, 1, 1, 2, 2]


async def test_an_iterator_may_be_of_any_asynchronous_kind() -> None:
    """aiostream: an asynchronous iterator that is no generator and cannot be closed."""

    class Countdown:
        def __init__(self, first: int) -> None:
            self._left = first

        def __aiter__(self) -> Countdown:
            return self

        async def __anext__(self) -> int:
            if not self._left:
                raise StopAsyncIteration
            self._left -= 1
            return self._left

    outcomes = await collect(double, Countdown(3))
    assert [outcome.unwrap() for outcome in outcomes] == [4, 2, 0]
    async with stream(double, Countdown(9), max_concurrent=1, ordered=True) as several:
        assert (await several.receive()).unwrap() == 16


# streamcontext and aitercontext


async def test_a_resource_of_the_source_is_closed_with_the_block() -> None:
    """aiostream: streamcontext over a source that holds a resource."""
    log: list[object] = []

    async def prompts() -> AsyncIterator[int]:
        log.append("open")
        try:
            for prompt in count():
                yield prompt
        finally:
            await checkpoint()
            log.append("closed")

    async with stream(double, prompts(), ordered=True) as outcomes:
        async for outcome in outcomes:
            log.append(outcome.unwrap())
            if outcome.index == 2:
                break
    assert log == ["open", 0, 2, 4, "closed"]


async def test_a_stream_is_no_synchronous_iterable() -> None:
    """aiostream: a for loop without async over a stream, opened or not."""
    made: Any = stream(double, range(3))
    with pytest.raises(TypeError):
        iter(made)
    async with made as outcomes:
        with pytest.raises(TypeError):
            iter(outcomes)


async def test_a_stream_is_iterated_in_its_block() -> None:
    """aiostream: iterating what was not opened by its context manager."""
    made: Any = stream(double, range(3))
    with pytest.raises(TypeError):
        aiter(made)


async def test_closing_again_changes_nothing() -> None:
    """aiostream: leaving and closing are idempotent; what was left cannot be read."""
    async with stream(double, range(3)) as outcomes:
        await outcomes.aclose()
        await outcomes.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
    await outcomes.aclose()
    for _ in range(2):
        with pytest.raises(anyio.ClosedResourceError):
            await anext(outcomes)


@pytest.mark.parametrize("error", [ZeroDivisionError, GeneratorExit])
@pytest.mark.parametrize("inside_the_loop", [True, False])
async def test_an_error_in_the_block_arrives_as_it_is(
    error: type[BaseException], inside_the_loop: bool
) -> None:
    """aiostream: an error, or GeneratorExit, raised inside and after the loop of the block."""
    with pytest.raises(error):
        async with stream(double, range(3)) as outcomes:
            async for _ in outcomes:
                if inside_the_loop:
                    raise error
            raise error


async def test_a_source_does_not_hear_of_the_error_in_the_block() -> None:
    """aiostream: a generator that swallows what is thrown into it, and so the error; here not."""
    heard = []

    async def prompts() -> AsyncIterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                return
            except BaseException as exc:  # noqa: BLE001 - there must be none
                heard.append(exc)
                return

    with pytest.raises(ZeroDivisionError):
        async with stream(double, prompts()) as outcomes:
            async for _ in outcomes:
                raise ZeroDivisionError
    assert heard == []


@pytest.mark.parametrize("reading", [True, False])
async def test_a_source_that_does_not_stop_disturbs_nobody_who_has_left(reading: bool) -> None:
    """aiostream: a generator that yields again when it is closed; there a RuntimeError."""

    async def prompts() -> AsyncIterator[int]:
        try:
            for prompt in repeat(1):
                yield prompt
        except GeneratorExit:
            yield 2

    async with stream(double, prompts(), max_concurrent=1) as outcomes:
        if reading:
            assert (await outcomes.receive()).unwrap() == 2
        else:
            await wait_all_tasks_blocked()


async def test_leaving_ends_calls_of_every_kind() -> None:
    """aiostream: a task group left with tasks that are done, fail, run, or fail when cancelled."""
    ended: list[str] = []

    async def generate(prompt: str) -> str:
        try:
            match prompt:
                case "fails":
                    raise ValueError(prompt)
                case "runs" | "fails in cleanup":
                    await anyio.sleep_forever()
        finally:
            ended.append(prompt)
            if prompt == "fails in cleanup":
                raise ValueError(prompt)
        return prompt

    received: list[Outcome[str, str]] = []
    kinds = ["returns", "fails", "runs", "fails in cleanup"]
    async with stream(generate, kinds) as outcomes:
        received.append(await outcomes.receive())
        received.append(await outcomes.receive())
        await wait_all_tasks_blocked()
        assert sorted(ended) == ["fails", "returns"]
    assert sorted(ended) == sorted(kinds)
    assert {outcome.prompt for outcome in received} == {"returns", "fails"}
