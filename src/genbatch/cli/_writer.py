"""Writer: the output of a run is written in a thread, so that no call waits for a reader.

A terminal stops reading at Ctrl-S, a pager at the end of its page, a network at any time. If the
event loop waited for them, calls whose images are paid for would time out.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TextIO

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
        self._raw = getattr(getattr(stream, "buffer", None), "raw", None)
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None
        self.error: OSError | None = None

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
            except OSError as error:  # the reader is gone, or the disk is full
                self.error = error

    def _put(self, text: str) -> None:
        if self._raw is None:  # not one of the interpreter's own streams
            print(end=text, file=self._stream, flush=True)
            return
        rest = memoryview(text.replace("\n", os.linesep).encode(self.encoding, "backslashreplace"))
        while rest:
            written = self._raw.write(rest)
            if written is None:
                time.sleep(_FULL)
            else:
                rest = rest[written:]
