"""Stops: what one call of a run has learnt that spares the others.

A refused key, a disk that takes no image, and a service that has failed many times in a row stop
the whole run, a used-up quota the calls of its model. What is stopped makes no further call: its
prompts fail with the error that stopped them. All of it belongs to one run: the client and the
store know nothing of it, and a later run begins anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from logging import WARNING, getLogger

from genbatch._core import current_turn
from genbatch._logs import tell
from genbatch._money import Account, Attempt
from genbatch._values import (
    GenbatchError,
    QuotaExhausted,
    Stopped,
    StoreError,
    Unauthorized,
    Unavailable,
)

_log = getLogger("genbatch.run")

FAILURES_IN_A_ROW = 20  # calls of all models, each tried again as often as its client does


class Stops:
    """What has stopped a run, or some of its models."""

    def __init__(self) -> None:
        self._run: Exception | None = None
        self._models: dict[str, Exception] = {}
        self._unavailable = 0

    def check(self, model: str) -> None:
        """Raise what has stopped the calls of a model, if anything has."""
        error = self._run or self._models.get(model)
        if error is not None:
            raise copy.copy(error)  # each prompt its own: a raised one grows its traceback

    def guard(self, model: str, account: Account) -> Account:
        """Return an account that refuses every attempt of a model once it is stopped."""
        return _Guard(self, model, account)

    @contextmanager
    def learning(self, model: str) -> Iterator[None]:
        """Learn from what comes of a call of a model, in the block.

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
    def learning_of_disk(self) -> Iterator[None]:
        """Learn from what comes of the store, in the block."""
        try:
            yield
        except StoreError as exc:
            self._stop(exc)
            raise

    def _failed(self, model: str, error: Exception) -> None:
        if isinstance(error, Unavailable | TimeoutError):
            self._unavailable += 1
            if self._unavailable >= FAILURES_IN_A_ROW:
                row = f"{FAILURES_IN_A_ROW} calls in a row have failed"
                self._stop(Stopped(f"{row}: {error}"))
        elif isinstance(error, GenbatchError) and error.status is not None:
            self._unavailable = 0  # it has answered
        if isinstance(error, Unauthorized):
            self._stop(error)
        elif isinstance(error, QuotaExhausted) and model not in self._models:
            self._models[model] = error
            tell(_log, WARNING, "the calls of %s stop", model, error=error)

    def _stop(self, error: Exception) -> None:
        if self._run is None:
            self._run = error
            tell(_log, WARNING, "the run stops", error=error)
            current_turn.get().waits.drain()


@dataclass(frozen=True, slots=True)
class _Guard:
    stops: Stops
    model: str
    account: Account

    def attempt(self, price: float | None) -> AbstractAsyncContextManager[Attempt]:
        self.stops.check(self.model)
        return self.account.attempt(price)
