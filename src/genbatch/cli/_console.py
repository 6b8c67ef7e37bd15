"""Consoles that nobody may be reading, and foreign text made harmless for them.

Prompts and what a server says are foreign text. It reaches a terminal through plain() only, so that
no escape sequence, markup or line break of theirs does.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.text import Text

from genbatch import Failure


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
        self._put(Text.assemble(*parts), soft_wrap=not self.is_terminal)

    def data(self, text: str) -> None:
        """Print a line that a program may read: it stays one, however long."""
        self._put(Text(text), soft_wrap=True)

    def _put(self, text: Text, *, soft_wrap: bool) -> None:
        try:
            self.print(text, soft_wrap=soft_wrap)
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal that was closed says so
                raise
            self.on_broken_pipe()

    def error(self, text: str) -> None:
        """Print the line that says why the program ends, or did not do all."""
        self.say(("genbatch: ", "bold red"), text)


def plain(text: object, limit: int = 300) -> str:
    """Return text on one line of printable characters, at most limit of them."""
    start = str(text)[: 2 * limit + 1]
    words = "".join(char if char.isprintable() else " " for char in start).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def why(failure: Failure[Any]) -> str:
    """Return the failure's error on one line."""
    return plain(f"{type(failure.error).__name__}: {failure.error}".removesuffix(": "))


def clock(seconds: float) -> str:
    """Return a duration as ``0:07`` or ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 image``, ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
