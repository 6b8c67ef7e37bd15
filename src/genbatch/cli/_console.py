"""Consoles that survive a closed pipe, and untrusted text made safe for terminals.

Prompts and messages from a server are untrusted. They reach a terminal through plain() only, so
that their escape sequences, markup and line breaks do not.

The output of a run is written in a thread, so that no call waits for a reader. A terminal stops
reading at Ctrl-S, a pager at the end of its page, a network at any time. If the event loop waited
for them, calls whose images are paid for would time out.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from codecs import getincrementalencoder, lookup
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, TextIO

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
        # It may be closed, have no encoding, or have text that nobody takes.
        with suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    def on_broken_pipe(self) -> None:
        """Drop this and all further output, including what the interpreter flushes at exit."""
        self.quiet = True
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of parts, each a text or a pair of text and style, if it can be."""
        try:
            self.print(Text.assemble(*parts), soft_wrap=not self.is_terminal)
        except OSError:  # a full disk, a terminal that was closed
            self.on_broken_pipe()

    def data(self, text: str) -> None:
        """Print a line for a program to read, as it is."""
        with self.writing() as stream:
            print(text, file=stream)

    @contextmanager
    def writing(self) -> Iterator[IO[str]]:
        """Give the block the stream for what a program reads; it ends where the reader is gone.

        Raises:
            OSError: If the stream takes no more.
        """
        try:
            yield self.file
            self.file.flush()
        except OSError as error:
            self.on_broken_pipe()
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that was closed
                raise

    def error(self, text: str) -> None:
        """Print the line that says why the program ended, or what it could not do."""
        self.say(("genbatch: ", "bold red"), text)


def can_ask() -> bool:
    """Return whether somebody can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def plain(text: object, limit: int = 300) -> str:
    """Return text on one line of printable characters, at most limit of them."""
    start = str(text)[: 2 * limit + 1]
    words = "".join(char if char.isprintable() else " " for char in start).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def to_json(encoding: str | None) -> Callable[[object], str]:
    """Return what makes JSON, of ASCII alone for an encoding that lacks characters."""
    is_whole = lookup(encoding or "utf-8").name.startswith("utf")
    return json.JSONEncoder(ensure_ascii=not is_whole, default=str).encode


def why(failure: Failure[Any]) -> str:
    """Return the failure's error on one line."""
    return plain(f"{type(failure.error).__name__}: {failure.error}".removesuffix(": "))


def clock(seconds: float) -> str:
    """Return a duration as ``0:07`` or ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 image``, ``2,000 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_FULL = 0.01  # seconds between attempts on a non-blocking stream that is full
_ROOM = 100  # texts that may be queued
_HURRY = 0.5  # seconds given to the reader when closing without waiting


class Writer:
    """Writes text to a stream in order; only close waits for the reader.

    The thread is a daemon and bypasses the stream's buffer, whose lock the interpreter needs to
    exit.

    Args:
        stream: A text stream; None drops everything.

    Attributes:
        encoding: The encoding of the stream.
        error: Why writing failed, None as long as it works.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        buffer = getattr(stream, "buffer", None)
        self._raw = getattr(buffer, "raw", buffer)  # PYTHONUNBUFFERED leaves no buffer
        self._encoder = getincrementalencoder(self.encoding)("backslashreplace")
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None
        self.error: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether any text is queued."""
        return not self._texts.empty()

    @property
    def is_full(self) -> bool:
        """Whether too much text is queued."""
        return self._texts.qsize() > _ROOM

    def write(self, text: str) -> int:
        """Queue text, to be written as soon as the stream accepts it."""
        if self._thread is None and self._stream is not None:
            with suppress(OSError):
                self._stream.flush()  # text printed earlier
            self._thread = Thread(target=self._run, name="genbatch writer", daemon=True)
            self._thread.start()
        if self._thread is not None and self.error is None:
            self._texts.put(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: no text is held back."""

    def fileno(self) -> int:
        """Return the file descriptor of the stream."""
        if self._stream is None:
            raise OSError("there is no stream")
        return self._stream.fileno()

    def close(self, *, wait: bool = True) -> None:
        """Write what is queued; with wait, for as long as the reader takes."""
        if self._thread is not None:
            self._texts.put(None)
            self._thread.join(None if wait else _HURRY)
            self._thread = None

    def _run(self) -> None:
        while (text := self._texts.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._put(text)
            # The reader is gone, or the disk is full; an unknown error must not lose texts unseen.
            except Exception as error:  # noqa: BLE001
                self.error = error

    def _put(self, text: str) -> None:
        if self._raw is None:  # not one of the interpreter's own streams
            print(end=text, file=self._stream, flush=True)
            return
        rest = memoryview(self._encoder.encode(text.replace("\n", os.linesep)))
        while rest:
            written = self._raw.write(rest)
            if written is None:
                time.sleep(_FULL)
            else:
                rest = rest[written:]
