"""RunBreaker: the circuit breaker of a run, which spares later calls what one has learned.

A refused key, a disk that takes no image, and a service that has failed many times in a row stop
the whole run; a used-up quota stops the calls of its model. What is stopped makes no further call:
its prompts fail with the error that stopped them. All of it belongs to one run: the client and the
store know nothing of it, and a later run starts afresh.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import WARNING, getLogger

from genbatch._logs import log
from genbatch._values import (
    GenbatchError,
    QuotaExhausted,
    Stopped,
    StoreError,
    Unauthorized,
    Unavailable,
)

_log = getLogger("genbatch.run")

FAILURES_IN_A_ROW = 20  # calls of all models, each retried as often as its client does


class RunBreaker:
    """What has stopped a run, or some of its models.

    Attributes:
        drop_waiting: Called when the run is stopped: ends the waiting of calls that were not sent.
    """

    def __init__(self, drop_waiting: Callable[[], None] = lambda: None) -> None:
        self.drop_waiting = drop_waiting
        self._run: Exception | None = None
        self._models: dict[str, Exception] = {}
        self._unavailable = 0

    def cause(self, model: str) -> Exception | None:
        """Return what has stopped the calls of a model, None if nothing has."""
        # Each prompt gets its own: a raised one grows its traceback.
        return copy.copy(self._run or self._models.get(model))

    def check(self, model: str) -> None:
        """Raise what has stopped the calls of a model, if anything has."""
        if (error := self.cause(model)) is not None:
            raise error

    @contextmanager
    def observe(self, model: str) -> Iterator[None]:
        """Learn from how a call of a model ends in the block.

        Nothing may be awaited between the call and the block's end: others would start meanwhile.
        """
        try:
            yield
        except Stopped:
            self.check(model)  # what stopped it, where that is known here
            raise
        except Exception as exc:
            self._failed(model, exc)
            raise
        self._unavailable = 0

    @contextmanager
    def observe_store(self) -> Iterator[None]:
        """Stop the run at a StoreError that leaves the block."""
        try:
            yield
        except StoreError as exc:
            self.stop(exc)
            raise

    def stop(self, error: Exception) -> None:
        """Stop the run; the first cause counts."""
        if self._run is None:
            self._run = error
            log(_log, WARNING, "the run stops", error=error)
            self.drop_waiting()

    def _failed(self, model: str, error: Exception) -> None:
        if isinstance(error, Unavailable | TimeoutError):
            self._unavailable += 1
            if self._unavailable >= FAILURES_IN_A_ROW:
                row = f"{FAILURES_IN_A_ROW} calls in a row have failed"
                self.stop(Stopped(f"{row}: {error}"))
        elif isinstance(error, GenbatchError) and error.status is not None:
            self._unavailable = 0  # it has answered
        if isinstance(error, Unauthorized):
            self.stop(error)
        elif isinstance(error, QuotaExhausted) and model not in self._models:
            self._models[model] = error
            log(_log, WARNING, "the calls of %s stop", model, error=error)
