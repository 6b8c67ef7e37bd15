"""Halt: what has stopped a run on all its workers, the first of it."""

from __future__ import annotations

from contextlib import suppress
from copy import copy

from genbatch._core import Turn, Waits, current_turn
from genbatch._run import RunBreaker
from genbatch._values import QuotaExhausted, Stopped, Unavailable


class Halt:
    """Learns from the errors of all calls what stops the run, and ends the waiting of the others.

    Args:
        model: Full id of the one that all calls ask.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._waits = Waits()
        self._breaker = RunBreaker(self._waits.drain)
        self._error: Exception | None = None

    def let_wait(self) -> None:
        """Let the current task wait only until the run stops."""
        mine = Turn(self._waits)
        mine.seconds = 0.0
        current_turn.set(mine)

    def check(self) -> None:
        """Raise what has stopped the run, if anything has."""
        if self._error is not None:
            raise copy(self._error)
        self._breaker.check(self._model)

    def learn(self, error: Exception | None) -> None:
        """Learn from what came of a call, None for an answer as it should be."""
        with (
            suppress(Exception),
            self._breaker.observe(self._model),
            self._breaker.observe_store(),
        ):
            if error is not None:
                raise error
        if isinstance(error, QuotaExhausted):
            self.stop(error)  # there is but one model

    def learn_of_attempt(self, error: Exception) -> None:
        """Learn from an attempt that failed; one that may be made again does not count yet."""
        if not isinstance(error, Unavailable | TimeoutError):
            self.learn(error)

    def stop(self, error: Exception) -> None:
        """Stop the run."""
        if self._error is None:
            self._error = error
            self._waits.drain()

    def cause_of(self, error: Exception) -> Exception:
        """Return what has stopped the run in place of the Stopped that it caused."""
        if isinstance(error, Stopped):
            try:
                self.check()
            except Exception as cause:  # noqa: BLE001 - returned
                return cause
        return error
