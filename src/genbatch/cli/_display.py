"""What the user sees of a running batch: a bar on a terminal, an occasional line elsewhere.

Everything goes to stderr except the rows of --json, one per outcome, named as export names them.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from time import perf_counter, process_time
from typing import Any

import anyio

from genbatch import Failure, Outcome, Progress, Prompt, SavedImage, Success, Throttle
from genbatch.gemini import MODELS

from ._bar import (
    GAP,
    Area,
    Finished,
    Snapshot,
    Speed,
    held_by,
    limit_of,
    lines_of,
    reason_of,
    spent_of,
)
from ._console import QuietConsole, Writer, plain, to_json, why
from ._options import Options
from ._result import Result, is_not_made

_STEP = 10  # percent between two lines when there is no bar
_MINUTE = 60.0  # seconds; at least one line, and at most one about a pause
_RECENT = 3  # prompts above the bar
_POLL = 0.05  # seconds between checks whether rows have been read
_SHORTEST_PROMPT = 12  # characters
_IDS = {model.alias: model.id for model in MODELS}


class Display:
    """The progress of one batch; a context manager.

    Args:
        options: The options of the batch.

    Attributes:
        is_interrupted: Whether Ctrl-C ended the final wait for a reader.
        snapshot: What was to be shown last.
        most: Most calls in flight, as it is now.
        is_paused: Whether the user has paused the run.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._console = QuietConsole(stderr=True)
        self._messages = Writer(sys.stderr)
        self._rows = Writer(sys.stdout) if options.as_json else None
        self._dump = to_json(getattr(sys.stdout, "encoding", None))
        self._area = Area(self._console) if self._has_room() else None
        self._lines = _Lines()
        self._recent: deque[Finished] = deque(maxlen=_RECENT)
        self._speed: Speed | None = None
        self._load = Load()
        self._is_hurried = False
        self._jobs = ""
        self.is_interrupted = False
        self.snapshot: Snapshot | None = None
        self.most = options.max_concurrent
        self.is_paused = False

    def _has_room(self) -> bool:
        """Return whether the bar has a terminal to itself."""
        console, options = self._console, self._options
        is_able = console.is_terminal and not (console.is_dumb_terminal or console.legacy_windows)
        has_rows = options.as_json and sys.stdout is not None and sys.stdout.isatty()
        return is_able and not (options.quiet or has_rows)

    def __enter__(self) -> Display:
        self._console.file = self._messages  # type: ignore[assignment]
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        self.end()
        try:
            for writer in (self._messages, self._rows):
                if writer is not None:
                    writer.close(wait=exc_type is None and not self._is_hurried)
        except KeyboardInterrupt:  # the reader has stopped reading
            self.is_interrupted = True

    def hurry(self) -> None:
        """Stop waiting for readers."""
        self._is_hurried = True

    def make_room(self) -> None:
        """Print a line for each outcome instead of a bar: prompts are typed on this terminal."""
        self._area = None
        self._lines.is_typed = True

    def give_up(self, error: Exception) -> None:
        """Show no progress any more."""
        self._area = None
        self._console.error(f"the progress cannot be shown: {plain(repr(error), 200)}")

    @property
    def lost_rows(self) -> Exception | None:
        """Why rows could not be written, None if they were or the reader has left."""
        error = None if self._rows is None else self._rows.error
        return None if isinstance(error, BrokenPipeError) else error

    def show(self, progress: Progress, result: Result, throttles: Mapping[str, Throttle]) -> None:
        """Draw the bar, or print a line if one is due."""
        if self._options.quiet and not self._options.view:
            return
        self._speed = self._speed or Speed()
        held = held_by(throttles, self.most)
        self.snapshot = snapshot = Snapshot(
            progress,
            result.failed,
            result.dropped,
            self._speed.at(progress.elapsed, result.made + result.failed),
            spent_of(result.budget, result.cost),
            ", ".join(filter(None, (self._jobs, held))),
            reason_of(throttles),
            "a pause"
            if self.is_paused
            else limit_of(progress, throttles, self.most, self._load.share()),
        )
        if self._options.quiet:
            return
        if self._area is None:
            is_paused = any(throttle.paused_for for throttle in throttles.values())
            if self._lines.is_due(progress, is_paused):
                self._console.say(GAP.join(snapshot.figures))
        elif not self._messages.is_busy:  # a terminal that does not read misses a drawing
            width, height = self._console.size
            ascii_only = self._console.options.ascii_only
            lines = lines_of(snapshot, self._recent, width, height, ascii_only=ascii_only)
            self._area.draw(lines)

    def show_jobs(self, line: str) -> None:
        """Show the state of the jobs on the bar from now on."""
        self._jobs = line

    def end(self) -> None:
        """Remove the bar."""
        if self._area is not None:
            self._area.erase()

    async def outcome(self, outcome: Outcome[str | Prompt, SavedImage], result: Result) -> None:
        """Show an outcome: as a row, above the bar, and as a line if it failed.

        A slow reader of the rows slows the batch, unless the batch is ending.
        """
        if self._rows is not None:
            self._rows.write(self._dump(row_of(outcome, self._options.model)) + "\n")
            # The writer is a thread, which sets no event.
            while self._rows.is_full and not result.is_ending:  # noqa: ASYNC110
                await anyio.sleep(_POLL)
        match outcome:
            case Success(prompt=prompt, value=image, elapsed=elapsed) if not image.resumed:
                self._finished(prompt, elapsed, image.path.name, True)
            case Failure(error=error, elapsed=elapsed) if not is_not_made(error):
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
        """Print a line, even if quiet: it answers something that the user did."""
        self._say((text, "yellow"))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        (self._console.say if self._area is None else self._area.print)(*parts)


class _Lines:
    """Decides when to print a line in place of a bar: at every tenth and once a minute.

    If the total is unknown, whenever the number done has doubled; for typed prompts, at each one.
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


def row_of(outcome: Outcome[str | Prompt, SavedImage], model: str) -> dict[str, Any]:
    """Return an outcome as a row of JSON.

    Args:
        outcome: An outcome of the run.
        model: The model of prompts that do not name one.
    """
    prompt = Prompt.of(outcome.prompt)
    row: dict[str, Any] = {
        "index": outcome.index,
        "id": prompt.id,
        "prompt": prompt.text,
        "status": "done",
        "file": None,
        "error": None,
        "sha256": None,
        "bytes": None,
        "mime_type": None,
        "width": None,
        "height": None,
        "model": _IDS.get(prompt.model or model, prompt.model or model),
        "cost": None,
        "usage": None,
        "text": "",
        "elapsed": round(outcome.elapsed, 3),
        "extras": [],
        "resumed": False,
        "metadata": dict(prompt.metadata),
    }
    match outcome:
        case Success(value=image):
            made = asdict(image) | {"file": image.path.name, "bytes": round(image.size_mb * 1e6)}
            made["extras"] = [path.name for path in image.extras]
            row |= {name: made[name] for name in row if made.get(name) is not None}
        case Failure(error=error):
            row["status"] = "to do" if is_not_made(error) else "failed"
            row["error"] = {"kind": type(error).__name__, "message": str(error)}
    return row


class Load:
    """The share of a processor that this process takes, measured every second."""

    def __init__(self) -> None:
        self._wall, self._cpu = perf_counter(), process_time()
        self._share = 0.0

    def share(self) -> float:
        """Return it, 1.0 for a whole processor."""
        wall, cpu = perf_counter(), process_time()
        if wall - self._wall >= 1:
            self._share = (cpu - self._cpu) / (wall - self._wall)
            self._wall, self._cpu = wall, cpu
        return self._share
