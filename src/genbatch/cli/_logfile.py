"""--log-file: the records of the logger ``genbatch``, written to a file.

1. A thread writes, so that no call waits for a disk.
2. An error of the log is reported once, and changes nothing about the run.
3. No line shows the API key.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue

from ._console import QuietConsole, plain

_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_SHORTEST_KEY = 8  # a shorter one comes from a test, and replacing it would garble the text
_LONGEST = 1000  # characters of a message
_OWN = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}


@contextmanager
def log_to(path: Path, *, everything: bool) -> Iterator[None]:
    """Append the records logged in the block to a file.

    Args:
        path: Gets JSON Lines if its name ends in .jsonl, lines of text otherwise.
        everything: Whether debug records are included.

    Raises:
        OSError: If the file cannot be opened.
    """
    file = _File(path, encoding="utf-8")
    file.setFormatter(_Json() if path.suffix == ".jsonl" else _Text())
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    listener = QueueListener(records, file)
    logger, handler = logging.getLogger("genbatch"), QueueHandler(records)
    before = logger.level
    logger.setLevel(logging.DEBUG if everything else logging.INFO)
    logger.addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        listener.stop()
        file.close()


class _File(logging.FileHandler):
    """A file whose first error is reported, and no other."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        self._report(sys.exc_info()[1])

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self._report(error)

    def _report(self, error: object) -> None:
        if not self._has_failed:
            self._has_failed = True
            QuietConsole(stderr=True).error(f"the log is incomplete: {plain(error)}")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:_LONGEST],
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        return _without_keys(json.dumps(line, ensure_ascii=False, default=str))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = plain(record.getMessage(), _LONGEST)
        return _without_keys(f"{_time(record)} {record.levelname:7} {record.name}  {message}")


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_keys(line: str) -> str:
    """Return a line without the key: no record should contain it, and this makes sure."""
    for name in _KEYS:
        key = os.environ.get(name, "").strip()
        if len(key) >= _SHORTEST_KEY:
            line = line.replace(key, "[API key]")
    return line
