"""stream and collect, and the stream of outcomes that a reader holds."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Generic, Literal, overload

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
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ._calls import sole_exit, undisturbed, without_cancellation
from ._outcome import Outcome, P, P_co, Progress, Success, T, T_co
from ._source import CHECKPOINT_EVERY
from ._waiting import ParkingLot
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
        generate: Called once per prompt, in a copy of the context in which the block is entered,
            from a few worker tasks: state keyed to the current task outlives a prompt.
        prompts: Pulled lazily, may be endless. An iterable stays the caller's, and a ``next`` that
            blocks blocks the event loop; an asynchronous one is iterated and closed by one task,
            and asked for a prompt only when a call can be made.
        max_concurrent: Most calls in flight, at least 1: the first ``total_tokens`` of the batch's
            own ``outcomes.limiter``, which may be resized. With a limiter both bounds hold: the
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
        TypeError: If generate is not callable, prompts is a string, a mapping or a data frame or
            cannot be iterated, or max_concurrent or limiter is of another type. Raised by the read:
            if the first call returned what cannot be awaited.

    Ordering: as calls complete, or by index with ordered; finished outcomes then wait for earlier
    ones inside the same bound.

    Backpressure: at most twice the present ``total_tokens`` of ``outcomes.limiter`` prompts are
    pulled and not yet handed over.

    Cancellation: a read cancelled in any way loses nothing. Leaving the block, however, starts no
    further call, cancels those in flight, waits for them, and drops what was not read. Cleanup that
    awaits something in a cancelled call needs a shield.

    Failure: an Exception from generate becomes a Failure. With fail_fast the first one stops the
    batch and cancels the other calls; successes already finished are handed over, then the read,
    or the block's exit, raises one flat ExceptionGroup of all failures, each with a note that has
    its prompt. An error of prompts is raised bare by the read after the last outcome. A batch that
    was cut short, since somebody has cancelled tasks of it, raises RuntimeError.
    """
    return open_stream(Workers(generate, prompts, max_concurrent, limiter, fail_fast), ordered)


@overload
async def collect(
    generate: Callable[[P], Awaitable[T]],
    prompts: Iterable[P] | AsyncIterable[P],
    *,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    fail_fast: Literal[True],
) -> list[Success[P, T]]: ...


@overload
async def collect(
    generate: Callable[[P], Awaitable[T]],
    prompts: Iterable[P] | AsyncIterable[P],
    *,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    fail_fast: bool = False,
) -> list[Outcome[P, T]]: ...


async def collect(
    generate: Callable[[P], Awaitable[T]],
    prompts: Iterable[P] | AsyncIterable[P],
    *,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    fail_fast: bool = False,
) -> list[Any]:
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
        workers.source.handed_over += 1

    try:
        await workers.run(keep)
    finally:
        workers.raise_exit()
    try:
        workers.raise_error()
    finally:
        workers.error = None  # its traceback refers to the workers
    return results


@asynccontextmanager
async def open_stream(workers: Workers[P, T], ordered: bool) -> AsyncGenerator[OutcomeStream[P, T]]:
    """Run workers around the block and yield the stream of their outcomes."""
    outcomes = OutcomeStream(workers, ordered)
    block_error: BaseException | None = None
    try:
        async with create_task_group() as group:
            group.start_soon(outcomes._run, group.cancel_scope)
            await outcomes._begun.wait()
            try:
                yield outcomes
            except BaseException as exc:
                # Let through the task group, it would arrive wrapped in a group of its own.
                block_error = without_cancellation(exc)
                if block_error is None:
                    raise
            finally:
                outcomes._leave()
    except BaseException as exc:
        workers.exit = sole_exit(exc) if workers.exit is None else workers.exit
        if workers.exit is None:
            raise
    finally:
        unread = workers.take_unread_error()
        # In a finally, so that neither is lost where an outer scope was cancelled meanwhile. An
        # exit of a call is raised in place of an error of the block's, which is its context then.
        try:
            if block_error is not None:
                raise block_error
        finally:
            del block_error  # its traceback holds this frame
            workers.raise_exit()
    try:
        if unread is not None:
            raise unread
    finally:
        del unread


