"""Workers: the tasks that turn prompts into outcomes, grown lazily up to max_concurrent."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextvars import Context, copy_context
from functools import partial
from itertools import count
from operator import is_
from time import perf_counter
from typing import Generic

from anyio import (
    TASK_STATUS_IGNORED,
    CapacityLimiter,
    WouldBlock,
    create_task_group,
    current_time,
)
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._cancellation import as_failure
from ._outcome import Failure, Outcome, P, Success, T
from ._progress import Progress
from ._source import CHECKPOINT_EVERY, Source


class Workers(Generic[P, T]):
    """The workers of one batch, the source they share, and the counts.

    generate is called with the index and the prompt.
    """

    _tasks: TaskGroup
    _tokens: CapacityLimiter
    _pristine: Context
    _deliver: Callable[[Outcome[P, T]], None]

    def __init__(
        self,
        generate: Callable[[int, P], Awaitable[T]],
        prompts: Iterable[P] | AsyncIterable[P],
        max_concurrent: int,
        limiter: CapacityLimiter | None,
        fail_fast: bool,
    ) -> None:
        if not isinstance(max_concurrent, int):
            raise TypeError(f"max_concurrent must be an int, got {type(max_concurrent).__name__}")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be >= 1, got {max_concurrent}")
        if limiter is not None and not isinstance(limiter, CapacityLimiter):
            raise TypeError(f"limiter must be a CapacityLimiter, got {type(limiter).__name__}")
        self.source = Source(prompts, window=2 * max_concurrent)
        self.failures: list[Exception] = []
        self.exit: KeyboardInterrupt | SystemExit | None = None
        self.error_raised = False
        self._generate = generate
        self._max_concurrent = max_concurrent
        self._limiter = limiter
        self._fail_fast = fail_fast
        self._stopped = False
        self._grown = self._started = self._in_flight = self._succeeded = self._failed = 0
        self._began = 0.0
        self._ended: float | None = None

    async def run(
        self,
        deliver: Callable[[Outcome[P, T]], None],
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Call generate for each prompt and deliver each outcome, until done or stopped."""
        self._deliver = deliver
        self._pristine = copy_context()
        self._tokens = self._limiter or CapacityLimiter(self._max_concurrent)
        self._began = current_time()
        try:
            async with create_task_group() as self._tasks:
                if isinstance(self.source.prompts, AsyncIterable):
                    self._start(partial(self.source.feed, self.source.prompts))
                self._grow()
                task_status.started()
        finally:
            self._ended = current_time()

    def stop(self) -> None:
        """Start no further call and cancel those in flight."""
        self._stopped = True
        self._tasks.cancel_scope.cancel()

    def raise_error(self) -> None:
        """Raise what ended the batch before its time, if anything did."""
        self.error_raised = True
        if self.exit is not None:
            raise self.exit
        if self.failures:
            errors = [*self.failures, self.source.error] if self.source.error else self.failures
            raise ExceptionGroup("with fail_fast, a prompt failed", errors)
        if self.source.error is not None:
            raise self.source.error

    def progress(self) -> Progress:
        """Take a snapshot of the counts."""
        return Progress(
            total=self.source.total,
            started=self._started,
            in_flight=self._in_flight,
            succeeded=self._succeeded,
            failed=self._failed,
            done=self.source.handed_over,
            elapsed=(current_time() if self._ended is None else self._ended) - self._began,
        )

    def _start(self, function: Callable[[], Awaitable[None]]) -> None:
        self._pristine.run(self._tasks.start_soon, self._keep_exit, function)

    async def _keep_exit(self, function: Callable[[], Awaitable[None]]) -> None:
        """Keep an exit for raise_error: out of a task it would end the loop, or be grouped."""
        try:
            await function()
        except (KeyboardInterrupt, SystemExit) as exc:
            self.exit = exc
            self.stop()

    def _grow(self) -> None:
        self._grown += 1
        self._start(self._work)

    async def _work(self) -> None:
        """Pull, call and deliver until nothing is left, or a fresh task has to go on."""
        await checkpoint()  # or an eager task factory nests each new worker in the one before
        token = object()
        for turn in count(1):
            if self._stopped or (pulled := await self.source.pull()) is None:
                return
            if self._grown < self._max_concurrent:
                self._grow()
            self._settle(await self._call(token, *pulled))
            if not _same_context(copy_context(), self._pristine):
                self._start(self._work)  # in the place of this one
                return
            if turn % CHECKPOINT_EVERY == 0:
                await checkpoint()

    async def _call(self, token: object, index: int, prompt: P) -> Outcome[P, T]:
        """Call generate once, holding a token of the limiter."""
        try:
            self._tokens.acquire_on_behalf_of_nowait(token)
        except WouldBlock:
            await self._tokens.acquire_on_behalf_of(token)
        self._started += 1
        self._in_flight += 1
        began = perf_counter()
        try:
            await checkpoint_if_cancelled()  # or a last call would be sent before it noticed
            value = await self._generate(index, prompt)
        except BaseException as exc:  # noqa: BLE001 - a cancellation may be generate's own
            # Not kept in a local: its traceback holds this frame, and the cycle would hold both.
            return Failure(index, prompt, as_failure(exc, "generate"), perf_counter() - began)
        else:
            return Success(index, prompt, value, perf_counter() - began)
        finally:
            self._in_flight -= 1
            self._tokens.release_on_behalf_of(token)

    def _settle(self, outcome: Outcome[P, T]) -> None:
        """Count an outcome and deliver it; with fail_fast keep a failure and stop."""
        if isinstance(outcome, Success):
            self._succeeded += 1
            self._deliver(outcome)
            return
        self._failed += 1
        if not self._fail_fast:
            self._deliver(outcome)
        elif self.failures or not self._stopped:  # not what comes of leaving the block
            self.failures.append(outcome.error)
            self.stop()


def _same_context(context: Context, other: Context) -> bool:
    """Return whether both hold the very same objects: == would ask the objects, and may raise."""
    return (
        len(context) == len(other)
        and all(map(is_, context, other))
        and all(map(is_, context.values(), other.values()))
    )
