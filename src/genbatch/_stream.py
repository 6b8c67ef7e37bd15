"""stream and collect: at most k calls at once, exactly one outcome per prompt.

1.  Exactly one outcome per prompt pulled, with its index and prompt, while the block is open,
    whatever cancels a read. A cancellation that comes out of generate while nobody is cancelling
    the batch is that prompt's Failure. Leaving drops outcomes unread and calls in flight.
2.  Never more than min(max_concurrent, limiter.total_tokens) calls at once.
3.  At most 2 * max_concurrent prompts are pulled and not handed over; O(max_concurrent) tasks.
4.  A slow reader slows the calls. The limiter's token is released before the hand-over.
5.  Leaving the block starts no further call, cancels those in flight and waits for them.
6.  An Exception from generate is data; with fail_fast it stops the batch. A source error stops
    pulling and is raised after the last outcome. Neither cancels the reader's block, and an error
    of that block arrives bare. What a call raises that is no Exception, such as KeyboardInterrupt,
    ends the block, bare as well.
7.  EndOfStream means that every prompt pulled was handed over; a stream whose block was left
    raises ClosedResourceError.
8.  A prompt never sees a contextvar that another prompt set.
9.  Workers and readers checkpoint at least every 64 items.
10. Nothing is yielded inside a task group but by an asynccontextmanager.

How: workers, grown lazily up to max_concurrent, share one numbered source. A finished outcome goes
into an unbounded memory object stream with send_nowait, so no hand-over ever blocks or is cancelled
halfway; the bound is a window, the count of prompts pulled and not handed over. Outcomes leave
only by receive_nowait, with nothing awaited after it: that is why a cancelled read loses nothing.
Whoever has to wait, a reader for an outcome or a worker for room, parks on a bell.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio import (
    BrokenResourceError,
    CancelScope,
    CapacityLimiter,
    ClosedResourceError,
    EndOfStream,
    Event,
    WouldBlock,
    create_memory_object_stream,
    create_task_group,
)
from anyio.abc import ObjectReceiveStream, TaskStatus
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._cancellation import without_cancellation
from ._outcome import Outcome, P, T
from ._progress import Progress
from ._source import CHECKPOINT_EVERY, Bell
from ._workers import Workers


def stream(
    generate: Callable[[P], Awaitable[T]],
    prompts: Iterable[P] | AsyncIterable[P],
    *,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    ordered: bool = False,
    fail_fast: bool = False,
) -> AbstractAsyncContextManager[OutcomeStream[P, T]]:
    """Run generate over prompts and stream outcomes as they complete.

    Args:
        generate: Called once per prompt, from a few worker tasks: state keyed to the current task
            outlives a prompt, contextvars do not.
        prompts: Pulled lazily, may be endless. An iterable stays the caller's, and a ``next`` that
            blocks blocks the event loop; an asynchronous one is iterated and closed by one task.
        max_concurrent: Most calls in flight, at least 1. With a limiter both bounds hold: the
            smaller wins.
        limiter: Shared with other batches or the app; a token is held during each call. With
            max_concurrent both bounds hold: the smaller wins. Never use one limiter both here and
            inside generate: each call would wait for a token that the calls hold.
        ordered: Hand outcomes over in input order.
        fail_fast: Stop at the first failure.

    Yields:
        A receive stream of outcomes, one per prompt pulled.

    Raises:
        ValueError: If max_concurrent is below 1.
        TypeError: If generate is not callable, prompts is a string or cannot be iterated, or
            max_concurrent or limiter is of another type.

    Ordering: as calls complete, or by index with ordered; finished outcomes then wait for earlier
    ones inside the same bound of ``2 * max_concurrent``.

    Backpressure: at most ``2 * max_concurrent`` prompts are pulled and not yet handed over.

    Cancellation: a read cancelled in any way loses nothing. Leaving the block, however, starts no
    further call, cancels those in flight, waits for them, and drops what was not read.

    Failure: an Exception from generate becomes a Failure. With fail_fast the first one stops the
    batch and cancels the other calls; successes already finished are handed over, then the read,
    or the block's exit, raises one flat ExceptionGroup of all failures. An error of prompts is
    raised bare by the read after the last outcome.
    """
    return open_stream(Workers(generate, prompts, max_concurrent, limiter, fail_fast), ordered)


async def collect(
    generate: Callable[[P], Awaitable[T]],
    prompts: Iterable[P] | AsyncIterable[P],
    *,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    fail_fast: bool = False,
) -> list[Outcome[P, T]]:
    """Run generate over prompts and return all outcomes in input order.

    Args:
        generate: Called once per prompt; see stream.
        prompts: Finite; see stream.
        max_concurrent: Most calls in flight, at least 1. With a limiter the smaller bound wins.
        limiter: Shared with other batches or the app. With max_concurrent the smaller bound wins.
        fail_fast: Stop at the first failure.

    Returns:
        One outcome per prompt, ``outcomes[i].index == i``.

    Raises:
        ValueError: If max_concurrent is below 1.
        TypeError: As stream.
        ExceptionGroup: With fail_fast, flat, every failure.

    Cancellation: cancels the calls in flight, waits for them and returns nothing.

    Failure: an Exception from generate becomes a Failure. An error of prompts is raised bare when
    the calls in flight have ended.
    """
    workers = Workers(generate, prompts, max_concurrent, limiter, fail_fast)
    results: list[Any] = []

    def keep(outcome: Outcome[P, T]) -> None:
        while len(results) <= outcome.index:
            results.append(None)  # those before it are still running
        results[outcome.index] = outcome
        workers.source.hand_over()

    try:
        await workers.run(keep)
    finally:
        workers.raise_exit()
    workers.raise_error()
    return results


@asynccontextmanager
async def open_stream(workers: Workers[P, T], ordered: bool) -> AsyncGenerator[OutcomeStream[P, T]]:
    """Run workers around the block and yield the stream of their outcomes."""
    outcomes = OutcomeStream(workers, ordered)
    block_error: BaseException | None = None
    try:
        async with create_task_group() as group:
            await group.start(outcomes._run, group.cancel_scope)
            try:
                yield outcomes
            except BaseException as exc:
                # Let through the task group, it would arrive wrapped in a group of its own.
                block_error = without_cancellation(exc)
                if block_error is None:
                    raise
            finally:
                outcomes._leave()
    finally:
        # In a finally, so that neither is lost where an outer scope was cancelled meanwhile.
        if block_error is not None:
            try:
                raise block_error
            finally:
                del block_error  # its traceback holds this frame
        workers.raise_exit()
    if workers.failures and not workers.error_raised:
        workers.raise_error()


class OutcomeStream(ObjectReceiveStream[Outcome[P, T]]):
    """Receive stream of outcomes, for any number of readers; made by stream."""

    def __init__(self, workers: Workers[P, T], ordered: bool) -> None:
        self._workers = workers
        self._send, self._receive = create_memory_object_stream[Outcome[P, T]](math.inf)
        self._early: dict[int, Outcome[P, T]] = {}
        self._next_index = 0
        self._ordered = ordered
        self._bell = Bell()
        self._ended = Event()
        self._unbroken = 0  # reads since the last checkpoint

    @property
    def progress(self) -> Progress:
        """How far the batch has come, now."""
        return self._workers.progress()

    async def receive(self) -> Outcome[P, T]:
        """Return the next outcome.

        Raises:
            EndOfStream: When every outcome has been handed over.
            ClosedResourceError: When the block was left or the stream closed.
            ExceptionGroup: With fail_fast, when a prompt has failed.
            Exception: What prompts raised, as it was.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise EndOfStream from None

    async def __anext__(self) -> Outcome[P, T]:
        self._unbroken += 1
        if self._unbroken >= CHECKPOINT_EVERY:
            self._unbroken = 0
            await checkpoint()
        while True:
            try:
                outcome = self._receive.receive_nowait()
            except WouldBlock:
                self._unbroken = 0  # waiting lets others run, and a checkpoint more costs a round
                await self._bell.wait()
            except EndOfStream:
                break
            except ClosedResourceError:
                # Where an exit has ended the block, its cancellation goes first.
                await checkpoint_if_cancelled()
                raise
            else:
                self._workers.source.hand_over()
                return outcome
        self._workers.raise_error()
        raise StopAsyncIteration

    def drain(self) -> None:
        """End early and in order: pull no further prompt and wait for the calls in flight.

        Their outcomes are handed over as ever. A call that only waits for its turn, as for a rate
        limit to pass, becomes a Failure with Stopped.
        """
        self._workers.drain()

    async def aclose(self) -> None:
        """Leave the batch: start no further call, cancel those in flight and wait for them."""
        self._leave()
        await self._ended.wait()

    def _leave(self) -> None:
        self._receive.close()
        self._workers.stop()
        self._bell.ring()

    async def _run(self, block: CancelScope, *, task_status: TaskStatus[None]) -> None:
        try:
            await self._workers.run(
                self._put_in_order if self._ordered else self._put, task_status=task_status
            )
            for _, outcome in sorted(self._early.items()):  # fail_fast has left gaps before these
                self._put(outcome)
        except BaseException:
            self._leave()  # so that no reader outside a cancelled scope takes this for the end
            raise
        finally:
            self._send.close()
            self._ended.set()
            self._bell.ring()
        if self._workers.exit is not None:
            self._leave()
            block.cancel()

    def _put_in_order(self, outcome: Outcome[P, T]) -> None:
        self._early[outcome.index] = outcome
        while self._next_index in self._early:
            self._put(self._early.pop(self._next_index))
            self._next_index += 1

    def _put(self, outcome: Outcome[P, T]) -> None:
        try:
            self._send.send_nowait(outcome)
        except BrokenResourceError:
            return  # the block was left: nobody is owed this one
        if self._bell.parked:
            self._bell.ring()
