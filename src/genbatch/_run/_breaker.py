"""RunBreaker: the circuit breaker of a run, which spares later calls what one has learned.

What every call would meet stops the run: a refused key, a redirect, a web page in place of an
answer, an unsupported location, a service that cannot be reached at all, or many times in a row has
failed or sent a malformed answer (which may be billed), and a disk that takes no image. What every
call of a model would meet stops the calls of that model: a used-up quota, a rate limit beyond
patience, a model that the service does not have, or one of which it has refused many requests in
the same words, or the first where others wait for it. What is stopped makes no further call: its
prompts fail with the error that stopped them, which says nothing of the prompts. All of it belongs
to one run: the client and the store know nothing of it, and a later run starts afresh.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import WARNING, getLogger

from genbatch._logs import log
from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    Rejected,
    Stopped,
    StoreError,
    Unauthorized,
    Unavailable,
)
from genbatch._watch import current_watch
from genbatch.events import CallsStopped

_log = getLogger("genbatch.run")

_NUMBER = re.compile(r"\S*\d\S*")  # or an id: what differs in words that are the same

FAILURES_IN_A_ROW = 20  # calls of all models, each retried as often as its client does
REFUSALS_IN_A_ROW = 10  # of a model, in the same words
FIRST_REFUSED = "the first call was refused, and no other sent"
PAGES_IN_A_ROW = 5  # attempts


class RunBreaker:
    """What has stopped a run, or some of its models.

    Attributes:
        drop_waiting: Called when the run is stopped: ends the waiting of calls that were not sent.
        has_several_keys: Whether the run calls several services: one's refused key says nothing of
            the calls of another.
        is_first: Whether the others of a model wait for a call that is in flight; see FirstLook.
    """

    def __init__(self, drop_waiting: Callable[[], None] = lambda: None) -> None:
        self.drop_waiting = drop_waiting
        self.has_several_keys = False
        self.is_first: Callable[[str], bool] = lambda model: False
        self._run: Exception | None = None
        self._models: dict[str, Exception] = {}
        self._failures = 0
        self._has_answered = False  # as the service that it should be
        self._refusals: dict[str, list[str]] = {}  # by model: those in a row in the same words
        self._to_forget: list[str] = []
        self._pages = 0

    def attempt_failed(self, error: Exception) -> None:
        """Learn from an attempt, which may be made again: one web page may pass, not many."""
        is_page = isinstance(error, InvalidResponse) and error.scope == "service"
        self._pages = self._pages + 1 if is_page else 0
        if self._pages >= PAGES_IN_A_ROW and isinstance(error, InvalidResponse):
            self.stop(_cause(error))

    @property
    def is_key_useless(self) -> bool:
        """Whether the key was refused, and no call of the run was answered before."""
        is_refused = isinstance(self._run, Unauthorized) and not self.has_several_keys
        return is_refused and not self._has_answered

    def take_refusals(self) -> list[str]:
        """Return, once, the messages of refusals that turned out to say nothing of the prompts."""
        messages, self._to_forget = self._to_forget, []
        return messages

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
            if self._failed(model, exc):
                self.check(model)
            raise
        self._has_answered = True
        self._failures = self._pages = 0
        self._refusals.pop(model, None)

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
            _tell(error)
            self.drop_waiting()

    def _failed(self, model: str, error: Exception) -> bool:
        """Learn from a failure; return whether it is what stops calls, and no fault of a prompt."""
        is_cause = False
        if isinstance(error, Unavailable | TimeoutError | InvalidResponse):
            is_cause = self._count_failure(error)
        if not isinstance(error, GenbatchError):
            return is_cause
        if error.status is not None and not isinstance(error, Unavailable | InvalidResponse):
            self._failures = 0  # it has answered
        if isinstance(error, Rejected):
            is_cause = self._count_refusal(model, error)
        elif not isinstance(error, Unavailable):
            self._refusals.pop(model, None)
        if error.scope == "service":
            self.stop(_cause(error))
        elif error.scope == "model":
            self._stop_model(model, _cause(error))
        return is_cause or (error.scope != "prompt" and _cause(error) is not error)

    def _stop_model(self, model: str, error: Exception) -> None:
        if model not in self._models:
            self._models[model] = error
            log(_log, WARNING, "the calls of %s stop", model, error=error)
            _tell(error, model)

    def _count_failure(self, error: Exception) -> bool:
        self._failures += 1
        is_reached = not isinstance(error, Unavailable) or error.is_reached
        if not is_reached and not self._has_answered:  # no network, or not the right address
            self.stop(Stopped(str(error)))
            return True
        if self._failures >= FAILURES_IN_A_ROW:
            row = f"{FAILURES_IN_A_ROW} calls in a row have failed"
            self.stop(Stopped(f"{row}: {error}"))
        return False

    def _count_refusal(self, model: str, error: Rejected) -> bool:
        message, row = str(error), self._refusals.setdefault(model, [])
        if row and _NUMBER.sub("", row[-1]) != _NUMBER.sub("", message):
            row.clear()
        row.append(message)
        most = 1 if self.is_first(model) else REFUSALS_IN_A_ROW
        if error.scope != "prompt" or len(row) < most:
            return False
        self._to_forget += row if len(row) == most else {message}.difference(row[:-1])
        if len(row) == most:
            told = f"{most} calls in a row were refused in the same words"
            told = FIRST_REFUSED if most == 1 else told
            stopped = Stopped(f"{told}: {message}", status=error.status)
            stopped.scope = "model"
            self._stop_model(model, stopped)
        return True


def _tell(error: Exception, model: str | None = None) -> None:
    if (watch := current_watch()) is not None:
        watch.tell(CallsStopped(watch.call, error, model))


def _cause(error: GenbatchError) -> GenbatchError:
    """Return what the calls that an error stops fail with: nothing that says they were asked."""
    if not isinstance(error, Rejected | InvalidResponse):
        return error
    stopped = Stopped(str(error), status=error.status)
    stopped.scope = error.scope
    return stopped
