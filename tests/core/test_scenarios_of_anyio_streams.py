"""The scenarios that anyio tests its memory object streams by, on a stream of outcomes.

From anyio 4.16, tests/streams/test_memory.py; only the scenarios are theirs. An outcome stream has
no sending end for its reader: a call that ends takes the place of each send.

What differs, and the promise that makes the difference:

- A receive in a cancelled scope goes no further: it may return an outcome that is ready, and either
  way nothing is lost; promise 1.
- An item that was sent arrives although the receiver closes before it runs: leaving drops what was
  not read, and the reader hears of it; promise 5.
- An item handed to a task just before its native cancellation is lost: it is not; promise 1.
- A send that blocks or is cancelled: handing over never waits, the next call does; promise 4.

Without a counterpart here:
- receive_nowait, clone, a synchronous close, the buffer's statistics, the repr of a receiver and
  the deprecated item_type: an outcome stream is an ObjectReceiveStream, shared by handing it to
  several readers, left by its block, and measured by its progress.
- Closing one clone while it receives: a reader that stops is one whose scope is cancelled.
- The variance of the item type: tests/typing/api.py.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio import CancelScope, Event, create_task_group, wait_all_tasks_blocked

from genbatch import OutcomeStream, collect, stream
from support.backends import only_asyncio, until

pytestmark = pytest.mark.anyio


class Calls:
    """A generate whose calls end when told, and what was started of them."""

    def __init__(self, *ended: str) -> None:
        self.started: list[str] = []
        self._may_end: dict[str, Event] = {}
        self.end(*ended)

    def end(self, *prompts: str) -> None:
        for prompt in prompts:
            self._event(prompt).set()

    def _event(self, prompt: str) -> Event:
        return self._may_end.setdefault(prompt, Event())

    async def generate(self, prompt: str) -> str:
        self.started.append(prompt)
        await self._event(prompt).wait()
        return prompt.upper()


class Reader:
    """What was received by reads in other tasks, in a scope that can be cancelled."""

    def __init__(self, outcomes: OutcomeStream[str, str]) -> None:
        self.received: list[str] = []
        self.errors: list[type[Exception]] = []
        self.scope = CancelScope()
        self._outcomes = outcomes

    async def read(self, times: int = 1) -> None:
        with self.scope:
            try:
                for _ in range(times):
                    self.received.append((await self._outcomes.receive()).unwrap())
            except (anyio.EndOfStream, anyio.ClosedResourceError) as exc:
                self.errors.append(type(exc))


@pytest.mark.parametrize(
    ("bound", "error"), [(1.0, TypeError), ("5", TypeError), (None, TypeError), (-1, ValueError)]
)
async def test_the_bound_must_be_a_positive_int(bound: Any, error: type[Exception]) -> None:
    """anyio: a buffer size that is no whole number, or negative."""
    with pytest.raises(error, match="max_concurrent must be"):
        stream(Calls().generate, ["a"], max_concurrent=bound)


async def test_a_reader_that_waits_gets_what_comes_later() -> None:
    """anyio: receive, then send."""
    calls = Calls()
    async with stream(calls.generate, ["a", "b"]) as outcomes, create_task_group() as group:
        reader = Reader(outcomes)
        group.start_soon(reader.read, 2)
        await wait_all_tasks_blocked()
        calls.end("a")
        await wait_all_tasks_blocked()
        assert reader.received == ["A"]
        calls.end("b")
    assert reader.received == ["A", "B"]


async def test_two_readers_that_wait_get_one_outcome_each() -> None:
    """anyio: two receivers, then two items sent at once."""
    calls = Calls()
    async with stream(calls.generate, ["a", "b"]) as outcomes:
        async with create_task_group() as group:
            readers = [Reader(outcomes), Reader(outcomes)]
            for reader in readers:
                group.start_soon(reader.read)
            await wait_all_tasks_blocked()
            calls.end("a", "b")
    assert sorted(reader.received for reader in readers) == [["A"], ["B"]]


async def test_outcomes_that_are_ready_are_read_in_the_order_they_came() -> None:
    """anyio: send without waiting, then receive without waiting."""
    calls = Calls()
    async with stream(calls.generate, ["a", "b"]) as outcomes:
        await wait_all_tasks_blocked()
        calls.end("b")
        await wait_all_tasks_blocked()
        calls.end("a")
        await wait_all_tasks_blocked()
        assert (await outcomes.receive()).unwrap() == "B"
        assert (await outcomes.receive()).unwrap() == "A"


async def test_reading_makes_room_for_the_next_call() -> None:
    """anyio: a sender that waits for room goes on when an item is received."""
    calls = Calls("a", "b", "c")
    async with stream(calls.generate, ["a", "b", "c"], max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        assert calls.started == ["a", "b"]
        assert (await outcomes.receive()).unwrap() == "A"
        await wait_all_tasks_blocked()
        assert calls.started == ["a", "b", "c"]
        assert (await outcomes.receive()).unwrap() == "B"
        assert (await outcomes.receive()).unwrap() == "C"


async def test_iterating_ends_with_the_last_outcome() -> None:
    """anyio: iterating until the sender closes."""
    calls = Calls()
    received = []

    async def read() -> None:
        received.extend([outcome.unwrap() async for outcome in outcomes])

    async with stream(calls.generate, ["a", "b"]) as outcomes, create_task_group() as group:
        group.start_soon(read)
        for prompt in ("a", "b"):
            await wait_all_tasks_blocked()
            calls.end(prompt)
    assert received == ["A", "B"]


async def test_a_closed_stream_can_neither_be_read_nor_written_to() -> None:
    """anyio: receive and send on a closed stream; here a cancelled call ends all the same."""
    calls = Calls()

    async def stubborn(prompt: str) -> str:
        with CancelScope(shield=True):
            return await calls.generate(prompt)

    async with stream(stubborn, ["a"]) as outcomes, create_task_group() as group:
        await wait_all_tasks_blocked()
        group.start_soon(outcomes.aclose)
        await wait_all_tasks_blocked()
        calls.end("a")
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
    assert outcomes.progress.succeeded == 1
    assert outcomes.progress.done == 0


async def test_a_reader_that_is_cancelled_takes_nothing_with_it() -> None:
    """anyio: a receiver that is cancelled while it waits."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes:
        async with create_task_group() as group:
            group.start_soon(outcomes.receive)
            await wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        calls.end("a")
        assert (await outcomes.receive()).unwrap() == "A"


