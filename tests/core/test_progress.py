from __future__ import annotations

import pytest

from genbatch import Progress


def progress(
    total: int | None = 5, succeeded: int = 2, failed: int = 1, done: int = 3, elapsed: float = 6.0
) -> Progress:
    started = succeeded + failed + 2
    return Progress(total, started, 2, succeeded, failed, done, elapsed)


def test_rate_eta_and_percent_follow_from_the_counts() -> None:
    now = progress()
    assert now.finished == 3
    assert now.rate == 0.5
    assert now.eta == 4.0
    assert now.percent == 60.0


def test_nothing_is_promised_before_the_first_call_has_ended() -> None:
    now = progress(succeeded=0, failed=0, done=0)
    assert now.eta is None
    assert now.rate == 0.0
    assert progress(elapsed=0.0).rate == 0.0


def test_an_unknown_total_leaves_eta_and_percent_unknown() -> None:
    now = progress(total=None)
    assert now.eta is None
    assert now.percent is None


def test_an_empty_batch_is_complete() -> None:
    assert progress(total=0, succeeded=0, failed=0, done=0).percent == 100.0


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (progress(), "3/5 done, 1 failed, 60 %, 4 s left"),
        (progress(succeeded=3, failed=0), "3/5 done, 60 %, 4 s left"),
        (progress(total=None), "3 done, 1 failed"),
        (progress(succeeded=4, failed=1, done=5), "5/5 done, 1 failed, 100 %"),
        (progress(succeeded=0, failed=0, done=0), "0/5 done, 0 %"),
        (progress(elapsed=90.0), "3/5 done, 1 failed, 60 %, 1 min 0 s left"),
        (progress(elapsed=88.5), "3/5 done, 1 failed, 60 %, 59 s left"),
        (progress(elapsed=5400.0), "3/5 done, 1 failed, 60 %, 1 h 0 min left"),
        (progress(elapsed=5398.5), "3/5 done, 1 failed, 60 %, 59 min 59 s left"),
    ],
)
def test_progress_prints_as_a_person_would_say_it(now: Progress, text: str) -> None:
    assert str(now) == text
