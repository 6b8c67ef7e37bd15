"""Only errors that may pass are tried again, with pauses that grow."""

from __future__ import annotations

import pickle

import pytest

import genbatch
from genbatch._client import _retry
from genbatch._client._retry import backoff, with_retries
from genbatch._values import (
    Blocked,
    GenbatchError,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    RateLimited,
    Rejected,
    Stopped,
    TimedOut,
    Unauthorized,
    Unavailable,
)


@pytest.fixture
def pauses(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """As everywhere, and without jitter."""
    monkeypatch.setattr(_retry, "random", lambda: 0.5)
    return pauses


class Attempts:
    """Fails with each error in turn, then returns."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


async def retried(attempts: Attempts, max_retries: int) -> str:
    return await with_retries(attempts, max_retries, lambda answer: answer)


@pytest.mark.anyio
async def test_passing_errors_are_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    attempts = Attempts(Unavailable("503"), TimedOut("late"), InvalidResponse("not JSON"))
    assert await retried(attempts, 3) == "done"
    assert attempts.made == 4
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.anyio
async def test_what_is_asked_to_wait_waits_as_long_as_it_is_asked_to(pauses: list[float]) -> None:
    attempts = Attempts(Unavailable("503", retry_after=0.0), Unavailable("503", retry_after=99.0))
    await retried(attempts, 3)
    assert pauses == [0.0, 99.0]


@pytest.mark.anyio
async def test_a_service_that_asks_for_minutes_is_told_at_once(pauses: list[float]) -> None:
    with pytest.raises(Unavailable) as info:
        await retried(Attempts(Unavailable("503", retry_after=3600.0)), 3)
    assert info.value.retry_after == 3600.0
    assert pauses == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [
        Blocked("blocked", reason="SAFETY"),
        NoImage("no image"),
        Rejected("400"),
        Unauthorized("403"),
        QuotaExhausted("429"),
        RateLimited("429"),
        RuntimeError("a bug"),
    ],
)
async def test_lasting_errors_are_not_tried_again(error: Exception, pauses: list[float]) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)) as caught:
        await retried(attempts, 3)
    assert caught.value is error
    assert attempts.made == 1
    assert pauses == []


@pytest.mark.anyio
@pytest.mark.parametrize("max_retries", [0, 2])
async def test_last_error_is_raised_when_retries_are_used_up(
    max_retries: int, pauses: list[float]
) -> None:
    failures = [Unavailable(f"failure {number}") for number in range(9)]
    attempts = Attempts(*failures)
    with pytest.raises(Unavailable, match=f"failure {max_retries}"):
        await retried(attempts, max_retries)
    assert attempts.made == max_retries + 1
    assert len(pauses) == max_retries


@pytest.mark.anyio
@pytest.mark.parametrize("passing", [TimedOut, Unavailable, InvalidResponse])
async def test_error_that_survives_retries_tells_how_many_attempts_there_were(
    passing: type[GenbatchError], pauses: list[float]
) -> None:
    for max_retries, expected in ((0, "late"), (3, "late (4 attempts)")):
        failures = [passing("late") for _ in range(9)]
        with pytest.raises(passing) as caught:
            await retried(Attempts(*failures), max_retries)
        assert str(caught.value) == expected
        assert caught.value.attempts == max_retries + 1


@pytest.mark.anyio
@pytest.mark.parametrize("maybe_paid", [True, False])
async def test_error_tells_whether_any_of_its_attempts_may_have_been_paid(
    maybe_paid: bool, pauses: list[float]
) -> None:
    failures = [Unavailable("lost", maybe_paid=maybe_paid), Unavailable("refused"), Rejected("400")]
    with pytest.raises(Rejected, match=r"^400 \(3 attempts\)$") as caught:
        await retried(Attempts(*failures), 3)
    assert caught.value.maybe_paid is maybe_paid


@pytest.mark.anyio
async def test_answer_that_cannot_be_read_is_paid_for_and_not_asked_for_again(
    pauses: list[float],
) -> None:
    def read(answer: str) -> str:
        raise InvalidResponse(f"{answer}, and no image")

    attempts = Attempts(Unavailable("lost", maybe_paid=True))
    with pytest.raises(InvalidResponse, match=r"^done, and no image \(2 attempts\)$") as caught:
        await with_retries(attempts, 3, read)
    assert attempts.made == 2
    assert caught.value.maybe_paid


@pytest.mark.anyio
async def test_stopped_batch_does_not_wait_for_another_attempt() -> None:
    """Its failure is what went wrong: unlike Stopped, that tells of an attempt."""
    attempts = Attempts(*[Unavailable("busy", retry_after=100.0, maybe_paid=True)] * 9)

    async def generate(prompt: str) -> str:
        outcomes.drain()
        return await retried(attempts, 3)

    async with genbatch.stream(generate, ["a cat"]) as outcomes:
        outcome = await outcomes.receive()
    assert isinstance(outcome, genbatch.Failure)
    assert type(outcome.error) is Unavailable
    assert outcome.error.maybe_paid
    assert attempts.made == 1


@pytest.mark.parametrize(
    "error_type",
    [
        GenbatchError,
        RateLimited,
        QuotaExhausted,
        Unavailable,
        TimedOut,
        InvalidResponse,
        Rejected,
        Unauthorized,
        Blocked,
        NoImage,
        Stopped,
    ],
)
def test_every_error_tells_the_same_things_and_survives_pickling(
    error_type: type[GenbatchError],
) -> None:
    plain = error_type("why")
    assert (plain.status, plain.retry_after, plain.request_id) == (None, None, None)
    assert (plain.maybe_paid, plain.attempts, str(plain)) == (False, 1, "why")
    told = error_type("why", status=429, request_id="r-1", maybe_paid=True)
    told.retry_after, told.attempts = 2.5, 3
    copy = pickle.loads(pickle.dumps(told))
    assert type(copy) is error_type
    assert vars(copy) == vars(told)
    assert str(copy) == "why (3 attempts)"


def test_timed_out_is_a_timeout_error_and_a_genbatch_error() -> None:
    assert issubclass(TimedOut, TimeoutError)
    assert issubclass(TimedOut, GenbatchError)


def test_backoff_doubles_up_to_its_cap_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "random", lambda: 1.0)
    assert [backoff(made) for made in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == 30
    monkeypatch.setattr(_retry, "random", lambda: 0.0)
    assert backoff(3) == 0
