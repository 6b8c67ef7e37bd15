"""Outcomes one by one in a generator that a web framework iterates, and may forget.

A framework that is given an async generator does not always close it: one that is cancelled while
it sends leaves it suspended at its yield, and the garbage collector closes it later, in another
task. Whatever the generator holds then must not belong to a task: no task group, no cancel scope,
so no batch. Here the batch runs in a task of the app, and the generator only holds its receiving
end, which may be closed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TypeVar

from anyio import BrokenResourceError, CancelScope, create_memory_object_stream
from anyio.abc import ObjectReceiveStream, TaskGroup

from ._core import Outcome, OutcomeStream

P = TypeVar("P")
T = TypeVar("T")


@contextmanager
def relay(
    batch: AbstractAsyncContextManager[OutcomeStream[P, T]],
    tasks: TaskGroup,
    *,
    drain: bool = False,
) -> Iterator[ObjectReceiveStream[Outcome[P, T]]]:
    """Run a batch in a task of tasks while the block runs, and yield a stream of its outcomes.

    The block may stand around the yield of an async generator, whoever closes that, and where.

    Args:
        batch: What stream or generate_images returned, not entered.
        tasks: A task group of the app, such as one that its lifespan has opened.
        drain: Whether leaving early lets calls in flight finish in tasks, so that generate_images
            saves their images, and only starts no further one.

    Raises:
        RuntimeError: As the block ends, if the batch was cut short because tasks was cancelled.
        Exception: As the block ends, what the batch raised.

    Backpressure: as for the batch; a reader that never reads stops it after one outcome more.

    Cancellation: leaving the block cancels the calls in flight, unless drain is set, and does not
    wait for them. Leaving tasks does.
    """
    send, receive = create_memory_object_stream[Outcome[P, T]]()
    scope = CancelScope()
    outcomes: OutcomeStream[P, T] | None = None
    error: Exception | None = RuntimeError("the batch was cut short: its task group was cancelled")

    async def run() -> None:
        nonlocal outcomes, error
        with send, scope:
            try:
                async with batch as outcomes:
                    async for outcome in outcomes:
                        with suppress(BrokenResourceError):  # the block was left, to drain
                            await send.send(outcome)
                error = None
            except Exception as exc:  # noqa: BLE001 - the reader's, or it would end the app
                error = exc

    tasks.start_soon(run)
    with receive:
        try:
            yield receive
        finally:
            has_ended = not receive.statistics().open_send_streams
            if drain and outcomes is not None:
                outcomes.drain()
            else:
                scope.cancel()
    if has_ended and error is not None:
        raise error
