"""What the user sees of a batch: a bar on a terminal, a line now and then anywhere else.

Prompts and what a server says are foreign text. It reaches the terminal through plain() only, so
that no escape sequence, markup or line break of theirs does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from genbatch import Failure, Progress, Prompt, Throttle

_NARROWEST_BAR = 8
_STEP = 10  # percent between two lines where there is no bar


class QuietConsole(Console):
    """A console that goes silent, instead of ending the program, when nobody reads it any more."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        terminal = stream is not None and stream.isatty()  # whatever FORCE_COLOR says
        super().__init__(
            stderr=stderr, force_terminal=terminal, markup=False, emoji=False, highlight=False
        )
        with suppress(AttributeError):  # a stream that is closed, or not of text over bytes
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    def on_broken_pipe(self) -> None:
        """Drop this and all further output, also what the interpreter flushes when it exits."""
        self.quiet = True
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of parts, each a text or a text with its style."""
        self.print(Text.assemble(*parts), soft_wrap=not self.is_terminal)

    def error(self, text: str) -> None:
        """Print the line that says why the program ends, or did not do all."""
        self.say(("genbatch: ", "bold red"), text)


class Display:
    """The progress of one batch on stderr; a context manager."""

    def __init__(self, console: QuietConsole) -> None:
        self._console = console
        animated = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if animated else None
        self._next_percent = float(_STEP)
        self._is_held = False

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress, spent: float, throttles: Iterable[Throttle] = ()) -> None:
        """Redraw the bar, or print a line if another tenth is done or calls are held back.

        Args:
            progress: How far the batch is.
            spent: US dollars for its images.
            throttles: What may hold its calls back.
        """
        held = next((str(throttle) for throttle in throttles if throttle.paused_for), "")
        if self._live:
            self._live.update(_bar(progress, spent, held, self._console.width), refresh=True)
            return
        percent = progress.percent or 0
        if percent >= self._next_percent or (held and not self._is_held):
            self._next_percent = max(self._next_percent, percent - percent % _STEP + _STEP)
            self._console.say("  ".join(_figures(progress, spent, held)))
        self._is_held = bool(held)

    def failure(self, failure: Failure[str | Prompt]) -> None:
        """Print which prompt failed, and why."""
        text = plain(Prompt.of(failure.prompt).text, max(12, self._console.width // 3))
        self._console.say(
            ("failed", "bold red"), f" [{failure.index}] ", (f'"{text}"', "dim"), ": ", why(failure)
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.say((text, "yellow"))


def plain(text: object, limit: int = 300) -> str:
    """Return text on one line of printable characters, at most limit of them."""
    start = str(text)[: 2 * limit + 1]
    words = "".join(char if char.isprintable() else " " for char in start).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def why(failure: Failure[Any]) -> str:
    """Return the failure's error on one line."""
    return plain(f"{type(failure.error).__name__}: {failure.error}".removesuffix(": "))


def _bar(progress: Progress, spent: float, held: str, width: int) -> RenderableType:
    """Draw the bar and as many of the figures as fit beside it."""
    figures = _figures(progress, spent, held)
    # In flight, dollars, rate and, on the narrowest, failed or time left.
    while len("  ".join(figures)) + _NARROWEST_BAR >= width and len(figures) > 1:
        del figures[2 if len(figures) > 3 else 1]
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    bar = ProgressBar(progress.total or 1, progress.done, complete_style="cyan")
    text = Text("  ".join(figures))
    text.highlight_regex(r"[1-9]\d* failed", "red")
    row.add_row(bar, text)
    return row


def _figures(progress: Progress, spent: float, held: str) -> list[str]:
    figures = [
        f"{progress.done}/{progress.total}",
        f"{progress.failed} failed",
        f"{progress.in_flight} in flight",
    ]
    if spent:
        figures.append(f"${spent:.2f}")
    figures.append(_rate(progress.rate))
    if held:
        figures.append(held)
    elif progress.eta is not None:
        figures.append(f"{clock(progress.eta)} left")
    return figures


def _rate(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 or not rate else f"{60 * rate:.1f}/min"


def clock(seconds: float) -> str:
    """Return a duration as ``0:07`` or ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
