"""Waiting is not running: how a call tells its batch that it only waits for its turn.

A call that waits is not in flight: its wait does not count towards its outcome's elapsed, and a
batch that drains drops it, since nothing was sent and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

from anyio import CancelScope

from ._errors import Stopped


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
