"""What one prompt came to: Success or Failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeAlias, TypeVar

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, init=False)
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

    def __init__(self, index: int, prompt: P, value: T, elapsed: float = 0.0) -> None:
        # By the slots themselves: what a frozen dataclass does takes twice as long, on the one
        # path that every prompt takes.
        _set_index(self, index)
        _set_prompt(self, prompt)
        _set_value(self, value)
        _set_elapsed(self, elapsed)

    def unwrap(self) -> T:
        """Return the value."""
        return self.value


_set_index, _set_prompt, _set_value, _set_elapsed = (
    vars(Success)[name].__set__ for name in Success.__match_args__
)


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