async def test_a_waiting_reader_learns_that_nothing_more_comes() -> None:
    """anyio: the sender closes while a receiver waits."""
    last = Event()

    async def prompts() -> AsyncIterator[str]:
        yield "a"
        await last.wait()

    async with stream(Calls("a").generate, prompts()) as outcomes:
        async with create_task_group() as group:
            reader = Reader(outcomes)
            group.start_soon(reader.read, 2)
            await wait_all_tasks_blocked()
            assert (reader.received, reader.errors) == (["A"], [])
            last.set()
    assert reader.errors == [anyio.EndOfStream]


async def test_closing_cancels_calls_that_have_nothing_to_hand_over_yet() -> None:
    """anyio: the receiver closes while others send and receive."""
    calls = Calls()
    async with stream(calls.generate, ["a", "b"]) as outcomes:
        async with create_task_group() as group:
            reader = Reader(outcomes)
            group.start_soon(reader.read)
            await wait_all_tasks_blocked()
            await outcomes.aclose()
        assert reader.errors == [anyio.ClosedResourceError]
        assert outcomes.progress.in_flight == 0


async def test_what_is_ready_can_be_read_after_the_last_call_has_ended() -> None:
    """anyio: receive after the sender has closed."""
    async with stream(Calls("a", "b").generate, ["a", "b"]) as outcomes:
        await wait_all_tasks_blocked()
        assert outcomes.progress.in_flight == 0
        assert [outcome.unwrap() async for outcome in outcomes] == ["A", "B"]


async def test_a_read_in_a_cancelled_scope_loses_nothing() -> None:
    """anyio: receive in a scope that is cancelled already."""
    received = []
    async with stream(Calls("a", "b").generate, ["a", "b"]) as outcomes:
        await wait_all_tasks_blocked()
        with CancelScope() as scope:
            scope.cancel()
            received.append(await outcomes.receive())
        received.extend([outcome async for outcome in outcomes])
    assert [outcome.unwrap() for outcome in received] == ["A", "B"]


async def test_in_a_cancelled_scope_no_call_is_made() -> None:
    """anyio: send in a scope that is cancelled already."""
    calls = Calls("a")
    with CancelScope() as scope:
        scope.cancel()
        await collect(calls.generate, ["a"])
    with CancelScope() as scope:
        scope.cancel()
        async with stream(calls.generate, ["a"]) as outcomes:
            await outcomes.receive()
    assert calls.started == []