class OutcomeStream(ObjectReceiveStream[Outcome[P_co, T_co]], Generic[P_co, T_co]):
    """Receive stream of outcomes, for any number of readers; made by stream."""

    def __init__(self, workers: Workers[P_co, T_co], ordered: bool) -> None:
        self._workers = workers
        self._source = workers.source
        self._send, self._receive = create_memory_object_stream[Outcome[P_co, T_co]](math.inf)
        self._early: dict[int, Outcome[P_co, T_co]] = {}
        self._next_index = 0
        self._ordered = ordered
        self._readers = ParkingLot()
        self._begun = Event()
        self._ended = Event()
        self._since_checkpoint = 0

    @property
    def limiter(self) -> CapacityLimiter:
        """The limiter of this batch alone, of which each call holds a token while it runs.

        Its ``total_tokens`` are max_concurrent at first and may be set at any time: more start more
        calls at once, fewer let those that run finish, 0 is a pause, and ``math.inf`` counts as
        1,000. At most twice that many prompts are pulled and not handed over.
        """
        return self._workers.limiter

    @property
    def progress(self) -> Progress:
        """How far the batch has come, now."""
        return self._workers.progress()

    async def receive(self) -> Outcome[P_co, T_co]:
        """Return the next outcome.

        Raises:
            EndOfStream: When every outcome has been handed over.
            ClosedResourceError: When the block was left or the stream closed.
            ExceptionGroup: With fail_fast, when a prompt has failed.
            Exception: What prompts raised, as it was.
            TypeError: When generate is not an async function.
            RuntimeError: When somebody has cancelled a task of the batch, which cut it short.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise EndOfStream from None

    async def __anext__(self) -> Outcome[P_co, T_co]:
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._since_checkpoint = 0
            await checkpoint()
        while True:
            try:
                outcome = self._receive.receive_nowait()
            except WouldBlock:
                self._since_checkpoint = 0  # waiting lets others run: a checkpoint costs a round
                await self._readers.park()
            except EndOfStream:
                break
            except ClosedResourceError:
                # Where an exit has ended the block, its cancellation goes first.
                await checkpoint_if_cancelled()
                raise
            else:
                if self._readers.parked and self._receive.statistics().current_buffer_used:
                    self._wake_reader()
                source = self._source
                source.handed_over += 1
                if source.pulled - source.handed_over == source.limit:  # half of the window
                    source.wake_another()
                return outcome
        self._workers.raise_error()
        raise StopAsyncIteration

    def drain(self) -> None:
        """End early and in order: pull no further prompt and wait for the calls in flight.

        Their outcomes are handed over as usual. A call that only waits for its turn, as for a rate
        limit to pass, becomes a Failure with Stopped, and so does a prompt that was pulled and not
        called yet.
        """
        self._workers.drain()

    async def aclose(self) -> None:
        """Leave the batch: start no further call, cancel those in flight and wait for them."""
        self._leave()
        await self._ended.wait()

    def _leave(self) -> None:
        with suppress(WouldBlock, EndOfStream, ClosedResourceError):
            while True:  # what was not read lives no longer than the block
                self._receive.receive_nowait()
        self._receive.close()
        self._early.clear()
        self._workers.stop()
        self._readers.unpark()

    async def _run(self, block: CancelScope) -> None:
        try:
            put = self._put_in_order if self._ordered else self._put
            await self._workers.run(put, begun=self._begun)
            for _, outcome in sorted(self._early.items()):  # fail_fast has left gaps before these
                self._put(outcome)
        except BaseException:
            self._leave()  # so that no reader outside a cancelled scope takes this for the end
            raise
        finally:
            self._send.close()
            self._ended.set()
            self._readers.unpark()
        if self._workers.exit is not None:
            self._leave()
            block.cancel()
        await undisturbed(cancel_shielded_checkpoint)  # as for a worker

    def _put_in_order(self, outcome: Outcome[P_co, T_co]) -> None:
        self._early[outcome.index] = outcome
        while self._next_index in self._early:
            self._put(self._early.pop(self._next_index))
            self._next_index += 1

    def _put(self, outcome: Outcome[P_co, T_co]) -> None:
        try:
            self._send.send_nowait(outcome)
        except BrokenResourceError:
            pass  # the block was left: drop it
        self._wake_reader()

    def _wake_reader(self) -> None:
        """Wake one reader, unless one is waking: it wakes the next if there is more for that."""
        if self._readers.parked and not self._readers.waking:
            self._readers.unpark(1)
