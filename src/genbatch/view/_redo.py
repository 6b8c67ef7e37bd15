"""Further takes that a page is asked for: priced, agreed to, queued, and made.

1. Each is made by ``genbatch redo`` in a process of its own, which estimates, reserves and reports
   as it does in a terminal. Its key comes from the environment and never gets here.
2. What is made is what was priced: the page agrees to the number that came with the price.
3. One is made at a time, and while another run holds the folder, none is.
4. That process has a session of its own, so that Ctrl-C reaches it once, from here, and it
   waits for the calls in flight. A page that is killed leaves it to end by itself.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from genbatch._store import Follower, Redo, last_budget, move_redo, open_redos, queue_redo
from genbatch._values import StoreError

_POLL = 0.2  # seconds between looks whether it is time to make one
_MOST_PRICED = 100  # that are remembered
_MOST_TAKES = 1_000
_LONGEST = 100_000  # bytes of a prompt: longer ones are no arguments of a process
_OPTIONS = ("prompt", "model", "aspect_ratio", "image_size")
_PATIENCE = 60  # seconds until a price that does not come is given up
_COMMAND = (sys.executable, "-P", "-m", "genbatch", "redo", "--json", "--quiet")
_PIPES: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "encoding": "utf-8",
    "errors": "replace",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A further take that is asked for.

    Attributes:
        index: The number of the prompt.
        demo: Whether a demo has made it.
        changes: Options of redo, by name.
    """

    index: int
    demo: bool
    changes: dict[str, str]

    @classmethod
    def of(cls, index: int, demo: bool, given: Mapping[str, object]) -> Wanted:
        """Return what is asked for with values that may be anything.

        Raises:
            ValueError: If one is out of range.
        """
        changes = {}
        for name in _OPTIONS:
            if (value := given.get(name)) in (None, ""):
                continue
            if not isinstance(value, str) or "\0" in value or len(value.encode()) > _LONGEST:
                what = "a text of at most 100 kB, without null characters"
                raise ValueError(f"{name.replace('_', ' ')}: {what}")
            changes[name] = value
        for name, least, most in (("seed", -(2**31), 2**31 - 1), ("variants", 1, _MOST_TAKES)):
            if (value := given.get(name)) is None:
                continue
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name}: a whole number from {least:,} to {most:,}")
            changes[name] = str(value)
        return cls(index, demo, changes)


