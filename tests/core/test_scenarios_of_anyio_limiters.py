"""The scenarios that anyio tests its CapacityLimiter by, on the limiter of a batch.

From anyio 4.16, tests/test_synchronization.py (TestCapacityLimiter) and tests/test_to_thread.py;
only the scenarios are theirs. ``outcomes.limiter`` is a CapacityLimiter that lends a token to each
call, so a call takes the place of one of their borrowers.

What differs, and the promise that makes the difference:

- A limiter without a limit (infinite total_tokens): counts as 1,000 calls at once; promise 3.
- A limiter may begin with 0 tokens: max_concurrent may not, a batch that never begins is a
  mistake. Setting 0 later is a pause; promise 2.
- Only who waits hears of more tokens: a batch starts more calls at once; promise 2.

Without a counterpart here:
- Arguments of the constructor, also by keyword: max_concurrent is the batch's own, see
  test_scenarios_of_anyio_streams.py.
- The default limiter of threads: a batch's limiter is never that one.
- A limiter made outside an event loop: the batch makes its own as it is opened.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio import (
    CancelScope,
    CapacityLimiter,
    Event,
    WouldBlock,
    create_task_group,
    from_thread,
    to_thread,
    wait_all_tasks_blocked,
)

from genbatch import collect, stream
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio


class Calls:
    """A generate whose calls end when told, and how many of them run at once."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.running = self.peak = 0
        self._may_end: dict[int, Event] = {}

    def end(self, *prompts: int) -> None:
        for prompt in prompts:
            self._event(prompt).set()

    def _event(self, prompt: int) -> Event:
        return self._may_end.setdefault(prompt, Event())

    async def generate(self, prompt: int) -> int:
        self.started.append(prompt)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self._event(prompt).wait()
        finally:
            self.running -= 1
        return prompt


class Borrower:
    """A task of the app that borrows a token of the batch's and keeps it until told."""

    def __init__(self, limiter: CapacityLimiter) -> None:
        self.has_token = False
        self.scope = CancelScope()
        self._limiter = limiter
        self._may_end = Event()

    def end(self) -> None:
        self._may_end.set()

    async def borrow(self) -> None:
        with self.scope:
            async with self._limiter:
                self.has_token = True
                await self._may_end.wait()


# Borrowing


async def test_each_call_borrows_a_token_and_gives_it_back() -> None:
    """anyio: the counts of tokens before, during and after a loan."""
    calls = Calls()
    async with stream(calls.generate, [0], max_concurrent=2) as outcomes:
        limiter = outcomes.limiter
        assert isinstance(limiter, CapacityLimiter)
        await wait_all_tasks_blocked()
        counts = limiter.total_tokens, limiter.available_tokens, limiter.borrowed_tokens
        assert counts == (2, 1, 1)
        calls.end(0)
        await wait_all_tasks_blocked()
        counts = limiter.total_tokens, limiter.available_tokens, limiter.borrowed_tokens
        assert counts == (2, 2, 0)


