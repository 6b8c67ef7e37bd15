"""Workers: the tasks that turn prompts into outcomes, grown lazily up to max_concurrent."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from typing import Generic

from anyio import (
    TASK_STATUS_IGNORED,
    CapacityLimiter,
    WouldBlock,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
)
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._cancellation import as_failure, is_cancelled, is_foreign, without_cancellation
from ._errors import Stopped
from ._outcome import Failure, Outcome, P, Success, T, succeed
from ._progress import Progress
from ._source import CHECKPOINT_EVERY, Source
from ._waiting import Turn, Waits, turn

_UNSET = object()


class Workers(Generic[P, T]):
    """The workers of one batch, the source they share, and the counts.

    generate is called with the prompt, and where numbered with its index before it.
    """

    _tasks: TaskGroup
    _pristine: Context
    _deliver: Callable[[Outcome[P, T]], None]

    def __init__(
        self,
        generate: Callable[..., Awaitable[T]],
        prompts: Iterable[P] | AsyncIterable[P],
        max_concurrent: int,
        limiter: CapacityLimiter | None,
        fail_fast: bool,
        *,
        numbered: bool = False,
    ) -> None:
        if not callable(generate):
            raise TypeError(f"generate must be callable, got {type(generate).__name__}")
        if not isinstance(max_concurrent, int):
            raise TypeError(f"max_concurrent must be an int, got {type(max_concurrent).__name__}")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be >= 1, got {max_concurrent}")
        if limiter is not None and not isinstance(limiter, CapacityLimiter):
            raise TypeError(f"limiter must be a CapacityLimiter, got {type(limiter).__name__}")
        self.source = Source(prompts, window=2 * max_concurrent)
        self.failures: list[Exception] = []
        self.exit: BaseException | None = None
        self.error_raised = False
        self._generate = generate
        self._numbered = numbered
        self._max_concurrent = max_concurrent
        self._limiter = limiter
        self._fail_fast = fail_fast
        self._stopped = False
        self._waits = Waits()
        self._admissions = Waits()  # for tokens of the limiter: of calls that are not counted yet
        self._running: object = None
        self._grown = self._unbroken = self._started = self._succeeded = self._failed = 0
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
        self._began = current_time()
        try:
            async with create_task_group() as self._tasks:
                if isinstance(self.source.prompts, AsyncIterable):
                    self._start(partial(self._feed, self.source.prompts))
                self._grow()
                task_status.started()
        finally:
            self._ended = current_time()
            # An error's traceback holds the workers: through this it would hold every outcome.
            del self._deliver

    def drain(self) -> None:
        """Pull no further prompt, drop the calls that wait, and let those in flight finish."""
        self.source.stop()
        self._admissions.drain()
        self._waits.drain()

    def stop(self) -> None:
        """Start no further call and cancel those in flight."""
        self._stopped = True
        self._tasks.cancel_scope.cancel()

    def raise_exit(self) -> None:
        """Raise what a call or the source raised that is no Exception, if there was such."""
        if self.exit is not None:
            raise self.exit

    def raise_error(self) -> None:
        """Raise what ended the batch before its time, if anything did."""
        self.error_raised = True
        error = self.source.error
        if self.failures:
            errors = self.failures if error is None else [*self.failures, error]
            raise ExceptionGroup("with fail_fast, a prompt failed", errors)
        if error is not None:
            raise error

    def progress(self) -> Progress:
        """Take a snapshot of the counts."""
        waiting = self._waits.count
        in_flight = self._started - self._succeeded - self._failed - waiting
        return Progress(
            total=self.source.total,
            started=self._started,
            in_flight=in_flight if self._ended is None else 0,
            succeeded=self._succeeded,
            failed=self._failed,
            done=self.source.handed_over,
            waiting=waiting,
            elapsed=(current_time() if self._ended is None else self._ended) - self._began,
        )

    def _start(self, function: Callable[[], Coroutine[object, object, None]]) -> None:
        self._pristine.run(self._tasks.start_soon, function)

    def _grow(self) -> None:
        if self._grown < self._max_concurrent:
            self._grown += 1
            self._start(self._work)

    async def _work(self) -> None:  # noqa: C901 - all of it in one frame: every prompt pays for more
        """Pull, call and deliver until nothing is left, or a fresh task has to go on."""
        try:
            await checkpoint()  # or an eager task factory nests each new worker in the one before
            is_new = True
            source, limiter, token = self.source, self._limiter, object()
            generate, numbered, mine = self._generate, self._numbered, Turn(self._waits)
            turn.set(mine)
            context = copy_context()
            size = len(context)
            clean = tuple(each for each in context.items() if each[0] is not turn)
            while not self._stopped:
                if (pulled := source.pull_nowait()) is None:
                    if source.ended:
                        return
                    await source.wait()
                    continue
                if is_new:
                    is_new = False
                    self._grow()
                index, prompt = pulled
                if limiter is not None:
                    try:
                        await self._acquire(limiter, token)
                    except Stopped as stopped:
                        self._started += 1
                        self._fail(Failure(index, prompt, stopped))
                        continue
                self._started += 1
                self._running = token
                mine.seconds = 0.0
                began = perf_counter()
                outcome: Outcome[P, T]
                try:
                    outcome = succeed(
                        index,
                        prompt,
                        await (generate(index, prompt) if numbered else generate(prompt)),
                        perf_counter() - began - mine.seconds,
                    )
                except BaseException as exc:  # noqa: BLE001 - a cancellation may be generate's own
                    error = as_failure(exc, "generate")
                    outcome = Failure(index, prompt, error, perf_counter() - began - mine.seconds)
                    del error
                finally:
                    if limiter is not None:
                        limiter.release_on_behalf_of(token)
                if isinstance(outcome, Success):
                    self._succeeded += 1
                    self._deliver(outcome)
                    is_fit = True
                else:
                    self._fail(outcome)
                    is_fit = not is_foreign(outcome.error)  # asyncio remembers a cancellation
                # Or it lives on while this worker waits, and an error for ever: its traceback holds
                # this frame.
                del outcome
                # A contextvar left other than it was found? By identity: == would ask the values,
                # which may be equal but not the same, or may raise.
                is_fit = is_fit and len(copy_context()) == size
                for variable, value in clean:
                    if variable.get(_UNSET) is not value:
                        is_fit = False
                if not is_fit:
                    self._start(self._work)  # in the place of this one
                    return
                if self._running is token:  # nobody else ran meanwhile
                    await self._be_fair()
        except BaseException as exc:  # noqa: BLE001 - sorted by _keep_exit
            self._keep_exit(exc)
            if not self._stopped:
                self._start(self._work)  # somebody cancelled this task alone, between two calls

    async def _feed(self, prompts: AsyncIterable[P]) -> None:
        try:
            await self.source.feed(prompts)
        except BaseException as exc:  # noqa: BLE001 - sorted by _keep_exit
            self._keep_exit(exc)

    def _keep_exit(self, exc: BaseException) -> None:
        """Keep an exit for raise_exit: out of a task it would end the loop, or be grouped.

        Raise exc if it is the batch's own cancellation; let another's pass.
        """
        if (rest := without_cancellation(exc)) is not None:
            self.exit = rest
            self.stop()
        elif is_cancelled():
            raise exc

    async def _be_fair(self) -> None:
        """Checkpoint after every 64 calls of all workers together that did not."""
        self._unbroken += 1
        if self._unbroken >= CHECKPOINT_EVERY:
            is_first = self._unbroken == CHECKPOINT_EVERY
            await checkpoint()
            if is_first:
                self._unbroken = 0

    async def _acquire(self, limiter: CapacityLimiter, token: object) -> None:
        """Take a token; raise Stopped if the batch drains before there is one."""
        try:
            limiter.acquire_on_behalf_of_nowait(token)
            return
        except WouldBlock:
            pass
        try:
            with self._admissions.one():
                await limiter.acquire_on_behalf_of(token)
        except get_cancelled_exc_class():
            if is_cancelled():
                raise
            return await self._acquire(limiter, token)  # the prompt is pulled, and has its turn
        try:
            await checkpoint_if_cancelled()  # it may have been cancelled while it waited
            self._admissions.check()
        except BaseException:
            limiter.release_on_behalf_of(token)
            raise

    def _fail(self, outcome: Failure[P]) -> None:
        """Count a failure and deliver it, or with fail_fast keep its error and stop."""
        self._failed += 1
        # A call that draining has dropped is no reason to cancel those that it waits for.
        if not self._fail_fast or isinstance(outcome.error, Stopped):
            self._deliver(outcome)
        elif self.failures or not self._stopped:  # not what comes of leaving the block
            self.failures.append(outcome.error)
            self.stop()
