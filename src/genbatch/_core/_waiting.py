"""Where tasks wait: a parking lot, the limiter of a batch, how a call says that it waits, a guard.

Waiting is not running. A call that waits is not in flight: its wait does not count towards its
outcome's elapsed, and a batch that drains drops it, since nothing was sent and nothing is lost.

LoopGuard: what wakes tasks, or counts them, belongs to the event loop that they run in. Used from a
second one meanwhile, it would wait for ever, or count wrongly. One loop after another is fine.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from time import perf_counter
from typing import Any

from anyio import CancelScope, CapacityLimiter, Event, NoEventLoopError
from anyio.lowlevel import current_token

from ._outcome import Stopped


class ParkingLot:
    """Tasks waiting in line; nearly free while no task waits.

    Being unparked promises nothing: look again, and park again where there is nothing yet.

    Attributes:
        parked: Those who wait.
        waking: How many were unparked and have not run yet.
    """

    def __init__(self) -> None:
        self.parked: deque[Event] = deque()
        self.waking = 0

    async def park(self) -> None:
        """Wait to be unparked."""
        event = Event()
        self.parked.append(event)
        try:
            await event.wait()
            self.waking -= 1
        except BaseException:
            if event.is_set():
                self.waking -= 1
                self.unpark(1)  # pass the wake-up on: this task will not use it
            else:
                self.parked.remove(event)
            raise

    def unpark(self, most: int = sys.maxsize) -> None:
        """Wake the parked tasks, or at most so many of them, longest parked first."""
        while self.parked and most:
            self.parked.popleft().set()
            self.waking += 1
            most -= 1


def open_limiter(total: int, resized: Callable[[], None]) -> CapacityLimiter:
    """Return a limiter of the running backend.

    A batch has to start more workers when there are more tokens, even if no task waits for one.

    Args:
        total: Its tokens.
        resized: Called after each change of its total_tokens, until close_limiter.
    """
    backend: Any = type(CapacityLimiter(total))
    limiter = _kind(backend)(total)
    limiter._resized = resized
    return limiter  # type: ignore[no-any-return]


def close_limiter(limiter: Any) -> None:
    """Stop notifying of changes."""
    del limiter._resized


@cache
def _kind(backend: Any) -> Any:
    class BatchLimiter(backend):  # type: ignore[misc]
        _resized: Callable[[], None] = staticmethod(lambda: None)
        _waiting = 0  # tasks waiting for a token; one may count twice

        async def __aenter__(self) -> None:
            await self.acquire()

        async def acquire(self) -> None:
            self._waiting += 1
            try:
                await super().acquire()
            finally:
                self._waiting -= 1

        async def acquire_on_behalf_of(self, borrower: object) -> None:
            self._waiting += 1
            try:
                await super().acquire_on_behalf_of(borrower)
            finally:
                self._waiting -= 1

        @property
        def total_tokens(self) -> float:
            return backend.total_tokens.fget(self)  # type: ignore[no-any-return]

        @total_tokens.setter
        def total_tokens(self, value: float) -> None:
            backend.total_tokens.fset(self, value)
            self._resized()

    return BatchLimiter


class Waits:
    """The calls of one batch that wait, and whether they still may.

    Attributes:
        calls: Those that wait now, each counted once however many waits it has.
    """

    def __init__(self) -> None:
        self.draining = False
        self.calls = 0
        self._scopes: set[CancelScope] = set()

    def drain(self) -> None:
        """End every wait, now and later."""
        self.draining = True
        for scope in tuple(self._scopes):
            scope.cancel()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait inside the block.

        Raises:
            Stopped: If the batch drains.
        """
        self.check()
        with CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
                return
            finally:
                self._scopes.discard(scope)
        self.check()

    def check(self) -> None:
        """Raise Stopped if the batch drains."""
        if self.draining:
            raise stopped()


def stopped() -> Stopped:
    """Return the error of a call that was not made."""
    return Stopped("the batch was stopped before this call was made")


class Turn:
    """What one worker knows of the waits of its present call.

    Attributes:
        began: When it began.
        seconds: How long it has waited since; several waits at once count once.
    """

    __slots__ = ("_began", "_waits", "began", "seconds", "waits")

    def __init__(self, waits: Waits) -> None:
        self.waits = waits
        self.began = self.seconds = self._began = 0.0
        self._waits = 0

    def begin(self) -> None:
        """Begin a wait."""
        if not self._waits:
            self._began = perf_counter()
            self.waits.calls += 1
        self._waits += 1

    def end(self) -> None:
        """End a wait."""
        self._waits -= 1
        if not self._waits:
            self.seconds += perf_counter() - max(self._began, self.began)
            self.waits.calls -= 1


current_turn: ContextVar[Turn] = ContextVar("genbatch_turn")


@contextmanager
def waiting() -> Iterator[None]:
    """Wait inside the block, outside what counts as the call; without a batch, just wait.

    Raises:
        Stopped: If the batch drains.
    """
    turn = current_turn.get(None)
    if turn is None:
        yield
        return
    turn.begin()
    try:
        with turn.waits.one():
            yield
    finally:
        turn.end()


def current_loop() -> object:
    """Return the running event loop, None outside any."""
    try:
        return current_token().native_token
    except NoEventLoopError:
        return None


class LoopGuard:
    """What is used belongs to the event loop of its first use until its last use ends.

    Enter it for as long as a use lasts.

    Args:
        owner: What it guards, for the message.
    """

    __slots__ = ("_holder", "_owner", "_uses")

    def __init__(self, owner: object) -> None:
        self._owner = type(owner).__name__
        self._holder: dict[str, object] = {}  # for its setdefault, which no thread interrupts
        self._uses = 0

    @property
    def is_held_elsewhere(self) -> bool:
        """Whether it is in use in another event loop than this one."""
        loop = current_loop()
        return loop is not None and self._holder.get("loop", loop) is not loop

    def check(self) -> None:
        """Raise RuntimeError where it is in use in another event loop."""
        if self.is_held_elsewhere:
            raise self._error()

    def __enter__(self) -> None:
        loop = current_loop()
        if self._holder.setdefault("loop", loop) is not loop:
            raise self._error()
        self._uses += 1

    def __exit__(self, *_: object) -> None:
        self._uses -= 1
        if not self._uses:
            self._holder.clear()

    def _error(self) -> RuntimeError:
        return RuntimeError(
            f"{self._owner} is in use in another event loop: use it in one at a time, "
            f"or make one {self._owner} for each"
        )
