"""What is shown fits its terminal and carries nothing foreign that acts on it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from genbatch import Budget, Failure, Progress, Throttle
from genbatch._values import RateLimited
from genbatch.cli._bar import Area, Finished, Snapshot, Speed, held_by, limit_of, lines_of, spent_of
from genbatch.cli._console import QuietConsole, clock, plain, why
from genbatch.cli._display import Display
from genbatch.cli._options import Options
from genbatch.cli._result import Result

pytestmark = pytest.mark.anyio


def progress(
    done: int, total: int | None = 1632, failed: int = 0, elapsed: float = 0.0
) -> Progress:
    return Progress(
        total=total,
        started=done + 20,
        in_flight=20,
        succeeded=done - failed,
        failed=failed,
        done=done,
        elapsed=elapsed or done / 78.4,
    )


def shown(snapshot: Snapshot, width: int, height: int = 24, **options: Any) -> list[str]:
    options = {"ascii_only": False, "recent": RECENT} | options
    recent = options.pop("recent")
    return [line.plain for line in lines_of(snapshot, recent, width, height, **options)]


RECENT = [
    Finished("a red fox", 4.21, "0007-a-red-fox-6f2930.png", True),
    Finished("狐 " * 200, 12.0, "Blocked", False),
]
SNAPSHOT = Snapshot(
    progress(812, failed=3), 3, 0, 78.4, "$27.30 of $50.00", "rate limited: 12 s, capacity 4"
)


# The bar


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    done=st.integers(0, 10_000),
    failed=st.integers(0, 10_000),
    total=st.sampled_from([None, 10_000]),
    held=st.sampled_from(["", SNAPSHOT.held]),
)
def test_no_line_of_the_bar_is_longer_than_the_terminal_is_wide(
    width: int, height: int, done: int, failed: int, total: int | None, held: str
) -> None:
    snapshot = Snapshot(progress(done, total), min(failed, done), 0, 78.4, "$1.50", held)
    for line in lines_of(snapshot, RECENT, width, height, ascii_only=False):
        assert line.cell_len <= max(width, len(f"  {done}/{total}")), line.plain
        assert "\n" not in line.plain


def test_the_bar_shows_everything_on_80_columns() -> None:
    assert shown(SNAPSHOT, 80) == [
        "✓ a red fox                                      4.2 s  0007-a-red-fox-6f2930.p…",
        "✗ 狐 狐 狐 狐 狐 狐 狐 狐 狐 狐 狐 狐 狐 狐 …   12.0 s  Blocked",
        "━━━━━━━━━━━━━━━━━━━━━━━━━━───────────────────────────  812/1632  49 %  0:10 left",
        "3 failed  20 in flight  $27.30 of $50.00  78.4/s  rate limited: 12 s, capacity 4",
    ]


def test_the_bar_shows_the_least_on_40_and_on_20_columns() -> None:
    assert shown(SNAPSHOT, 40) == [
        "✓ a red fox                        4.2 s",
        "✗ 狐 狐 狐 狐 狐 狐 狐 狐 狐  …   12.0 s",
        "━━━━━━───────  812/1632  49 %  0:10 left",
        "3 failed  rate limited: 12 s, capacity 4",
    ]
    assert shown(SNAPSHOT, 20) == ["━━━━╸─────  812/1632", "3 failed  78.4/s"]


def test_prompts_above_the_bar_need_a_tall_terminal() -> None:
    assert len(shown(SNAPSHOT, 80, 12)) == 4
    assert len(shown(SNAPSHOT, 80, 11)) == 2


def test_without_a_total_there_are_figures_alone() -> None:
    (line,) = shown(Snapshot(progress(812, None), rate=78.4), 80, recent=[])
    assert line == "812 done  20 in flight  78.4/s"


def test_what_was_not_made_because_the_run_stops_is_neither_done_nor_failed() -> None:
    stopping = Snapshot(progress(812, failed=700), 3, 697, 78.4)
    bar, figures = shown(stopping, 80, recent=[])
    assert bar.endswith("  115/1632  7 %")
    assert figures == "3 failed  20 in flight  78.4/s"


def test_a_terminal_that_knows_ascii_only_gets_no_more() -> None:
    recent = [
        Finished("a red fox", 4.21, "0.png", True),
        Finished("an owl", 4.21, "Blocked", False),
    ]
    assert all(line.isascii() for line in shown(SNAPSHOT, 80, ascii_only=True, recent=recent))


def test_prompts_that_an_earlier_run_made_do_not_make_the_rate() -> None:
    speed = Speed()
    assert speed.at(0.0, 0) is None
    assert speed.at(10.0, 0) is None  # many were resumed, none has been made
    assert speed.at(20.0, 40) == 2.0
    for second in range(21, 1000):
        speed.at(float(second), 40 + second - 20)
    assert speed.at(1000.0, 1020) == pytest.approx(1.0)  # the last minutes alone


def test_a_budget_is_shown_with_what_is_spent_of_it() -> None:
    budget = Budget(50.0)
    budget.spent = 27.301
    assert spent_of(budget, 3.0) == "$27.30 of $50.00"
    assert spent_of(Budget(), 3.0) == "$3.00"
    assert spent_of(Budget(), 0.0) == ""


async def test_what_holds_calls_back_is_told() -> None:
    free, slow = Throttle(), Throttle(capacity=4, pace="30/min")

    async def rejected() -> None:
        raise RateLimited("too many", retry_after=12.0)

    assert held_by({"gemini-3-pro-image": free}, 20) == ""
    assert held_by({"gemini-3-pro-image": free}, 50) == "capacity 20"
    assert held_by({"gemini-3-pro-image": slow}, 20) == "capacity 4, at most 30/min"
    impatient = Throttle(patience=0)
    with pytest.raises(RateLimited):
        await impatient.run(rejected)
    both = {"gemini-nano-banana-2.1": slow, "gemini-3-pro-image": impatient}
    assert held_by(both, 20).startswith("pro rate limited: 12 s")
    assert limit_of(progress(5), both, 99, 1.0) == "quota"


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"waiting": 1}, "quota"),
        ({"in_flight": 20}, "calls at once"),
        ({"succeeded": 25}, "the reader"),
        ({"total": None}, "the input"),
        ({}, "the disk"),
        ({"started": 100}, ""),
        ({"started": 0, "total": None}, ""),
    ],
)
def test_what_keeps_a_batch_from_being_faster_is_a_word(
    changes: dict[str, Any], limit: str
) -> None:
    idle = replace(progress(5, 100), in_flight=3, started=8)
    assert limit_of(replace(idle, **changes), {}, 20, 0.1) == limit
    assert limit_of(idle, {}, 20, 0.95) == "the processor"
    bar = shown(replace(SNAPSHOT, limit=limit), 200, recent=[])
    assert (f"limited by {limit}" in bar[-1]) == bool(limit)


# The terminal


class Window(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def console_of(monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> QuietConsole:
    for name, value in {"TERM": "xterm", "COLUMNS": columns, "LINES": rows}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("sys.stderr", Window())
    console = QuietConsole(stderr=True)
    console.file = Window()
    return console


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> QuietConsole:
    return console_of(monkeypatch, 80, 24)


def written(console: QuietConsole) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    console.file.seek(0)
    console.file.truncate()
    return text


def test_what_is_drawn_is_drawn_over(console: QuietConsole) -> None:
    area = Area(console)
    area.draw([Text("one"), Text("two")])
    assert written(console) == "\x1b[?7lone\ntwo\n\x1b[?7h"
    area.draw([Text("one"), Text("two")])
    assert written(console) == "", "the same again is not written again"
    area.draw([Text("three")])
    assert written(console) == "\x1b[2A\r\x1b[J\x1b[?7lthree\n\x1b[?7h"
    area.print("said")
    assert written(console) == "\x1b[1A\r\x1b[Jsaid\n\x1b[?7lthree\n\x1b[?7h"
    area.erase()
    area.erase()
    assert written(console) == "\x1b[1A\r\x1b[J"


def test_lines_that_a_narrower_window_has_wrapped_are_found_again(
    console: QuietConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = Area(console)
    area.draw([Text("-" * 80), Text("-" * 30)])
    written(console)
    area._console = narrow = console_of(monkeypatch, 40, 24)
    area.draw([Text("-")])
    assert written(narrow).startswith("\x1b[3A\r\x1b[J")


def test_no_more_is_drawn_than_the_window_is_tall(monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_of(monkeypatch, 80, 3)
    Area(console).draw([Text(str(n)) for n in range(9)])
    assert written(console) == "\x1b[?7l7\n8\n\x1b[?7h"


# Lines where there is no bar


def lines(
    capsys: pytest.CaptureFixture[str], *points: Progress, pauses: str = "", is_typed: bool = False
) -> list[str]:
    """Return what is said of a batch that is at these points one after the other."""
    throttle = Throttle()
    with Display(Options(output=Path("out"))) as display:
        if is_typed:
            display.make_room()
        for n, point in enumerate(points):
            if pauses[n : n + 1] == "p":
                throttle._limits._paused_until = 1e9
            else:
                throttle._limits._paused_until = -1e9
            display.show(point, Result(), {"model": throttle})
    return capsys.readouterr().err.splitlines()


def test_lines_come_once_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    twice = [progress(done, 100, elapsed=1.0) for done in range(101) for _ in range(2)]
    said = lines(capsys, *twice)
    assert [line.partition("/")[0] for line in said] == [str(n) for n in range(10, 101, 10)]


def test_lines_come_once_a_minute_where_a_tenth_takes_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slowly = [progress(1, 10_000, elapsed=float(second)) for second in range(1, 200)]
    assert len(lines(capsys, *slowly)) == 3


@pytest.mark.parametrize(("is_typed", "shown"), [(False, [1, 2, 4, 8, 16]), (True, range(1, 21))])
def test_lines_come_less_and_less_often_where_nobody_knows_the_end(
    capsys: pytest.CaptureFixture[str], is_typed: bool, shown: list[int]
) -> None:
    points = [progress(done, None, elapsed=1.0) for done in range(21) for _ in range(2)]
    said = lines(capsys, *points, is_typed=is_typed)
    assert [line.partition("  ")[0] for line in said] == [f"{done} done" for done in shown]


def test_a_pause_is_told_when_it_begins_and_not_again_in_the_same_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    points = [progress(1, 10_000, elapsed=second) for second in (1.0, 2.0, 3.0, 4.0, 50.0, 62.1)]
    said = lines(capsys, *points, pauses="-p-p--")
    assert len(said) == 2
    assert "rate limited: " in said[0]


# Foreign text


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


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
