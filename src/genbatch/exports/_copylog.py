"""The log of a folder of copies: a small database in it, which tells our files from others.

1. A file is ours if it is in the log, and has the size and the time it had when we wrote it. Only
   that is replaced or removed.
2. A name is claimed before its file is written, and belongs to one image for good: after an end at
   any moment the same command finds what it has written, and goes on.
3. One process at a time has the log.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from genbatch._store import disk_error, folded, make_directory, sweep, wrong_kind
from genbatch._values import StoreError

LOG = ".genbatch-copies"
_TABLES = """
CREATE TABLE IF NOT EXISTS name (folded TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file (
    path TEXT PRIMARY KEY, made_of TEXT NOT NULL, bytes INTEGER NOT NULL, changed INTEGER NOT NULL,
    about TEXT NOT NULL, run INTEGER NOT NULL) WITHOUT ROWID;
"""


class LoggedFile(NamedTuple):
    """A file that was written.

    Attributes:
        path: In the folder.
        made_of: What tells whether it would be written alike again.
        bytes: Its size, -1 where it was only about to be written.
        changed: When it was last changed, in nanoseconds.
        about: What is to be known of it.
    """

    path: str
    made_of: str
    bytes: int
    changed: int
    about: dict[str, Any]

    @classmethod
    def at(cls, folder: Path, path: str, made_of: str, about: dict[str, Any]) -> LoggedFile:
        """Return what a file is now that it was written."""
        found = os.lstat(folder / path)
        return cls(path, made_of, found.st_size, found.st_mtime_ns, about)

    def is_unchanged(self, folder: Path) -> bool:
        """Return whether the file is there as it was written."""
        try:
            found = os.lstat(folder / self.path)
        except OSError:
            return False
        is_same = (found.st_size, found.st_mtime_ns) == (self.bytes, self.changed)
        return is_same and S_ISREG(found.st_mode)


class CopyLog:
    """The log of a folder, which is created; from opened."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection
        (last,) = self._first("SELECT coalesce(max(run), 0) FROM file") or (0,)
        self._run = last + 1

    def claim(self, owner: str, names: Iterable[str], is_free: Callable[[str], bool]) -> str:
        """Return the first of names that belongs to owner, or to nobody and is free."""
        for name in names:
            row = self._first("SELECT owner FROM name WHERE folded = ?", folded(name))
            if row is None and is_free(name):
                self._connection.execute("INSERT INTO name VALUES (?, ?)", (folded(name), owner))
                return name
            if row is not None and row[0] == owner:
                return name
        raise AssertionError("there is an endless number of names")

    def known(self, path: str) -> LoggedFile | None:
        """Return what is known of a file."""
        sql = "SELECT made_of, bytes, changed, about FROM file WHERE path = ?"
        if (row := self._first(sql, path)) is None:
            return None
        made_of, size, changed, about = row
        return LoggedFile(path, made_of, size, changed, json.loads(about))

    def note(self, file: LoggedFile) -> None:
        """Note that a file was written, or is about to be."""
        row = (*file[:-1], json.dumps(file.about), self._run)
        self._connection.execute("REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)", row)

    def commit(self) -> None:
        """Make the log durable, and go on."""
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")

    def remove_others(self) -> int:
        """Remove our files that were not noted since this log was opened; return how many."""
        sql = "SELECT path, made_of, bytes, changed FROM file WHERE run != ?"
        removed = 0
        for path, made_of, size, changed in self._connection.execute(sql, (self._run,)).fetchall():
            if LoggedFile(path, made_of, size, changed, {}).is_unchanged(self.folder):
                os.unlink(self.folder / path)
                removed += 1
            self._connection.execute("DELETE FROM file WHERE path = ?", (path,))
        return removed

    def _first(self, sql: str, *values: object) -> Any:
        return self._connection.execute(sql, values).fetchone()


@contextmanager
def opened(folder: Path) -> Iterator[CopyLog]:
    """Open the log of a folder; what a killed process has left half written is removed.

    Raises:
        StoreError: If another process has it, or it cannot be read or written.
    """
    path = folder / LOG
    try:
        make_directory(folder)
    except OSError as exc:
        raise disk_error(f"cannot create {folder}", folder, exc) from exc
    if problem := wrong_kind(path):
        raise StoreError(f"{path} {problem}")
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES}")
        sweep(folder)
        log = CopyLog(folder, connection)
        try:
            yield log
        finally:  # what was written is ours, however it ends
            connection.execute("COMMIT")
    except sqlite3.Error as exc:
        raise _error(path, exc) from exc
    finally:
        if connection is not None:
            connection.close()


def _error(path: Path, exc: sqlite3.Error) -> StoreError:
    if isinstance(exc, sqlite3.OperationalError) and "locked" in str(exc):
        return StoreError(f"{path.parent} is written to by another genbatch copy: wait for its end")
    if isinstance(exc, sqlite3.OperationalError):
        return StoreError(f"cannot write {path}: is the disk full, or not yours to write to?")
    return StoreError(f"{path} is damaged: delete it, and copy to another folder")