async def test_calls_and_the_app_exclude_one_another() -> None:
    """anyio: with one token, nobody is ever inside together with another."""
    inside = 0

    async def be_alone() -> None:
        nonlocal inside
        assert inside == 0
        inside += 1
        await wait_all_tasks_blocked()
        inside -= 1

    async def generate(prompt: int) -> int:
        await be_alone()
        return prompt

    async def borrow() -> None:
        for _ in range(5):
            async with outcomes.limiter:
                await be_alone()

    async with stream(generate, range(5), max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            for _ in range(3):
                group.start_soon(borrow)
            assert [outcome.unwrap() async for outcome in outcomes] == [0, 1, 2, 3, 4]


async def test_a_borrower_cannot_borrow_twice() -> None:
    """anyio: acquiring again what the same task holds already is an error, not a deadlock."""
    async with stream(Calls().generate, [], max_concurrent=2) as outcomes:
        async with outcomes.limiter:
            with pytest.raises(RuntimeError, match="already holding one of this CapacityLimiter's"):
                await outcomes.limiter.acquire()
            assert outcomes.limiter.borrowed_tokens == 1
        assert outcomes.limiter.borrowed_tokens == 0


async def test_a_stranger_cannot_give_back_the_token_of_a_call() -> None:
    """anyio: releasing a token that the task does not hold is an error."""
    calls = Calls()
    async with stream(calls.generate, range(3), max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="isn't holding any of this CapacityLimiter's"):
            outcomes.limiter.release()
        await wait_all_tasks_blocked()
        assert outcomes.limiter.borrowed_tokens == 1
        assert calls.started == [0]


async def test_without_waiting_there_is_a_token_or_an_error() -> None:
    """anyio: acquire_nowait while all tokens are lent."""
    calls = Calls()
    async with stream(calls.generate, [0], max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        with pytest.raises(WouldBlock):
            outcomes.limiter.acquire_nowait()
        calls.end(0)
        await outcomes.receive()
        outcomes.limiter.acquire_nowait()
        outcomes.limiter.release()


async def test_a_token_can_be_borrowed_for_another() -> None:
    """anyio: acquire_on_behalf_of_nowait for one borrower too many."""
    async with stream(Calls().generate, [], max_concurrent=1) as outcomes:
        first, second = object(), object()
        outcomes.limiter.acquire_on_behalf_of_nowait(first)
        with pytest.raises(WouldBlock):
            outcomes.limiter.acquire_on_behalf_of_nowait(second)
        outcomes.limiter.release_on_behalf_of(first)


async def test_tokens_are_lent_in_the_order_in_which_they_were_asked_for() -> None:
    """anyio: a queue of borrowers is served in order; here the batch's next call is the last."""
    calls = Calls()
    async with stream(calls.generate, [0, 1], max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            first, second = Borrower(outcomes.limiter), Borrower(outcomes.limiter)
            for borrower in (first, second):
                await wait_all_tasks_blocked()
                group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            assert (first.has_token, second.has_token, calls.started) == (False, False, [0])
            calls.end(0)
            await wait_all_tasks_blocked()
            assert (first.has_token, second.has_token, calls.started) == (True, False, [0])
            first.end()
            await wait_all_tasks_blocked()
            assert (second.has_token, calls.started) == (True, [0])
            second.end()
            await wait_all_tasks_blocked()
            assert calls.started == [0, 1]


async def test_a_token_on_its_way_to_a_call_is_nobody_elses() -> None:
    """anyio: acquire_nowait between a release and the waking of the next in line."""
    calls = Calls()
    async with stream(calls.generate, [0, 1], max_concurrent=1) as outcomes:
        limiter, borrower = outcomes.limiter, object()
        await wait_all_tasks_blocked()
        async with create_task_group() as group:
            group.start_soon(limiter.acquire_on_behalf_of, borrower)
            await wait_all_tasks_blocked()
            calls.end(0)
        await wait_all_tasks_blocked()
        assert calls.started == [0]
        limiter.release_on_behalf_of(borrower)
        with pytest.raises(WouldBlock):
            limiter.acquire_on_behalf_of_nowait("another")
        assert (limiter.borrowed_tokens, limiter.available_tokens) == (1, 0)
        await wait_all_tasks_blocked()
        assert calls.started == [0, 1]


# Cancellation


async def test_a_token_goes_to_the_next_borrower_when_the_first_is_cancelled() -> None:
    """anyio: the longest waiting borrower is cancelled as a token becomes free."""
    calls = Calls()
    async with stream(calls.generate, [0], max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            first, second = Borrower(outcomes.limiter), Borrower(outcomes.limiter)
            for borrower in (first, second):
                await wait_all_tasks_blocked()
                group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            calls.end(0)
            first.scope.cancel()
            await wait_all_tasks_blocked()
            assert (first.has_token, second.has_token) == (False, True)
            second.end()
        await wait_all_tasks_blocked()  # the batch borrows it once more, to see that it is done
        assert outcomes.limiter.borrowed_tokens == 0


async def test_a_token_goes_to_a_call_when_the_borrower_before_it_is_cancelled() -> None:
    """anyio: the same, where a call of the batch is the next in line."""
    calls = Calls()
    async with stream(calls.generate, [0, 1], max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            holder, waiter = Borrower(outcomes.limiter), Borrower(outcomes.limiter)
            for borrower in (holder, waiter):
                await wait_all_tasks_blocked()
                group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            calls.end(0)
            await wait_all_tasks_blocked()
            holder.end()
            waiter.scope.cancel()
            await wait_all_tasks_blocked()
            assert (waiter.has_token, calls.started) == (False, [0, 1])


async def test_leaving_takes_the_waiting_calls_out_of_the_line() -> None:
    """anyio: a waiter that is cancelled waits no more; here all calls of a batch at once."""
    async with stream(Calls().generate, range(9), max_concurrent=3) as outcomes:
        limiter = outcomes.limiter
        limiter.total_tokens = 0
        async with create_task_group() as group:
            borrower = Borrower(limiter)
            group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            await outcomes.aclose()
            assert limiter.statistics().tasks_waiting == 1
            limiter.total_tokens = 1
            await wait_all_tasks_blocked()
            assert borrower.has_token
            borrower.end()
    assert limiter.borrowed_tokens == 0


@only_asyncio
async def test_a_natively_cancelled_borrower_hands_the_token_on() -> None:
    """anyio: a native cancellation of the holder leaves no deadlock behind."""
    async with stream(Calls().generate, [], max_concurrent=1) as outcomes:
        holder, waiter = Borrower(outcomes.limiter), Borrower(outcomes.limiter)
        tasks = [asyncio.create_task(each.borrow()) for each in (holder, waiter)]
        await wait_all_tasks_blocked()
        tasks[0].cancel()
        await wait_all_tasks_blocked()
        assert waiter.has_token
        waiter.end()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, type(None)]


@only_asyncio
async def test_a_token_acquired_by_a_natively_cancelled_task_is_given_back() -> None:
    """anyio: a cancellation in the checkpoint after a token was acquired for another."""
    async with stream(Calls().generate, [], max_concurrent=1) as outcomes:
        task = asyncio.create_task(outcomes.limiter.acquire_on_behalf_of(object()))
        if not outcomes.limiter.borrowed_tokens:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outcomes.limiter.borrowed_tokens == 0
        assert outcomes.limiter.statistics().borrowers == ()


# Resizing


async def test_raising_wakes_a_borrower_that_waits() -> None:
    """anyio: more tokens let in who waits, while the first holder still holds its own."""
    calls = Calls()
    async with stream(calls.generate, [0], max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            borrower = Borrower(outcomes.limiter)
            await wait_all_tasks_blocked()
            group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            assert not borrower.has_token
            outcomes.limiter.total_tokens = 2
            await wait_all_tasks_blocked()
            assert (borrower.has_token, calls.running) == (True, 1)
            borrower.end()


async def test_raising_starts_more_calls_at_once() -> None:
    """anyio: more tokens than before; here nobody has waited for them yet."""
    calls = Calls()
    async with stream(calls.generate, range(9), max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        assert calls.started == [0]
        outcomes.limiter.total_tokens = 4
        await wait_all_tasks_blocked()
        assert calls.started == [0, 1, 2, 3]


async def test_raising_by_many_wakes_all_and_leaves_some_for_later() -> None:
    """anyio: more tokens than waiters; one that comes afterwards has its token at once."""
    calls = Calls()
    async with stream(calls.generate, [0], max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            first, later = Borrower(outcomes.limiter), Borrower(outcomes.limiter)
            await wait_all_tasks_blocked()
            group.start_soon(first.borrow)
            await wait_all_tasks_blocked()
            outcomes.limiter.total_tokens = 3
            group.start_soon(later.borrow)
            await wait_all_tasks_blocked()
            assert (first.has_token, later.has_token, calls.running) == (True, True, 1)
            first.end()
            later.end()


async def test_lowering_lets_running_calls_finish() -> None:
    """anyio: fewer tokens than are lent; none is taken away, and none is lent until enough end."""
    calls = Calls()
    async with stream(calls.generate, range(9), max_concurrent=3) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 1
        assert outcomes.limiter.available_tokens == -2
        for ended in (0, 1):
            await wait_all_tasks_blocked()
            calls.end(ended)
            await outcomes.receive()
        await wait_all_tasks_blocked()
        assert (calls.started, calls.running) == ([0, 1, 2], 1)
        calls.end(2)
        await outcomes.receive()
        await wait_all_tasks_blocked()
        assert (calls.started, calls.running) == ([0, 1, 2, 3], 1)


async def test_lowering_leaves_nothing_waiting_that_fits() -> None:
    """anyio: a token that is free goes to who waits; here to a prompt that comes after lowering."""
    more = Event()

    async def prompts() -> AsyncIterator[int]:
        yield 0
        yield 1
        await more.wait()
        yield 2
        await anyio.sleep_forever()  # for the outcome of the last one, say

    calls = Calls()
    calls.end(0, 1, 2)
    async with stream(calls.generate, prompts(), max_concurrent=3) as outcomes:
        for _ in range(2):
            await outcomes.receive()
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 1
        more.set()
        await wait_all_tasks_blocked()
        assert outcomes.progress.finished == 3
        assert (await outcomes.receive()).unwrap() == 2


async def test_no_tokens_are_a_pause() -> None:
    """anyio: a limiter may have 0 tokens."""
    calls = Calls()
    async with stream(calls.generate, range(4), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.limiter.total_tokens = 0
        assert outcomes.limiter.total_tokens == 0
        calls.end(0, 1, 2, 3)
        received = [(await outcomes.receive()).index for _ in range(2)]
        await wait_all_tasks_blocked()
        assert calls.started == sorted(received) == [0, 1]
        outcomes.limiter.total_tokens = 2
        received += [outcome.index async for outcome in outcomes]
    assert sorted(received) == [0, 1, 2, 3]


async def test_a_pause_can_be_left() -> None:
    """anyio: a limiter may have 0 tokens; who waits for one can still be cancelled."""
    calls = Calls()
    async with stream(calls.generate, range(4), max_concurrent=2) as outcomes:
        outcomes.limiter.total_tokens = 0
        await wait_all_tasks_blocked()
    assert calls.running == 0
    assert outcomes.progress.in_flight == 0


async def test_lowering_and_raising_again_lends_nothing_twice() -> None:
    """anyio: raising must not let in more than fit where more are lent than there were tokens."""
    calls = Calls()
    async with stream(calls.generate, range(9), max_concurrent=2) as outcomes:
        async with create_task_group() as group:
            borrowers = [Borrower(outcomes.limiter), Borrower(outcomes.limiter)]
            await wait_all_tasks_blocked()
            for borrower in borrowers:
                group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            for total in (1, 2):
                outcomes.limiter.total_tokens = total
            await wait_all_tasks_blocked()
            assert outcomes.limiter.borrowed_tokens == calls.peak == 2
            assert outcomes.limiter.statistics().tasks_waiting == 2
            group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("total", "error"),
    [
        (-1, ValueError),
        (1.5, TypeError),
        ("2", TypeError),
        (None, TypeError),
        (math.nan, TypeError),
    ],
)
async def test_a_bad_total_changes_nothing(total: Any, error: type[Exception]) -> None:
    """anyio: totals that are negative or no whole number, in the constructor or later."""
    calls = Calls()
    async with stream(calls.generate, range(9), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        with pytest.raises(error):
            outcomes.limiter.total_tokens = total
        await wait_all_tasks_blocked()
        assert outcomes.limiter.total_tokens == 2
        assert calls.started == [0, 1]
        calls.end(0)
        await wait_all_tasks_blocked()
        assert (calls.started, calls.running) == ([0, 1, 2], 2)


@pytest.mark.parametrize("infinity", [math.inf, float("inf")])
async def test_an_infinite_total_is_a_thousand_calls(infinity: float) -> None:
    """anyio: a limiter without a limit, also by an infinity that is another object."""
    calls = Calls()
    async with stream(calls.generate, range(1_200), max_concurrent=1) as outcomes:
        outcomes.limiter.total_tokens = infinity
        assert outcomes.limiter.total_tokens == math.inf
        await wait_all_tasks_blocked()
        assert calls.running == 1_000


# What else a limiter is for


async def test_statistics_count_the_calls_and_who_waits() -> None:
    """anyio: the statistics of a limiter as borrowers come and go."""
    calls = Calls()
    async with stream(calls.generate, [0], max_concurrent=1) as outcomes:
        async with create_task_group() as group:
            for waiting in range(3):
                await wait_all_tasks_blocked()
                statistics = outcomes.limiter.statistics()
                assert (statistics.total_tokens, statistics.borrowed_tokens) == (1, 1)
                assert len(statistics.borrowers) == 1
                assert statistics.tasks_waiting == waiting
                borrower = Borrower(outcomes.limiter)
                borrower.end()
                group.start_soon(borrower.borrow)
            await wait_all_tasks_blocked()
            calls.end(0)
        await wait_all_tasks_blocked()  # the batch borrows one once more, to see that it is done
        statistics = outcomes.limiter.statistics()
        assert (statistics.borrowed_tokens, statistics.tasks_waiting) == (0, 0)
        assert statistics.borrowers == ()


async def test_threads_can_share_the_tokens_of_the_calls() -> None:
    """anyio: to_thread.run_sync with a limiter of one's own runs no more threads than fit."""
    calls = Calls()
    may_end, both_run = threading.Event(), Event()
    running: set[int] = set()
    peak = 0

    def work() -> None:
        nonlocal peak
        running.add(threading.get_ident())
        peak = max(peak, len(running))
        if len(running) == 2:
            from_thread.run_sync(both_run.set)
        may_end.wait(60)
        running.remove(threading.get_ident())

    async def run_work() -> None:
        await to_thread.run_sync(work, limiter=outcomes.limiter)

    async with stream(calls.generate, [0], max_concurrent=3) as outcomes:
        await wait_all_tasks_blocked()
        async with create_task_group() as group:
            for _ in range(4):
                group.start_soon(run_work)
            await both_run.wait()
            await wait_all_tasks_blocked()
            assert (len(running), calls.running) == (2, 1)
            assert outcomes.limiter.borrowed_tokens == 3
            may_end.set()
        assert (peak, running) == (2, set())
        assert outcomes.limiter.borrowed_tokens == 1


async def test_another_batch_can_share_the_tokens_of_the_calls() -> None:
    """anyio: any user of a CapacityLimiter takes this one; here a second batch."""
    calls = Calls()
    async with stream(calls.generate, range(4), max_concurrent=2) as outcomes:
        await wait_all_tasks_blocked()
        shared = outcomes.limiter
        async with stream(calls.generate, range(10, 14), limiter=shared) as others:
            assert others.limiter is not shared
            await wait_all_tasks_blocked()
            assert calls.started == [0, 1]
            calls.end(*range(14))
            assert len([outcome async for outcome in others]) == 4
        assert len([outcome async for outcome in outcomes]) == 4
    assert calls.peak == 2
    assert shared.borrowed_tokens == 0


async def test_the_limiter_of_a_batch_that_is_over_starts_nothing() -> None:
    """anyio: a limiter is an object like any other, before and after its use."""
    calls = Calls()
    async with stream(calls.generate, range(9), max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
    outcomes.limiter.total_tokens = 5
    async with outcomes.limiter:
        await wait_all_tasks_blocked()
        assert outcomes.limiter.borrowed_tokens == 1
    assert calls.started == [0]


def test_a_stream_can_be_made_outside_an_event_loop(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    """anyio: a limiter made where no event loop runs, and used where one does."""
    calls = Calls()
    made = stream(calls.generate, [0], max_concurrent=2)

    async def main() -> float:
        calls.end(0)
        async with made as outcomes:
            await outcomes.receive()
            return outcomes.limiter.total_tokens

    backend, options = anyio_backend
    assert anyio.run(main, backend=backend, backend_options=options) == 2


async def test_a_batch_leaves_the_default_limiter_of_threads_alone() -> None:
    """anyio: the limiter that threads have by default has 40 tokens."""
    default = to_thread.current_default_thread_limiter()
    calls = Calls()
    calls.end(*range(9))
    await collect(calls.generate, range(9))
    assert (default.total_tokens, default.borrowed_tokens) == (40, 0)
