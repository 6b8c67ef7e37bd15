"""The gallery of a folder, as a command of its own and at the end of a run."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from ._console import QuietConsole, plain

_MOST_PROBLEMS = 10  # lines


def show_gallery(folder: Path, opened: bool) -> int:
    """Write the gallery of a folder, print where it is, and open it if that is asked for."""
    path = _write(folder)
    if opened and not webbrowser.open(path.absolute().as_uri()):
        QuietConsole(stderr=True).say("No browser was found: open it yourself.")
    return 0


def add_gallery(folder: Path) -> None:
    """Write the gallery of a folder after a run; what goes wrong is a line, for the run is done."""
    try:
        _write(folder)
    # Whatever it is, what the run has made stands, and so does its exit code.
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else plain(error, 1000)
        QuietConsole(stderr=True).error(f"the gallery was not written: {why}")


def _write(folder: Path) -> Path:
    try:
        # Not at the top: the other commands need no Pillow, nor the time that it takes to load.
        from genbatch.gallery import write
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    notes = QuietConsole(stderr=True)
    with notes.status("Making thumbnails") as line:
        written = write(folder, lambda n, of: line.update(f"Making thumbnails: {n:,} of {of:,}"))
    counts = written.counts
    parts = [
        f"{counts['done']:,} done",
        f"{counts['failed']:,} failed",
        f"{counts['to do']:,} to do",
    ]
    QuietConsole().say(f"{plain(written.path)}: {', '.join(parts)}")
    for problem in written.problems[:_MOST_PROBLEMS]:
        notes.say(plain(problem))
    if (more := len(written.problems) - _MOST_PROBLEMS) > 0:
        notes.say(f"and {more:,} more images that cannot be shown")
    return written.path
