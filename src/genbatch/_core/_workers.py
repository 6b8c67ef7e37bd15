"""Workers: the tasks that turn prompts into outcomes, as many as the limiter has tokens."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from reprlib import Repr
from time import perf_counter
from types import coroutine
from typing import Any, Generic

from anyio import (
    CapacityLimiter,
    Event,
    WouldBlock,
    create_task_group,
    current_time,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ._calls import (
    NotAwaitable,
    as_coroutine,
    as_failure,
    is_cancelled,
    is_coroutine_function,
    native_task,
    sole_exit,
    undisturbed,
    without_cancellation,
    without_core_frames,
)
from ._outcome import Failure, Outcome, P, Progress, Stopped, Success, T, succeed
from ._source import CHECKPOINT_EVERY, Source
from ._waiting import Turn, Waits, close_limiter, current_turn, open_limiter, stopped

INFINITE = 1_000  # calls at once where total_tokens is infinite

_brief = Repr()
_brief.maxstring = _brief.maxother = 80


class Workers(Generic[P, T]):
    """The workers of one batch, the source they share, and the counts.

    generate is called with the prompt, or where numbered with the tuple of its index and itself.

    Attributes:
        limiter: The batch's own, once it runs.
        error: What has ended it before its time, once it has ended.
        exit: What a call or the source raised that is not an Exception, such as KeyboardInterrupt.
        drop_waiting: Drops the calls that wait for their turn, now and later; others go on.
    """

    limiter: CapacityLimiter
    _tasks: TaskGroup
    _context: Context
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
            kind = f"{type(limiter).__module__}.{type(limiter).__name__}".removeprefix("builtins.")
            raise TypeError(f"limiter must be an anyio.CapacityLimiter, got {kind}")
        self.source = Source(prompts)
        self.error: Exception | None = None
        self.exit: BaseException | None = None
        self._is_error_unread = False
        self._failures: list[Exception] = []
        self._call = generate
        self._numbered = numbered
        self._max_concurrent = max_concurrent
        self._shared_limiter = limiter
        self._fail_fast = fail_fast
        self._stopped = self._is_left = False
        self._waits = Waits()
        # Not a method of this object: whoever keeps it would keep the batch alive.
        self.drop_waiting = self._waits.drain
        self._admissions = Waits()  # for tokens of the limiters: of calls that are not counted yet
        self._last_token: object = None
        self._limit = self._alive = 0
        self._since_checkpoint = self._started = self._succeeded = self._failed = 0
        self._began = 0.0
        self._ended: float | None = None

    async def run(
        self,
        deliver: Callable[[Outcome[P, T]], None],
        *,
        begun: Event | None = None,
    ) -> None:
        """Call generate for each prompt and deliver each outcome, until done or stopped.

        Args:
            deliver: Takes an outcome; must not raise.
            begun: Set as soon as the batch runs, where the current task belongs to the batch. A
                native cancellation of such a task is a mistake, and forgotten; one of the caller's
                own task is raised.

        Cancellation: starts no further call at once, also where calls in flight shield themselves.
        """
        self._deliver = deliver
        self._finished = Event()
        self._context = copy_context()
        self._began = current_time()
        self.limiter = open_limiter(self._max_concurrent, self._resized)
        self.source.open()
        try:
            async with create_task_group() as self._tasks:
                try:
                    if isinstance(self.source.prompts, AsyncIterable):
                        self._tasks.start_soon(self._feed, self.source.prompts)
                    self._resized()
                    if begun is not None:
                        begun.set()
                    # Here, and not where the group waits for its tasks, which learns of a
                    # cancellation only when all of them have ended.
                    while not self._finished.is_set():
                        await (undisturbed(self._finished.wait) if begun else self._finished.wait())
                except BaseException:
                    self._stopped = True
                    raise
        except BaseException as exc:
            interruption = sole_exit(exc)
            self.exit = interruption if self.exit is None else self.exit
            if interruption is None and (begun is None or is_cancelled()):
                raise
        finally:
            self._ended = current_time()
            close_limiter(self.limiter)
            # An error's traceback holds the workers: through this it would hold every outcome.
            del self._deliver
        self.error = self.source.error
        is_whole = self._succeeded + self._failed == self.source.pulled and self.source.ended
        is_short = not (is_whole or self._is_left)
        if is_short:
            self.error = self._cut_short()
        if self._failures:
            errors = [*self._failures, *([] if self.error is None else [self.error])]
            self.error = ExceptionGroup("with fail_fast, a prompt failed", errors)
        self._is_error_unread = bool(self._failures or is_short)
        self.source.error, self._failures = None, []

    def drain(self) -> None:
        """Pull no further prompt, drop the calls that wait, and let those in flight finish."""
        self.source.end()
        self._admissions.drain()
        self._waits.drain()
        self._fail_uncalled()

    def stop(self) -> None:
        """Start no further call and cancel those in flight."""
        self._is_left = self._stopped = True
        self._tasks.cancel_scope.cancel()

    def raise_exit(self) -> None:
        """Raise what a call or the source raised that is not an Exception, if anything."""
        if self.exit is not None:
            raise self.exit

    def raise_error(self) -> None:
        """Raise what ended the batch before its time, if anything did."""
        self._is_error_unread = False
        if self.error is not None:
            raise self.error

    def take_unread_error(self) -> Exception | None:
        """Return the error that the exit of the block has to raise, and forget it."""
        error = self.error if self._is_error_unread else None
        self.error = None  # its traceback may refer to this
        return self._cut_short() if self._ended is None else error

    def _cut_short(self) -> RuntimeError:
        done = self._succeeded + self._failed
        outcomes = "outcome" if done == 1 else "outcomes"
        return RuntimeError(
            f"the batch was cut short after {done} {outcomes}: one of its tasks was cancelled"
        )

    def progress(self) -> Progress:
        """Take a snapshot of the counts."""
        running = self._started - self._succeeded - self._failed if self._ended is None else 0
        # A task that a call has left behind may wait even when its call has ended.
        waiting = min(self._waits.calls, running)
        return Progress(
            total=self.source.total,
            started=self._started,
            in_flight=running - waiting,
            succeeded=self._succeeded,
            failed=self._failed,
            done=self.source.handed_over,
            waiting=waiting,
            elapsed=(current_time() if self._ended is None else self._ended) - self._began,
        )

    def _resized(self) -> None:
        """Have as many workers as the limiter has tokens: more now, fewer as their calls end."""
        total = self.limiter.total_tokens
        self._limit = INFINITE if total == math.inf else int(total)
        self.source.resize(self._limit)
        self._grow()

    def _grow(self) -> None:
        """Start another worker, which starts the next one once it has pulled a prompt."""
        if self._alive < self._limit and not (self._stopped or self.source.ended):
            self._alive += 1
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        token = object()
        try:
            # Or an eager task factory nests each new worker in the one before.
            await undisturbed(checkpoint)
            await self._serve(token)
        except BaseException as exc:  # noqa: BLE001 - sorted by _keep_exit
            self._keep_exit(exc)
        finally:
            with suppress(RuntimeError):  # it is held only where a call has ended the batch
                self.limiter.release_on_behalf_of(token)
            self._alive -= 1
            self._check_finished()
        # anyio cancels the whole group of a task that ends while a native cancellation is pending.
        await undisturbed(cancel_shielded_checkpoint)

    @coroutine
    def _serve(self, token: object) -> Generator[Any, Any, None]:  # noqa: C901 - one frame: see below
        """Pull, call and deliver until nothing is left, or the limiter allows fewer workers.

        A generator, since only that can run each step of a call in a context of the call's own; a
        coroutine would have to await one, and every prompt would pay for a frame more.
        """
        source, shared, is_new = self.source, self._shared_limiter, True
        limiter: Any = self.limiter
        steps: Any
        call = self._call if shared is None else self._call_within
        pull, numbered = source.pull_nowait, self._numbered
        is_plain = is_coroutine_function(call)
        task, turn = native_task(), Turn(self._waits)
        context = self._context.copy()
        context.run(current_turn.set, turn)
        limit = None  # as it was when this worker took the token that it has, if it has one
        while self._alive <= self._limit and not self._stopped:
            if limit is None and shared is None:
                try:
                    limiter.acquire_on_behalf_of_nowait(token)
                except WouldBlock:
                    if not (yield from self._borrow(limiter, token)):
                        return
                limit = self._limit
            if (pulled := pull()) is None:
                if limit is not None:
                    limit = limiter.release_on_behalf_of(token)
                if source.ended:
                    return
                yield from undisturbed(source.wait)
                continue
            if is_new:
                is_new = False
                self._grow()
            index, prompt = pulled
            self._started += 1
            self._last_token = token
            turn.began = began = perf_counter()
            steps = awaited = sent = None
            outcome: Outcome[P, T]
            try:
                run = context.copy().run
                argument = pulled if numbered else prompt
                steps = call(argument) if is_plain else as_coroutine(run(call, argument))
                awaited = run(steps.send, None)
                while True:
                    try:
                        sent = yield awaited
                    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the call's
                        awaited = run(steps.throw, without_core_frames(exc))
                    else:
                        awaited = run(steps.send, sent)
            except BaseException as exc:  # noqa: BLE001 - generate may raise a cancellation
                elapsed = perf_counter() - began
                awaited = sent = None  # on trio, what was sent may be the error that refers to this
                if turn.seconds:
                    elapsed, turn.seconds = elapsed - turn.seconds, 0.0
                if type(exc) is StopIteration and steps is not None:
                    outcome = succeed(index, prompt, exc.value, elapsed)  # so a coroutine returns
                else:
                    outcome = Failure(index, prompt, as_failure(exc, "generate"), elapsed)
            # The token is kept for the next call unless another task waits for it: nothing runs in
            # between that could tell the difference.
            if limit is not None and (limiter._waiting or limit != self._limit):
                limit = limiter.release_on_behalf_of(token)
            if isinstance(outcome, Success):
                self._succeeded += 1
                self._deliver(outcome)
            else:
                self._fail(outcome)
            # Or they live on while this worker waits, and an error for ever: its traceback leads to
            # this frame.
            del outcome, steps, run, awaited, sent, pulled, prompt, argument
            is_marked = task is not None and (task.cancelling() or task._must_cancel)
            if is_marked or self._last_token is token:
                if limit is not None:
                    limit = limiter.release_on_behalf_of(token)
                if is_marked:  # or the next call would be cancelled
                    yield from undisturbed(checkpoint)
                else:  # nobody else ran meanwhile
                    yield from self._be_fair()
        source.wake_another()  # in place of this one, which was woken and ends

    async def _call_within(self, argument: Any) -> T:
        """Call with a token of the limiter that others use as well, and one of the batch's own."""
        limiter: Any = self._shared_limiter
        token, turn = object(), current_turn.get()
        self._started -= 1  # not yet
        try:
            are_held = await self._borrow_both(limiter, token)
        finally:
            self._started += 1
            turn.seconds = perf_counter() - turn.began
        if not are_held:
            raise stopped()
        try:
            value: T = await as_coroutine(self._call(argument))
            return value
        finally:
            limiter.release_on_behalf_of(token)
            self.limiter.release_on_behalf_of(token)

    async def _borrow_both(self, shared: CapacityLimiter, token: object) -> bool:
        """Take a token of the batch's own limiter and of another, as _borrow does of one."""
        while await self._borrow(self.limiter, token):
            is_held = False
            try:
                is_held = await self._borrow(shared, token)
            finally:
                if not is_held:
                    self.limiter.release_on_behalf_of(token)
            if not is_held:
                return False
            if self.limiter.available_tokens >= 0:
                return True
            # There are fewer tokens of the batch's own now than are held: this call has to wait.
            shared.release_on_behalf_of(token)
            self.limiter.release_on_behalf_of(token)
        return False

    async def _borrow(self, limiter: CapacityLimiter, token: object) -> bool:
        """Take a token, and return whether there was one before the batch drains."""
        is_held = False

        async def acquire() -> None:
            nonlocal is_held
            with self._admissions.one():
                await limiter.acquire_on_behalf_of(token)
                is_held = True

        try:
            limiter.acquire_on_behalf_of_nowait(token)
            return True
        except WouldBlock:
            pass
        is_admitted = False
        try:
            while not is_held:
                await undisturbed(acquire)
            # It may have been cancelled, or the batch drained, while it was woken.
            await undisturbed(checkpoint_if_cancelled)
            self._admissions.check()
            is_admitted = True
        except Stopped:
            pass
        finally:
            if is_held and not is_admitted:
                limiter.release_on_behalf_of(token)
        return is_admitted

    async def _feed(self, prompts: AsyncIterable[P]) -> None:
        try:
            await self.source.feed(prompts)
        except BaseException as exc:  # noqa: BLE001 - sorted by _keep_exit
            self._keep_exit(exc)
        finally:
            self._fail_uncalled()
        await undisturbed(cancel_shielded_checkpoint)  # as for a worker

    def _fail_uncalled(self) -> None:
        """Fail the prompts that were pulled as the source was ended, and end with the source."""
        while self.source.uncalled and not self._stopped:
            index, prompt = self.source.uncalled.popleft()
            self._started += 1
            self._fail(Failure(index, prompt, stopped()))
        self._check_finished()

    def _check_finished(self) -> None:
        if not self._alive and self.source.ended:
            self._finished.set()

    def _keep_exit(self, exc: BaseException) -> None:
        """Keep an exit for raise_exit: out of a task it would end the loop, or be grouped.

        A cancellation, the batch's own or another's, ends with the task that it has ended.
        """
        if (rest := without_cancellation(exc)) is not None:
            self.exit = rest
            self.stop()

    async def _be_fair(self) -> None:
        """Checkpoint after every 64 calls of all workers together that did not."""
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            is_first = self._since_checkpoint == CHECKPOINT_EVERY
            await undisturbed(checkpoint)
            if is_first:
                self._since_checkpoint = 0

    def _fail(self, outcome: Failure[P]) -> None:
        """Count a failure and deliver it, or with fail_fast keep its error and stop."""
        self._failed += 1
        if isinstance(outcome.error, NotAwaitable) and self._started == 1:
            self.source.end(outcome.error)  # no call can be made: one is enough to see that
            self._deliver(outcome)
        # A call that draining has dropped is no reason to cancel those that it waits for.
        elif not self._fail_fast or isinstance(outcome.error, Stopped):
            self._deliver(outcome)
        elif self._failures or not self._stopped:  # not errors of calls cancelled by leaving
            with suppress(Exception):  # of a prompt or an error with ideas of its own
                outcome.error.add_note(f"prompt {outcome.index}: {_brief.repr(outcome.prompt)}")
            self._failures.append(outcome.error)
            self.stop()
