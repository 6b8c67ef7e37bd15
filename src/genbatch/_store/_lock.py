"""Lock: one runner at a time in a directory; the system frees it, however the runner dies."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

from genbatch._values import StoreError

_MOST_BYTES = 4096
_TRIES = 5
_PAUSE = 0.02  # seconds


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
        return f"process {self.pid} on {self.host} since {self.since}"


class Lock:
    """The lock of a directory, from its making to release.

    Raises:
        StoreError: If another holds it; the message says who.
        OSError: If the file cannot be created or locked.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._descriptor = os.open(path, flags, 0o600)
        try:
            if not _lock_soon(self._descriptor):
                who = _read(self._descriptor) or "another process"
                raise StoreError(f"{path.parent.parent} is in use by {who}: wait until it ends")
            self._sign()
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)

    def _sign(self) -> None:
        holder = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, json.dumps(holder).encode())


def holder(path: Path) -> Holder | None:
    """Return who holds the lock at path now, None if nobody does.

    Raises:
        OSError: If it cannot be read, FileNotFoundError if nobody ever held it.
    """
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        return None if _try_lock(descriptor, shared=True) else _read(descriptor)
    finally:
        os.close(descriptor)


def _lock_soon(descriptor: int) -> bool:
    """Lock, or return False; one who only looks who holds it is gone in a moment."""
    for _ in range(_TRIES):
        if _try_lock(descriptor):
            return True
        time.sleep(_PAUSE)
    return False


def _read(descriptor: int) -> Holder | None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return Holder(*json.loads(os.read(descriptor, _MOST_BYTES)))
    except (ValueError, TypeError):
        return None  # taken this moment, and not signed yet


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
        return True
