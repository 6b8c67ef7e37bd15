"""Waiting is not running: how a call tells its batch that it only waits for its turn.

A call that waits is not in flight, its waiting is no part of its outcome's elapsed, and a batch
that drains drops it: nothing was sent, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

from anyio import CancelScope

from ._errors import Stopped


class Waits:
    """The calls of one batch that wait, and whether they still may."""

    def __init__(self) -> None:
        self.draining = False
        self._scopes: set[CancelScope] = set()

    @property
    def count(self) -> int:
        """Waits going on now."""
        return len(self._scopes)

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
            raise Stopped("the batch was stopped before this call was made")


class Turn:
    """What one worker knows of its present call: the seconds it has waited."""

    __slots__ = ("seconds", "waits")
    seconds: float  # set anew before each call

    def __init__(self, waits: Waits) -> None:
        self.waits = waits


turn: ContextVar[Turn] = ContextVar("genbatch_turn")


@contextmanager
def waiting() -> Iterator[None]:
    """Wait inside the block, outside what counts as the call; without a batch, just wait.

    Raises:
        Stopped: If the batch drains.
    """
    mine = turn.get(None)
    if mine is None:
        yield
        return
    began = perf_counter()
    try:
        with mine.waits.one():
            yield
    finally:
        mine.seconds += perf_counter() - began
