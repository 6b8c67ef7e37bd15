"""What a batch gives: an outcome for each prompt, its progress, and the base of the errors."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Generic, Literal, NoReturn, TypeAlias, TypeVar

P = TypeVar("P")
T = TypeVar("T")
P_co = TypeVar("P_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Success(Generic[P_co, T_co]):
    """The call for this prompt returned a value.

    Hashable, whatever prompt and value are.

    Attributes:
        index: Position of the prompt in the input, from 0.
        prompt: The prompt as it was given.
        value: What generate returned.
        elapsed: Seconds the call took.
    """

    index: int
    prompt: P_co = field(hash=False)
    value: T_co = field(hash=False)
    elapsed: float = field(default=0.0, compare=False)

    def unwrap(self) -> T_co:
        """Return the value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Failure(Generic[P_co]):
    """The call for this prompt raised.

    Hashable, whatever prompt and error are.

    Attributes:
        index: Position of the prompt in the input, from 0.
        prompt: The prompt as it was given.
        error: What generate raised.
        elapsed: Seconds the call took.
    """

    index: int
    prompt: P_co = field(hash=False)
    error: Exception = field(hash=False)
    elapsed: float = field(default=0.0, compare=False)

    def unwrap(self) -> NoReturn:
        """Raise the error, with the traceback that it had when generate raised it."""
        raise self.error.with_traceback(_before_unwrap(self.error.__traceback__))


Outcome: TypeAlias = Success[P_co, T_co] | Failure[P_co]


_set_index, _set_prompt, _set_value, _set_elapsed = (
    getattr(Success, each.name).__set__ for each in fields(Success)
)


def succeed(index: int, prompt: P, value: T, elapsed: float) -> Success[P, T]:
    """Return a Success, in half the time that a frozen dataclass takes to fill itself in."""
    success: Success[P, T] = object.__new__(Success)
    _set_index(success, index)
    _set_prompt(success, prompt)
    _set_value(success, value)
    _set_elapsed(success, elapsed)
    return success


def _before_unwrap(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without what raising it again by unwrap has put before it."""
    entry = original = traceback
    while entry is not None:
        if entry.tb_frame.f_code is Failure.unwrap.__code__:
            original = entry.tb_next
        entry = entry.tb_next
    return original


class GenbatchError(Exception):
    """Base of everything below.

    Attributes:
        status: HTTP status of the answer, None where there was none.
        retry_after: Seconds the service asks to wait, None where it does not say.
        request_id: The service's id of the request, None where it gives none.
        maybe_paid: Whether any attempt of the call may have been billed although it brought no
            image.
        attempts: How many attempts were made; the message tells them where there were several.
        scope: Whose calls would all meet the same, as far as is known: those of this ``"prompt"``
            only, of its ``"model"``, or all of the ``"service"``.
    """

    scope: Literal["prompt", "model", "service"] = "prompt"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        maybe_paid: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.request_id = request_id
        self.maybe_paid = maybe_paid
        self.attempts = 1

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.attempts == 1 else f"{message} ({self.attempts} attempts)"


class Stopped(GenbatchError):
    """The batch was stopped before this prompt's call was made; nothing was sent or paid."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch has come; ``str()`` of it reads ``3/5 done, 1 failed, 60 %, 4 s left``.

    Attributes:
        total: Prompts in the batch, None while unknown.
        started: Calls started so far.
        in_flight: Calls running now, those not counted that only wait for their turn.
        succeeded: Calls that returned a value.
        failed: Calls that raised.
        done: Outcomes handed over to a reader.
        elapsed: Seconds since the batch began, until its last call ended.
        waiting: Calls that wait for their turn, as for a rate limit to pass.
    """

    total: int | None
    started: int
    in_flight: int
    succeeded: int
    failed: int
    done: int
    elapsed: float
    waiting: int = 0

    @property
    def finished(self) -> int:
        """Calls that have ended, handed over or not."""
        return self.succeeded + self.failed

    @property
    def rate(self) -> float:
        """Calls ended per second, 0.0 before any."""
        return self.finished / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds left at this rate, None while unknown."""
        if self.total is None or not self.finished:
            return None
        return (self.total - self.finished) * self.elapsed / self.finished

    @property
    def percent(self) -> float | None:
        """Share handed over, 0 to 100, None while the total is unknown."""
        if self.total is None:
            return None
        return 100 * self.done / self.total if self.total else 100.0

    def __str__(self) -> str:
        of_total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of_total} done"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.waiting:
            parts.append(f"{self.waiting} waiting")
        if self.percent is not None:
            parts.append(f"{self.percent:.0f} %")
        if self.eta:
            parts.append(f"{_duration(self.eta)} left")
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        """Show a bar and the same words in a notebook."""
        if self.percent is None:
            return str(self)
        # Numbers and words of ours: there is nothing to escape.
        return f'<progress max="100" value="{self.percent:.1f}"></progress> {self}'


def _duration(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
