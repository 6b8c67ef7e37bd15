"""Writer: what a run says goes out in a thread, so that no call waits for who reads it.

A terminal stops reading at Ctrl-S, a pager at the end of its page, a network at will. An event loop
that waited with them would let calls time out whose images are paid for.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TextIO

_FULL = 0.01  # seconds between tries of a stream that takes nothing and does not block
_ROOM = 100  # texts that may wait to be written
_HURRY = 0.5  # seconds for a reader at the end, where nobody wants to wait


class Writer:
    """Writes to a stream what it is given, in order, and never waits until it is closed.

    The thread is a daemon and goes past the stream's buffer, whose lock the interpreter needs to
    exit.

    Args:
        stream: Of text; None drops everything.

    Attributes:
        encoding: Of the stream.
        error: Why the stream took no more, None as long as it does.
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
        """Whether something waits to be written."""
        return not self._texts.empty()

    @property
    def is_full(self) -> bool:
        """Whether more waits to be written than should."""
        return self._texts.qsize() > _ROOM

    def write(self, text: str) -> int:
        """Take text, to be written as soon as the stream takes it."""
        if self._thread is None and self._stream is not None:
            with suppress(OSError):
                self._stream.flush()  # what was printed before
            self._thread = Thread(target=self._run, name="genbatch writer", daemon=True)
            self._thread.start()
        if self._thread is not None and self.error is None:
            self._texts.put(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: text is on its way at once."""

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        if self._stream is None:
            raise OSError("there is no stream")
        return self._stream.fileno()

    def close(self, *, wait: bool = True) -> None:
        """Write what is left; where that is to be waited for, also where nobody reads for long."""
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
            except OSError as error:  # nobody reads it any more, or the disk is full
                self.error = error

    def _put(self, text: str) -> None:
        if self._raw is None:  # no stream of the interpreter's own
            print(end=text, file=self._stream, flush=True)
            return
        rest = memoryview(text.replace("\n", os.linesep).encode(self.encoding, "backslashreplace"))
        while rest:
            written = self._raw.write(rest)
            if written is None:
                time.sleep(_FULL)
            else:
                rest = rest[written:]
