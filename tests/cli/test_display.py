"""What is shown fits its terminal and carries nothing foreign that acts on it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from genbatch import Failure, Progress
from genbatch.cli._display import Display, QuietConsole, _bar, clock, plain, why


def progress(done: int, total: int = 1632, failed: int = 0) -> Progress:
    return Progress(
        total=total,
        started=done + 20,
        in_flight=20,
        succeeded=done - failed,
        failed=failed,
        done=done,
        elapsed=done / 78.4,
    )


@given(
    width=st.integers(24, 200),
    done=st.integers(0, 10_000),
    failed=st.integers(0, 10_000),
    held=st.sampled_from(["", "rate limited: 12 s, capacity 4"]),
)
def test_the_bar_is_one_line_that_fits(width: int, done: int, failed: int, held: str) -> None:
    console = Console(file=io.StringIO(), width=width)
    lines = console.render_lines(_bar(progress(done, 10_000, min(failed, done)), 1.5, held, width))
    shown = ["".join(segment.text for segment in line) for line in lines]
    assert len(shown) == 1
    assert f"{done}/10000" in shown[0]
    assert "…" not in shown[0]


def test_the_bar_shows_everything_on_80_columns_and_the_least_on_40() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(_bar(progress(812, failed=3), 27.3, "", 80))
    console.print(_bar(progress(812, failed=3), 27.3, "", 40), width=40)
    console.print(_bar(progress(812, failed=3), 27.3, "rate limited: 12 s, capacity 4", 80))
    wide, narrow, held = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert wide.strip("━╺╸ ") == "812/1632  3 failed  20 in flight  $27.30  78.4/s  0:10 left"
    assert narrow.strip("━╺╸ ") == "812/1632  3 failed  0:10 left"
    assert held.strip("━╺╸ ") == (
        "812/1632  3 failed  $27.30  78.4/s  rate limited: 12 s, capacity 4"
    )


@given(text=st.text(st.characters(codec="utf-8")), limit=st.integers(1, 400))
def test_plain_is_one_printable_line_in_bounds(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


def test_plain_keeps_what_is_harmless() -> None:
    assert plain("a \x1b[31mred\x1b[0m\r\n  [b]fox[/b] 🦊 \u202etxet") == (
        "a [31mred [0m [b]fox[/b] 🦊 txet"
    )
    assert plain("a red fox", 6) == "a red…"


def test_an_error_without_a_message_is_named() -> None:
    assert why(Failure(0, "a fox", TimeoutError())) == "TimeoutError"


def test_lines_come_once_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(QuietConsole(stderr=True)) as display:
        for done in range(101):
            display.show(progress(done, 100), 0.0)
            display.show(progress(done, 100), 0.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("/")[0] for line in lines] == [str(n) for n in range(10, 101, 10)]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