class Redos:
    """The further takes of a folder, made in a thread from its making to close.

    Args:
        directory: That has the prompts.
        options: Of ``genbatch redo``, given to each.
    """

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self.directory = directory
        self._options = options
        self._is_running = Follower(directory).is_running
        self._owner = secrets.token_hex(8)
        self._priced: dict[str, tuple[Wanted, bool]] = {}
        self._lock = Lock()  # of the process
        self._process: subprocess.Popen[str] | None = None
        self._is_ending = False
        self._closing = Event()
        self._thread = Thread(target=self._work, name="genbatch redo", daemon=True)
        self._thread.start()

    def price(self, wanted: Wanted) -> dict[str, Any]:
        """Return what takes would cost, as redo --dry-run estimates it, and the number of that.

        Raises:
            ValueError: If they cannot be made.
        """
        try:
            done = subprocess.run(  # noqa: S603 - a list of our own
                self._command(wanted, "--dry-run"), env=_environment(), timeout=_PATIENCE, **_PIPES
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"the price could not be estimated: {error}") from error
        rows = _rows(done.stdout)
        if done.returncode or not rows:
            raise ValueError(_reason(rows, done.stderr))
        row = rows[-1]
        number = secrets.token_hex(8)
        told = {name: row[name] for name in ("calls", "cost", "model", "reserved", "asks")}
        while len(self._priced) >= _MOST_PRICED:
            del self._priced[next(iter(self._priced))]
        self._priced[number] = (wanted, row["asks"])
        return told | {"number": number}

    def agree(self, number: object, *, is_sure: bool) -> None:
        """Queue what was priced.

        Raises:
            ValueError: If nothing was priced under this number, or it is expensive, and the user
                has not been asked about that.
            StoreError: If the journal cannot be written.
        """
        # Taken at once: whoever presses twice agrees once.
        priced = self._priced.pop(number, None) if isinstance(number, str) else None
        if priced is None:
            raise ValueError("that price is not known any more: ask for it again")
        wanted, asks = priced
        try:
            if asks and not is_sure:
                raise ValueError("that is expensive: it needs a second yes")
            queue_redo(self.directory, self._owner, asdict(wanted) | {"yes": asks})
        except (StoreError, ValueError):
            self._priced[str(number)] = priced
            raise

    def give_up(self, number: object) -> None:
        """Take back a redo that waits, end one that is made here, or dismiss one that failed."""
        redo = self._redo(number)
        if redo.state == "making" and redo.owner == self._owner:
            self._interrupt()
        else:
            move_redo(self.directory, redo, "dropped")

    def take_over(self, number: object) -> None:
        """Make a redo that another page has left waiting.

        Raises:
            ValueError: If it does not wait: one that is being made would be paid for twice.
        """
        if (redo := self._redo(number)).state != "waiting":
            raise ValueError("it does not wait any more")
        move_redo(self.directory, redo, "waiting", owner=self._owner)

    def _redo(self, number: object) -> Redo:
        found = [each for each in open_redos(self.directory) if each.id == number]
        if not found:
            raise ValueError(f"there is no open redo {number!r:.20}")
        return found[0]

    def tell(self, redos: Sequence[Redo]) -> list[dict[str, Any]]:
        """Return redos as the page is told of them."""
        return [
            {
                "id": redo.id,
                "index": redo.asked["index"],
                "state": redo.state,
                "said": redo.said,
                "ours": redo.owner == self._owner,
            }
            for redo in redos
        ]

    def waiting(self) -> int:
        """Return how many that were agreed to here are not made yet."""
        with suppress(StoreError):  # there may be none yet
            ours = (each for each in open_redos(self.directory) if each.owner == self._owner)
            return sum(each.state != "failed" for each in ours)
        return 0

    def is_making(self) -> bool:
        """Return whether one is made here now."""
        return self._process is not None

    def finish(self) -> None:
        """Wait until all that was agreed to here is made."""
        while self.waiting():
            time.sleep(_POLL)

    def close(self) -> None:
        """Start none any more, let the one that is made end early, and wait for that."""
        self._closing.set()
        self._interrupt()
        self._thread.join()

    def _interrupt(self) -> None:
        with self._lock:
            # Once: a second signal would cancel calls that are paid for. On Windows it ends itself.
            if self._process is not None and not self._is_ending and sys.platform != "win32":
                self._is_ending = True
                self._process.send_signal(signal.SIGINT)

    def _work(self) -> None:
        while not self._closing.wait(_POLL):
            # A journal that cannot be read is told by what follows it.
            with suppress(StoreError):
                if (redo := self._next()) is not None:
                    self._make(redo)

    def _next(self) -> Redo | None:
        """Return what is to be made now."""
        if self._is_running():
            return None
        ours = (each for each in open_redos(self.directory) if each.owner == self._owner)
        return next((each for each in ours if each.state == "waiting"), None)

    def _make(self, redo: Redo) -> None:
        """Make a redo, and note how it ended."""
        asked = redo.asked
        wanted = Wanted(asked["index"], asked["demo"], asked["changes"])
        more = ["--yes"] if asked["yes"] else []
        with self._lock:
            if self._closing.is_set() or not move_redo(self.directory, redo, "making"):
                return
            redo, self._is_ending = redo._replace(state="making"), False
            try:
                self._process = subprocess.Popen(  # noqa: S603 - a list of our own
                    self._command(wanted, *more),
                    env=_environment(),
                    start_new_session=True,
                    **_PIPES,
                )
            except (OSError, ValueError) as error:
                move_redo(self.directory, redo, "failed", said=str(error))
                return
        stdout, stderr = self._process.communicate()
        with self._lock:
            code, self._process = self._process.returncode, None
        if code == 0:
            move_redo(self.directory, redo, "done")
        elif not stdout and self._is_running():  # another run was faster
            move_redo(self.directory, redo, "waiting")
        else:
            move_redo(self.directory, redo, "failed", said=_reason(_rows(stdout), stderr))

    def _command(self, wanted: Wanted, *more: str) -> list[str]:
        budget = last_budget(self.directory)
        options = [*more, *([] if budget is None else [f"--budget={budget}"]), *self._options]
        options += ["--demo"] if wanted.demo else []
        # As one word each: what begins with a dash is no option of its own.
        options += [f"--{name.replace('_', '-')}={it}" for name, it in wanted.changes.items()]
        return [*_COMMAND, *options, "--", os.path.abspath(self.directory), str(wanted.index)]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONIOENCODING": "utf-8"}


def _rows(stdout: str) -> list[dict[str, Any]]:
    """Return the rows that a process has written; a service of the user's may have written too."""
    rows = []
    for line in stdout.splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _reason(rows: Sequence[Mapping[str, Any]], stderr: str) -> str:
    """Return why a process has failed: the error of a row, else its last words."""
    for row in reversed(rows):
        if error := row.get("error"):
            return f"{error['kind']}: {error['message']}"
    lines = stderr.strip().splitlines() or ["it ended without a word"]
    return lines[-1].removeprefix("genbatch: ")
