"""Only errors that may pass are tried again, with pauses that grow."""

from __future__ import annotations

import pytest

from genbatch._errors import (
    Blocked,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import _retry
from genbatch.gemini._retry import backoff, with_retries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept between attempts; nothing sleeps."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(_retry, "sleep", sleep)
    monkeypatch.setattr(_retry, "random", lambda: 0.5)
    return slept


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


@pytest.mark.anyio
async def test_passing_errors_are_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    attempts = Attempts(Unavailable("503"), TimeoutError("late"), InvalidResponse("not JSON"))
    assert await with_retries(attempts, 3) == "done"
    assert attempts.made == 4
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.anyio
async def test_rate_limit_waits_as_long_as_it_is_asked_to(pauses: list[float]) -> None:
    attempts = Attempts(RateLimited("429", retry_after=0.0), RateLimited("429", retry_after=99.0))
    await with_retries(attempts, 3)
    assert pauses == [0.0, 99.0]
    await with_retries(Attempts(RateLimited("429")), 3)
    assert pauses[2:] == [0.5]


@pytest.mark.anyio
async def test_a_rate_limit_that_asks_for_minutes_is_told_at_once(pauses: list[float]) -> None:
    with pytest.raises(RateLimited) as info:
        await with_retries(Attempts(RateLimited("429", retry_after=3600.0)), 3)
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
        RuntimeError("a bug"),
    ],
)
async def test_lasting_errors_are_not_tried_again(error: Exception, pauses: list[float]) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)) as caught:
        await with_retries(attempts, 3)
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
        await with_retries(attempts, max_retries)
    assert attempts.made == max_retries + 1
    assert len(pauses) == max_retries


@pytest.mark.anyio
async def test_last_timeout_tells_how_many_attempts_there_were(pauses: list[float]) -> None:
    for max_retries, expected in ((0, "late (1 attempt)"), (3, "late (4 attempts)")):
        with pytest.raises(TimeoutError) as caught:
            await with_retries(Attempts(*[TimeoutError("late")] * 9), max_retries)
        assert str(caught.value) == expected


def test_backoff_doubles_up_to_its_cap_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "random", lambda: 1.0)
    assert [backoff(made) for made in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == 30
    monkeypatch.setattr(_retry, "random", lambda: 0.0)
    assert backoff(3) == 0