@pytest.mark.parametrize("first", ["end", "cancel"])
async def test_a_read_cancelled_while_its_outcome_comes_loses_nothing(first: str) -> None:
    """anyio: a receiver is cancelled as an item is sent to it."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes:
        async with create_task_group() as group:
            reader = Reader(outcomes)
            group.start_soon(reader.read)
            await wait_all_tasks_blocked()
            if first == "end":
                calls.end("a")
                reader.scope.cancel()
            else:
                reader.scope.cancel()
                calls.end("a")
        rest = [outcome.unwrap() async for outcome in outcomes]
    assert reader.received + rest == ["A"]


async def test_an_outcome_goes_to_the_next_reader_when_the_first_is_cancelled() -> None:
    """anyio: an item is sent to a receiver that was cancelled, and another waits."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes:
        async with create_task_group() as group:
            first, second = Reader(outcomes), Reader(outcomes)
            group.start_soon(first.read)
            await wait_all_tasks_blocked()
            group.start_soon(second.read)
            await wait_all_tasks_blocked()
            first.scope.cancel()
            calls.end("a")
    assert (first.received, second.received) == ([], ["A"])


async def test_the_reader_may_close_right_after_the_last_outcome() -> None:
    """anyio: the receiver closes right after it has received."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes, create_task_group() as group:
        reader = Reader(outcomes)

        async def read_and_close() -> None:
            async with outcomes:
                await reader.read()

        group.start_soon(read_and_close)
        await wait_all_tasks_blocked()
        calls.end("a")
    assert reader.received == ["A"]


async def test_leaving_drops_an_outcome_on_its_way_to_a_reader() -> None:
    """anyio: the receiver closes after an item was sent to it, and before it runs."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes, create_task_group() as group:
        reader = Reader(outcomes)
        group.start_soon(reader.read)
        await wait_all_tasks_blocked()
        calls.end("a")
        await until(lambda: outcomes.progress.succeeded == 1)
        await outcomes.aclose()
    # Which of both runs first is up to the backend.
    closed = [anyio.ClosedResourceError]
    assert (reader.received, reader.errors) in ((["A"], []), ([], closed))


async def test_progress_follows_each_step() -> None:
    """anyio: the statistics of a stream as items come and go."""

    def counts() -> tuple[int, int, int, int]:
        now = outcomes.progress
        return now.started, now.in_flight, now.succeeded, now.done

    calls = Calls()
    async with stream(calls.generate, ["a", "b", "c"], max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        assert counts() == (1, 1, 0, 0)
        calls.end("a", "b")
        await wait_all_tasks_blocked()
        assert counts() == (2, 0, 2, 0)
        await outcomes.receive()
        await wait_all_tasks_blocked()
        assert counts() == (3, 1, 2, 1)
        calls.end("c")
        assert len([outcome async for outcome in outcomes]) == 2
        assert counts() == (3, 0, 3, 3)


async def test_nothing_is_left_unclosed() -> None:
    """anyio: an unclosed stream warns when it is collected, and a warning is an error here."""
    stream(Calls().generate, ["a"])
    async with stream(Calls("a").generate, ["a"]):
        pass
    async with stream(Calls("a").generate, ["a"]) as outcomes:
        await outcomes.receive()
    del outcomes
    gc.collect()


@only_asyncio
async def test_an_outcome_is_not_delivered_to_a_natively_cancelled_reader() -> None:
    """anyio: an item is sent after the waiting task was natively cancelled."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes:
        task = asyncio.ensure_future(outcomes.receive())
        await wait_all_tasks_blocked()
        task.cancel()
        calls.end("a")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await outcomes.receive()).unwrap() == "A"


@only_asyncio
async def test_a_native_cancellation_at_the_moment_of_delivery_loses_nothing() -> None:
    """anyio: the same the other way round, where its own receive loses the item."""
    calls = Calls()
    async with stream(calls.generate, ["a"]) as outcomes:
        task = asyncio.ensure_future(outcomes.receive())
        await wait_all_tasks_blocked()
        calls.end("a")
        while not outcomes.progress.succeeded:  # noqa: ASYNC110 - each step of the loop counts
            await asyncio.sleep(0)
        task.cancel()
        received = await asyncio.gather(task, return_exceptions=True)
        if isinstance(received[0], BaseException):
            received = [await outcomes.receive()]
        assert [outcome.unwrap() for outcome in received] == ["A"]  # type: ignore[union-attr]
