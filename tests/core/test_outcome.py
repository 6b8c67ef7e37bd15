from __future__ import annotations

import copy
import pickle

import pytest

from genbatch import Failure, Outcome, Success


def test_success_matches_by_position() -> None:
    match Success(3, "a cup", "image", 1.5):
        case Success(index, prompt, value, elapsed):
            assert (index, prompt, value, elapsed) == (3, "a cup", "image", 1.5)


def test_failure_matches_by_position_without_elapsed() -> None:
    error = ValueError("no")
    match Failure(3, "a cup", error, 1.5):
        case Failure(index, prompt, reason):
            assert (index, prompt, reason) == (3, "a cup", error)


def test_unwrap_returns_the_value_or_raises_the_error() -> None:
    error = ValueError("no")
    assert Success(0, "p", 7).unwrap() == 7
    with pytest.raises(ValueError, match="no") as info:
        Failure(0, "p", error).unwrap()
    assert info.value is error


def test_elapsed_is_no_part_of_equality() -> None:
    error = ValueError("no")
    assert Success(0, "p", 7, 1.0) == Success(0, "p", 7, 2.0)
    assert Success(0, "p", 7) != Success(1, "p", 7)
    assert Failure(0, "p", error, 1.0) == Failure(0, "p", error, 2.0)
    assert Success(0, "p", 7).elapsed == Failure(0, "p", error).elapsed == 0.0


@pytest.mark.parametrize("outcome", [Success(0, "p", 7, 1.0), Failure(0, "p", ValueError(), 1.0)])
def test_outcomes_are_frozen_and_slotted(outcome: Outcome[str, int]) -> None:
    with pytest.raises(AttributeError):
        outcome.index = 1  # type: ignore[misc]
    assert not hasattr(outcome, "__dict__")


def test_outcomes_can_be_copied_and_pickled() -> None:
    outcome = Success(0, "p", 7, 1.0)
    assert copy.copy(outcome) == pickle.loads(pickle.dumps(outcome)) == outcome
