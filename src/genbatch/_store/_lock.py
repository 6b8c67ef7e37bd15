"""Lock: one runner at a time in a directory; the system frees it, however the runner dies.

Locked is the directory that the lock's file is in, for the file can be deleted while it is held;
the file too, where directories cannot be locked, and against runners that lock it alone. It tells
who holds it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

from genbatch._values import StoreError

from ._files import open_file

_MOST_BYTES = 4096
_TRIES = 5
_PAUSE = 0.02  # seconds
_IS_WINDOWS = sys.platform == "win32"  # where a directory cannot be opened


class Holder(NamedTuple):
    """Who holds a lock.

    Attributes:
        pid: Of the process.
        host: Its machine.
        since: Local date and time, ISO 8601.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid} on {self.host} since {self.since}"


_HOW = (
    "wait until it ends; several at once need a folder each (--shard 1/2, then genbatch merge), "
    "or a bucket for all (-o s3://...)"
)
_UNKNOWN = Holder(0, "", "")  # its file was deleted, or not signed yet


class Lock:
    """The lock of a directory, from its making to release.

    Raises:
        StoreError: If another holds it; the message says who.
        OSError: If the file cannot be created or locked.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as held:
            for descriptor in _descriptors(path, os.O_RDWR | os.O_CREAT):
                held.callback(os.close, descriptor)
                if not _lock_soon(descriptor):
                    where = path.parent.parent
                    raise StoreError(f"{where} is in use by {_read(path)}: {_HOW}")
            _sign(descriptor)
            self._held = held.pop_all()

    def release(self) -> None:
        """Let the next one in."""
        self._held.close()


def holder(path: Path) -> Holder | None:
    """Return who holds the lock at path now, None if nobody does.

    Raises:
        OSError: If it cannot be read, FileNotFoundError if nobody ever held it.
    """
    with ExitStack() as opened:
        for descriptor in _descriptors(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY):
            opened.callback(os.close, descriptor)
            if not _try_lock(descriptor, shared=True):
                return _read(path)
    return None


def _descriptors(path: Path, flags: int) -> Iterator[int]:
    """Open what is locked, one after the other; the last is the file."""
    if not _IS_WINDOWS:
        yield os.open(path.parent, os.O_RDONLY)
    yield open_file(path, flags)


def _sign(descriptor: int) -> None:
    holder = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())


def _lock_soon(descriptor: int) -> bool:
    """Lock, or return False; one who only looks who holds it is gone in a moment."""
    for _ in range(_TRIES):
        if _try_lock(descriptor):
            return True
        time.sleep(_PAUSE)
    return False


def _read(path: Path) -> Holder:
    try:
        with open(open_file(path, os.O_RDONLY), "rb") as file:
            return Holder(*json.loads(file.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError):
        return _UNKNOWN


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
        # A byte far behind the end: what is locked there cannot be read, and the text must be.
        os.lseek(descriptor, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
        # Of this open file, not of the process: a second store in one process is refused too.
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            if not S_ISDIR(os.fstat(descriptor).st_mode):
                raise
        return True
