"""What the user sees of a batch while it runs: a bar on a terminal, a line now and then elsewhere.

Everything goes to stderr but the rows of --json.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from types import TracebackType

import anyio

from genbatch import Failure, Outcome, Progress, Prompt, SavedImage, Success, Throttle

from ._area import Area
from ._bar import GAP, Finished, Snapshot, Speed, held_by, lines_of, spent_of
from ._console import QuietConsole, plain, why
from ._result import NOT_MADE, Options, Result
from ._rows import row_of
from ._writer import Writer

_STEP = 10  # percent between two lines where there is no bar
_MINUTE = 60.0  # seconds; a line at least, and at most one of what holds calls back
_RECENT = 3  # prompts above the bar
_LOOK = 0.05  # seconds between looks whether rows have been read
_SHORTEST_PROMPT = 12  # characters


class Display:
    """The progress of one batch; a context manager.

    Args:
        options: What the user asked of the batch.

    Attributes:
        is_interrupted: Whether Ctrl-C ended the wait for a reader, when this was left.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._console = QuietConsole(stderr=True)
        self._talk = Writer(sys.stderr)
        self._rows = Writer(sys.stdout) if options.as_json else None
        self._area = Area(self._console) if self._has_room() else None
        self._lines = _Lines()
        self._recent: deque[Finished] = deque(maxlen=_RECENT)
        self._speed = Speed()
        self._is_hurried = False
        self._jobs = ""
        self.is_interrupted = False

    def _has_room(self) -> bool:
        """Return whether there is a terminal that nothing else but a bar is written on."""
        console, options = self._console, self._options
        is_able = console.is_terminal and not (console.is_dumb_terminal or console.legacy_windows)
        has_rows = options.as_json and sys.stdout is not None and sys.stdout.isatty()
        return is_able and not (options.quiet or has_rows)

    def __enter__(self) -> Display:
        self._console.file = self._talk  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        try:
            for writer in (self._talk, self._rows):
                if writer is not None:
                    writer.close(wait=exc_type is None and not self._is_hurried)
        except KeyboardInterrupt:  # whoever is to read does not
            self.is_interrupted = True

    def hurry(self) -> None:
        """Wait for no reader any more."""
        self._is_hurried = True

    def make_room(self) -> None:
        """Print a line for each outcome instead of a bar: somebody types on this terminal."""
        self._area = None
        self._lines.is_typed = True

    @property
    def lost_rows(self) -> OSError | None:
        """Why rows could not be written, None if they were, or nobody wanted to read on."""
        error = None if self._rows is None else self._rows.error
        return None if isinstance(error, BrokenPipeError) else error

    def show(self, progress: Progress, result: Result, throttles: Mapping[str, Throttle]) -> None:
        """Draw the bar, or print a line if it is time for one."""
        rate = self._speed.at(progress.elapsed, result.made + result.failed)
        snapshot = Snapshot(
            progress,
            result.failed,
            result.dropped,
            rate,
            spent_of(result.budget, result.cost),
            ", ".join(filter(None, (self._jobs, held_by(throttles, self._options.max_concurrent)))),
        )
        if self._area is not None:
            if not self._talk.is_busy:  # who does not read misses a drawing, no more
                console = self._console
                width, height = console.size
                only = console.options.ascii_only
                self._area.draw(lines_of(snapshot, self._recent, width, height, ascii_only=only))
        elif not self._options.quiet:
            is_paused = any(throttle.paused_for for throttle in throttles.values())
            if self._lines.is_due(progress, is_paused):
                self._console.say(GAP.join(snapshot.figures))

    def tell_of_jobs(self, line: str) -> None:
        """Say how the jobs stand wherever the bar is drawn."""
        self._jobs = line

    def end(self) -> None:
        """Take the bar away."""
        if self._area is not None:
            self._area.erase()

    async def outcome(self, outcome: Outcome[str | Prompt, SavedImage], result: Result) -> None:
        """Tell of an outcome: as a row, above the bar, and as a line if it failed.

        A slow reader of the rows slows the batch, as long as that is not ending.
        """
        if self._rows is not None:
            self._rows.write(row_of(outcome, self._options.model))
            # The reader is seen by a thread, which no event tells of.
            while self._rows.is_full and not result.is_ending:  # noqa: ASYNC110
                await anyio.sleep(_LOOK)
        match outcome:
            case Success(prompt=prompt, value=image, elapsed=elapsed) if not image.resumed:
                self._finished(prompt, elapsed, image.path.name, True)
            case Failure(error=error, elapsed=elapsed) if not isinstance(error, NOT_MADE):
                self._finished(outcome.prompt, elapsed, type(error).__name__, False)
                self._failure(outcome)

    def _finished(self, prompt: str | Prompt, elapsed: float, result: str, is_made: bool) -> None:
        text = plain(Prompt.of(prompt).text, self._console.width)
        self._recent.append(Finished(text, elapsed, plain(result), is_made))

    def _failure(self, failure: Failure[str | Prompt]) -> None:
        text = plain(
            Prompt.of(failure.prompt).text, max(_SHORTEST_PROMPT, self._console.width // 3)
        )
        self._say(
            ("failed", "bold red"), f" [{failure.index}] ", (f'"{text}"', "dim"), ": ", why(failure)
        )

    def note(self, text: str) -> None:
        """Print a line, also where little is to be said: it answers what the user has done."""
        self._say((text, "yellow"))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        (self._console.say if self._area is None else self._area.print)(*parts)


class _Lines:
    """When a line is due where there is no bar: at each tenth, and once a minute.

    Where nobody knows what a tenth is, when twice as many are done; of what is typed, at each one.
    """

    def __init__(self) -> None:
        self.is_typed = False
        self._next_percent = float(_STEP)
        self._next_done = 1
        self._last = 0.0
        self._last_pause: float | None = None

    def is_due(self, progress: Progress, is_paused: bool) -> bool:
        """Return whether a line is due now."""
        now = progress.elapsed
        is_due = self._is_step(progress) or now - self._last >= _MINUTE
        if is_paused and (self._last_pause is None or now - self._last_pause >= _MINUTE):
            self._last_pause, is_due = now, True
        if is_due:
            self._last = now
        return is_due

    def _is_step(self, progress: Progress) -> bool:
        done, percent = progress.done, progress.percent
        if percent is None:
            if is_step := done >= self._next_done:
                self._next_done = done + 1 if self.is_typed else 2 * done
        elif is_step := percent >= self._next_percent:
            self._next_percent = percent - percent % _STEP + _STEP
        return is_step
