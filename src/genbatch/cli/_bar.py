"""The progress bar, fitted to the size of the terminal.

The prompts that finished last are above the bar, the figures below it. Whatever does not fit is
left out, least important first, and no line is wider than the terminal. Invariants of the area:

1. The cursor is below the area, visible, at the beginning of a line: whatever ends the program,
   even SIGKILL, leaves the terminal usable.
2. A line that is wider on the terminal than computed here is cut, not wrapped: otherwise each
   drawing would leave a line behind.
3. If a narrower window has wrapped the lines, they are found again, as most terminals wrap them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from genbatch import Budget, Progress, Throttle
from genbatch._throttle import describe_rate
from genbatch.gemini import MODELS

from ._console import QuietConsole, clock, plain

GAP = "  "
_NARROWEST_BAR = 8
_ROOM_FOR_RECENT = (12, 40)  # rows and columns, at least
_ROOM_FOR_FILES = 60  # columns, at least
_WINDOW = 300  # seconds over which the rate is measured
_BUSY = 0.8  # of a processor
_MOST_WORDS = 80  # characters of what a service says
_UP = "\x1b[{}A"
_ERASE_BELOW = "\r\x1b[J"
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a batch at one moment.

    Attributes:
        progress: The batch's own counts, in which dropped prompts are failures.
        failed: Prompts that failed.
        dropped: Prompts dropped because the run is stopping.
        rate: Recent calls per second; None while unknown.
        spent: Cost so far, empty if none.
        held: Why calls are waiting, empty if they are not.
        reason: The same in the service's words.
        limit: What keeps it from being faster, empty if nothing does.
    """

    progress: Progress
    failed: int = 0
    dropped: int = 0
    rate: float | None = None
    spent: str = ""
    held: str = ""
    reason: str = ""
    limit: str = ""

    @property
    def left(self) -> str:
        """Time left at this rate, empty while unknown."""
        total = self.progress.total
        if total is None or not self.rate or self.dropped:
            return ""
        return f"{clock((total - self.done) / self.rate)} left"

    @property
    def done(self) -> int:
        """Prompts that have an image or failed."""
        return self.progress.done - self.dropped

    @property
    def percent(self) -> float:
        """Share of prompts done, 0 to 100."""
        total = self.progress.total
        return 100.0 if total == 0 else 100 * self.done / (total or math.inf)

    @property
    def count(self) -> str:
        """Prompts done, and the total if it is known."""
        total = self.progress.total
        return f"{self.done} done" if total is None else f"{self.done}/{total}"

    @property
    def limited(self) -> str:
        """The limit as a figure."""
        return f"limited by {self.limit}" if self.limit else ""

    @property
    def figures(self) -> list[str]:
        """All figures, in the order of a line."""
        progress = self.progress
        parts = [self.count, f"{self.failed} failed", f"{progress.in_flight} in flight"]
        rate = "" if self.rate is None else describe_rate(self.rate)
        parts += [self.spent, rate, self.left, self.reason, self.held, self.limited]
        return [part for part in parts if part]


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished prompt, with its file name or kind of failure."""

    prompt: str
    seconds: float
    result: str
    is_made: bool


class Speed:
    """Calls per second over the last minutes, the best guess for the next ones."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def at(self, elapsed: float, ended: int) -> float | None:
        """Return the rate, given the calls ended and the seconds elapsed so far."""
        if not self._samples or elapsed - self._samples[-1][0] >= 1:
            self._samples.append((elapsed, ended))
        began, before = self._samples[0]
        return (ended - before) / (elapsed - began) if ended > before and elapsed > began else None


def spent_of(budget: Budget, cost: float) -> str:
    """Return the cost of a run, or the part of its budget that this and earlier runs spent."""
    if budget.usd is not None:
        return f"${budget.spent:.2f} of ${budget.usd:.2f}"
    return f"${cost:.2f}" if cost else ""


def held_by(throttles: Mapping[str, Throttle], most: int) -> str:
    """Return why calls are waiting to start, empty if they are not.

    Args:
        throttles: By full model id.
        most: The requested number of calls in flight.
    """
    by_pause = [(throttle.paused_for, model) for model, throttle in throttles.items()]
    for paused_for, model in sorted(by_pause, reverse=True):
        throttle = throttles[model]
        parts = [f"rate limited: {math.ceil(paused_for)} s"] if paused_for else []
        if throttle.capacity < most:
            parts.append(f"capacity {throttle.capacity}")
        if throttle.rate is not None:
            parts.append(f"at most {describe_rate(throttle.rate)}")
        if parts:
            name = "" if len(throttles) == 1 else f"{_short(model)} "
            return name + ", ".join(parts)
    return ""


def limit_of(progress: Progress, throttles: Mapping[str, Throttle], most: int, load: float) -> str:
    """Return what keeps a batch from being faster now, empty if it is at its end.

    Args:
        progress: Of the batch.
        throttles: By full model id.
        most: The requested number of calls in flight.
        load: Share of a processor that this process takes.
    """
    if progress.waiting or any(throttle.paused_for for throttle in throttles.values()):
        return "quota"
    if progress.in_flight >= most:
        return "calls at once"
    if progress.finished - progress.done >= most:
        return "the reader"
    if not progress.started or progress.started == progress.total:
        return ""
    # A call could begin, and waits for its prompt, or for its row in the journal.
    if load > _BUSY:
        return "the processor"
    return "the input" if progress.total is None else "the disk"


