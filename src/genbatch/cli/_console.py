"""Consoles that survive a closed pipe, and untrusted text made safe for terminals.

Prompts and messages from a server are untrusted. They reach a terminal through plain() only, so
that their escape sequences, markup and line breaks do not.
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
    """A console that goes silent, instead of ending the program, when its reader is gone."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        terminal = stream is not None and stream.isatty()  # whatever FORCE_COLOR says
        super().__init__(
            stderr=stderr, force_terminal=terminal, markup=False, emoji=False, highlight=False
        )
        with suppress(AttributeError):  # a closed stream, or one without an encoding
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    def on_broken_pipe(self) -> None:
        """Drop this and all further output, including what the interpreter flushes at exit."""
        self.quiet = True
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of parts, each a text or a pair of text and style."""
        self._put(Text.assemble(*parts), soft_wrap=not self.is_terminal)

    def data(self, text: str) -> None:
        """Print a line for a program to read, never wrapped."""
        self._put(Text(text), soft_wrap=True)

    def _put(self, text: Text, *, soft_wrap: bool) -> None:
        try:
            self.print(text, soft_wrap=soft_wrap)
        except OSError as error:
            if error.errno != errno.EIO:  # the error of a terminal that was closed
                raise
            self.on_broken_pipe()

    def error(self, text: str) -> None:
        """Print the line that says why the program ended, or what it could not do."""
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
