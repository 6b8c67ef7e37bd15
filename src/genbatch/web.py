"""Outcomes one by one in a generator that a web framework iterates, and may forget.

A framework that is given an async generator does not always close it: one that is cancelled while
it sends leaves it suspended at its yield, and the garbage collector closes it later, in another
task. What the generator holds then must not belong to a task: no task group, no cancel scope, so no
batch. A relay runs the batch in a task of the app; the generator only holds the receiving end of a
stream, which may be closed anywhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    create_memory_object_stream,
    create_task_group,
    current_time,
)
from anyio.abc import ObjectReceiveStream, TaskGroup

from ._core import Outcome, OutcomeStream, P, T

__all__ = ["Relay", "open_relay"]


@asynccontextmanager
async def open_relay(*, grace: float = 30.0) -> AsyncIterator[Relay]:
    """Open the relay of an app, in its lifespan.

    Args:
        grace: Seconds that calls in flight have to finish when the block is left, so that
            generate_images saves their images; no further call starts then.

    Cancellation: cancels every batch and waits for them.
    """
    async with create_task_group() as tasks:
        relay = Relay(tasks)
        yield relay
        tasks.cancel_scope.deadline = current_time() + grace
        relay._drain()


class Relay:
    """Runs batches in tasks of an app, for generators that read their outcomes; see open_relay."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._leave: set[Callable[[bool], None]] = set()  # of each running batch

    @contextmanager
    def outcomes_of(
        self, batch: AbstractAsyncContextManager[OutcomeStream[P, T]], *, drain: bool = False
    ) -> Iterator[ObjectReceiveStream[Outcome[P, T]]]:
        """Run a batch while the block runs, and yield a stream of its outcomes.

        The block may stand around the yield of an async generator, whoever closes that, and where.

        Args:
            batch: What stream or generate_images returned, not entered.
            drain: Whether leaving early lets calls in flight finish, so that generate_images saves
                their images, and only starts no further one.

        Raises:
            RuntimeError: As the block ends, if the app cut the batch short.
            Exception: As the block ends, what the batch raised.

        Backpressure: as for the batch; a reader that never reads stops it after one outcome more.

        Cancellation: leaving the block cancels the calls in flight, unless drain is set, and does
        not wait for them. Leaving the relay does.
        """
        send, receive = create_memory_object_stream[Outcome[P, T]]()
        scope = CancelScope()
        outcomes: OutcomeStream[P, T] | None = None
        error: Exception | None = RuntimeError("the batch was cut short: the app is shutting down")
        is_left = False

        def leave(drain: bool) -> None:
            nonlocal is_left
            is_left = True
            receive.close()
            if drain and outcomes is not None:
                outcomes.drain()
            else:
                scope.cancel()

        async def run() -> None:
            nonlocal outcomes, error
            with send, scope:
                try:
                    async with batch as outcomes:
                        async for outcome in outcomes:
                            with suppress(BrokenResourceError):  # nobody reads; saved it is
                                await send.send(outcome)
                    error = error if is_left else None
                except Exception as exc:  # noqa: BLE001 - the reader's, or it would end the app
                    error = exc
                finally:
                    self._leave.discard(leave)

        self._leave.add(leave)
        self._tasks.start_soon(run)
        try:
            yield receive
        except ClosedResourceError:
            if not is_left:
                raise
        finally:
            has_ended = is_left or not receive.statistics().open_send_streams
            leave(drain)
        if has_ended and error is not None:
            raise error

    def _drain(self) -> None:
        for leave in list(self._leave):
            leave(True)