def reason_of(throttles: Mapping[str, Throttle]) -> str:
    """Return the service's own words for the longest pause, empty outside one."""
    longest = max(throttles.values(), key=lambda throttle: throttle.paused_for, default=None)
    ours, _, theirs = (longest.reason if longest else "").partition(": ")
    words = plain(theirs or ours, _MOST_WORDS)
    return f'"{words}"' if words else ""


def lines_of(
    snapshot: Snapshot, recent: Iterable[Finished], width: int, height: int, *, ascii_only: bool
) -> list[Text]:
    """Return the lines of a bar, from the top."""
    rows, columns = _ROOM_FOR_RECENT
    above = recent if height >= rows and width >= columns else ()
    lines = [_line_of(each, width, ascii_only) for each in above]
    if snapshot.progress.total is not None:
        lines.append(_bar(snapshot, width, ascii_only))
    if figures := _fitting(snapshot, width):
        lines.append(figures)
    return lines


def _line_of(finished: Finished, width: int, ascii_only: bool) -> Text:
    marks, style = ("+✓", "green") if finished.is_made else ("x✗", "red")
    mark = marks[not ascii_only]
    seconds = f"{finished.seconds:.1f} s".rjust(9)
    wide = width // 3 if width >= _ROOM_FOR_FILES else 0
    prompt = Text(finished.prompt, "dim")
    prompt.truncate(width - len(mark) - 1 - len(seconds) - wide, overflow="ellipsis", pad=True)
    line = Text.assemble((mark, style), " ", prompt, (seconds, "dim"))
    if wide:
        result = Text(GAP + finished.result)
        result.truncate(wide, overflow="ellipsis")
        line.append_text(result)
    return line


def _bar(snapshot: Snapshot, width: int, ascii_only: bool) -> Text:
    figures = [snapshot.count, f"{int(snapshot.percent)} %", snapshot.left]
    figures = [figure for figure in figures if figure]
    while len(figures) > 1 and _NARROWEST_BAR + len(GAP.join(["", *figures])) > width:
        del figures[1]
    text = GAP.join(["", *figures])
    halves = max(0, 2 * (width - len(text)))
    filled = int(halves * min(snapshot.percent, 100.0) / 100)
    full, half, rest = ("#", "", ".") if ascii_only else ("━", "╸", "─")
    done = full * (filled // 2) + half * (filled % 2)
    style = "green" if filled == halves else "cyan"
    return Text.assemble((done, style), (rest * (halves // 2 - len(done)), "dim"), text)


def _fitting(snapshot: Snapshot, width: int) -> Text:
    """Return the most important figures that fit on a line, in display order."""
    progress = snapshot.progress
    by_importance = [  # the most important first, with its place on the line
        (0, snapshot.count if progress.total is None else ""),
        (6, snapshot.held),
        (1, f"{snapshot.failed} failed" if snapshot.failed else ""),
        (3, snapshot.spent),
        (5, "" if snapshot.rate is None else describe_rate(snapshot.rate)),
        (2, f"{progress.in_flight} in flight" if progress.in_flight else ""),
        (4, f"{progress.waiting} waiting" if progress.waiting else ""),
        (7, snapshot.limited),
    ]
    fitting: list[tuple[int, str]] = []
    for place, figure in by_importance:
        taken = [each for _, each in (*fitting, (place, figure)) if each]
        if figure and len(GAP.join(taken)) <= width:
            fitting.append((place, figure))
    text = Text(GAP.join(figure for _, figure in sorted(fitting)))
    text.highlight_regex(r"\d+ failed", "red")
    if snapshot.held:
        text.highlight_words([snapshot.held], "yellow")
    return text


def _short(model: str) -> str:
    return next((known.alias for known in MODELS if known.id == model), model)


class Area:
    """The lines at the bottom of a terminal that are redrawn in place.

    Args:
        console: A terminal that understands escape sequences.
    """

    def __init__(self, console: QuietConsole) -> None:
        self._console = console
        self._widths: list[int] = []  # of the lines drawn last, in columns
        self._frame = ""

    def draw(self, lines: Sequence[Text]) -> None:
        """Draw lines in place of the previous ones."""
        # One line less than the terminal has: the cursor is on the last one.
        lines = lines[-max(1, self._console.height - 1) :]
        with self._console.capture() as capture:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="ellipsis")
        erasing, frame = self._erasing(), f"{_CUT}{capture.get()}{_WRAP}"
        if frame != self._frame:
            self._write(erasing + frame)
            self._frame, self._widths = frame, [line.cell_len for line in lines]

    def print(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of parts above the area."""
        with self._console.capture() as capture:
            self._console.say(*parts)
        self._write(f"{self._erasing()}{capture.get()}{self._frame}")

    def erase(self) -> None:
        """Leave the terminal as if nothing had been drawn."""
        self._write(self._erasing())
        self._widths, self._frame = [], ""

    def _erasing(self) -> str:
        if not self._widths:
            return ""
        width = max(1, self._console.width)
        rows = sum(max(1, -(-columns // width)) for columns in self._widths)
        return _UP.format(rows) + _ERASE_BELOW

    def _write(self, text: str) -> None:
        if text:
            self._console.file.write(text)
            self._console.file.flush()
