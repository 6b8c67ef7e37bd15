"""A terminal that is a program: what a command shows on it, cell by cell."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyte

from support.warm import PythonProcess, take_terminal

_LONGEST = 60  # seconds that anything may take


class Terminal:
    """A terminal of so many columns and rows, with a command running on it.

    Attributes:
        descriptor: Of our end.
        process: The command.
        raw: All that it has written to the terminal.
        frames: The screen after each write.
    """

    def __init__(self, arguments: list[str], columns: int, rows: int, **options: Any) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=0.1)
        self._stream = pyte.ByteStream(self._screen)
        self.descriptor, terminal = pty.openpty()
        self._changed = threading.Condition()
        self._is_closed = False
        self.raw = b""
        self.frames: list[list[str]] = []
        self.resize(columns, rows)
        # Not the size that a test run's own environment tells, and readline, where it is loaded.
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal, "env": environment}
        self.process = PythonProcess(
            arguments, start_new_session=True, preexec_fn=take_terminal, **ends | options
        )
        os.close(terminal)
        self._closing, self._close = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def lines(self) -> list[str]:
        """What is on the screen and above it, without what is empty at the end."""
        above = ["".join(row[n].data for n in range(len(row))) for row in self._screen.history.top]
        lines = [line.rstrip() for line in (*above, *self._screen.display)]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def cursor(self) -> tuple[int, bool]:
        """The column of the cursor, and whether it is visible."""
        return self._screen.cursor.x, not self._screen.cursor.hidden

    def resize(self, columns: int, rows: int) -> None:
        """Make the window another size, and tell the command so."""
        self._screen.resize(rows, columns)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type text."""
        os.write(self.descriptor, text.encode())

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait for what is on the screen, and return it."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.lines), _LONGEST), self.lines
            return self.lines

    def end(self) -> int:
        """Wait until the command has ended, and nobody else writes to the terminal."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_closed, _LONGEST), self.lines
        return self.process.wait(_LONGEST)

    def close(self) -> None:
        """Close the window; the command may go on."""
        os.close(self._close)
        self._reader.join(_LONGEST)
        os.close(self.descriptor)  # not before: a descriptor that is read from stays open
        os.close(self._closing)

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self.descriptor, self._closing], [], [])
            if self._closing in ready:
                return
            try:
                piece = os.read(self.descriptor, 65536)
            except OSError:  # how Linux says that the other end is closed
                piece = b""
            with self._changed:
                self.raw += piece
                self._stream.feed(piece)
                self.frames.append(self.lines)
                self._is_closed = not piece
                self._changed.notify_all()
            if not piece:
                return


@contextmanager
def terminal(
    *arguments: str, columns: int = 80, rows: int = 24, **options: Any
) -> Iterator[Terminal]:
    """Run a command of genbatch on a terminal; it is killed at the end if it still runs."""
    opened = Terminal(["-m", "genbatch", *arguments], columns, rows, **options)
    try:
        yield opened
    finally:
        if opened.process.poll() is None:
            os.killpg(opened.process.pid, signal.SIGKILL)
            opened.process.wait(_LONGEST)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something of which no event tells."""
    deadline = time.monotonic() + _LONGEST
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
