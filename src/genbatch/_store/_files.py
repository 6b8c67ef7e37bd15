"""Files: images published atomically, under names that are never overwritten, by one runner.

1. A file under its final name is complete and on disk, whatever was killed when.
2. No file of others is overwritten or written through.
3. A directory has one runner at a time; the system frees it, however the runner dies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

from genbatch._values import EXTENSIONS, StoreError

_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_MOST_OF_HOLDER = 4096  # bytes
_TRIES = 5
_PAUSE = 0.02  # seconds
_IS_WINDOWS = sys.platform == "win32"  # where a directory cannot be opened
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.part")


def publish(
    directory: Path, stem: str, extension: str, data: bytes | bytearray, mode: int = 0o666
) -> str:
    """Write data durably under a free name and return that: stem, or ``stem.2`` where it is taken.

    Where stem names a directory too, that is created. The mode is one before the umask.

    Raises:
        StoreError: If it cannot be written; no part of it has a final name then.
    """
    temporary = name_temporary(directory)
    try:
        try:
            _write(temporary, data, mode)
            make_directory((directory / stem).parent)
            for turn in count(1):
                name = f"{stem}{'' if turn == 1 else f'.{turn}'}{extension}"
                if _move_to_free_name(temporary, directory / name):
                    break
        finally:
            temporary.unlink(missing_ok=True)
        try:
            sync_directory((directory / name).parent)
        except BaseException:
            os.unlink(directory / name)  # it may not last, and would be in the way of the next try
            raise
    except OSError as exc:
        raise disk_error(f"cannot save {directory / stem}", directory, exc) from exc
    return name


def place(
    directory: Path, name: str, write: Callable[[BinaryIO], object], *, replacing: bool
) -> bool:
    """Have a file written durably under a name in directory; return False if that is taken.

    Args:
        directory: Where it is written first; folders that the name has in it are created.
        name: Of the file.
        write: Writes it to the stream that it is given.
        replacing: Whether it takes the place of what is there.

    Raises:
        StoreError: If it cannot be written; no part of it has the name then.
    """
    temporary = name_temporary(directory)
    try:
        try:
            with open(_create(temporary), "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            make_directory((directory / name).parent)
            if replacing:
                os.replace(temporary, directory / name)
                return True
            return _move_to_free_name(temporary, directory / name)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise disk_error(f"cannot write {directory / name}", directory, exc) from exc


def replace(path: Path, lines: Iterator[str]) -> None:
    """Write lines durably in place of the file at path, which is ours, and whose mode is kept.

    Raises:
        StoreError: If it cannot be written; the old file is unchanged then.
    """
    temporary = name_temporary(path.parent)
    try:
        try:
            with open(_create(temporary), "w", encoding="utf-8", errors="backslashreplace") as file:
                with suppress(FileNotFoundError):
                    os.chmod(temporary, stat.S_IMODE(os.lstat(path).st_mode))
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as exc:
        raise disk_error(f"cannot write {path}", path.parent, exc) from exc


def wrong_kind(path: Path, wanted: str = "file") -> str | None:
    """Return what is wrong with what is at path, None if it is a file, or there is nothing.

    Args:
        path: Looked at, not through: a link is none of what it leads to.
        wanted: ``"file"`` or ``"directory"``.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = _KINDS.get(stat.S_IFMT(mode), "device")
    return None if found == wanted else f"is a {found}, not a {wanted}: move it elsewhere"


def make_private(directory: Path) -> None:
    """Create a directory for our own files, in one that exists.

    Raises:
        StoreError: If something else is there, such as a link to a directory of others.
        OSError: If it cannot be created.
    """
    if what := wrong_kind(directory, "directory"):
        raise StoreError(f"{directory} {what}")
    directory.mkdir(mode=0o700, exist_ok=True)


def sweep(directory: Path) -> None:
    """Remove the temporary files that a killed process has left."""
    with os.scandir(directory) as entries:
        files = (entry for entry in entries if not entry.is_dir(follow_symlinks=False))
        left = [entry.path for entry in files if is_temporary(entry.name)]
    for path in left:
        os.unlink(path)


def is_temporary(name: str) -> bool:
    """Return whether a file of that name is one on its way to its final name."""
    return _TEMPORARY.fullmatch(name) is not None


def find(directory: Path, stem: str, *extensions: str) -> str | None:
    """Return the name of whatever has this stem and an extension of an image, or another given."""
    for extension in (*EXTENSIONS.values(), *extensions):
        if os.path.lexists(f"{directory}{os.sep}{stem}{extension}"):  # faster than a path
            return stem + extension
    return None


def read(path: Path) -> bytes | None:
    """Return the bytes of the regular file at path, None if it is anything else."""
    try:
        with open(open_file(path, os.O_RDONLY), "rb") as file:
            return file.read()
    except OSError:
        return None


def open_file(path: Path, flags: int) -> int:
    """Open the regular file at path, created for its owner only; return the descriptor.

    Raises:
        OSError: If it cannot be opened, or is anything else.
    """
    # Not through a link, and not waiting for the other end of a pipe.
    descriptor = os.open(path, flags | _SAFE | getattr(os, "O_NONBLOCK", 0), 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return descriptor


def digest(path: Path) -> tuple[str, int] | None:
    """Return SHA-256, in hex, and size of the regular file at path, None if there is none."""
    try:
        with open(open_file(path, os.O_RDONLY), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError:
        return None


def make_directory(directory: Path) -> None:
    """Create directory, with its parents, durably."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_directory(each.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in directory durable."""
    if os.name == "nt":
        return  # a directory cannot be opened there, and its entries are journalled
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(what: str, directory: Path, exc: Exception) -> StoreError:
    """Return the error of something that the disk of directory did not take."""
    why = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
    disk = directory.absolute()
    while not os.path.ismount(disk) and disk != disk.parent:
        disk = disk.parent
    try:
        free = f", {shutil.disk_usage(disk).free / 1e6:.1f} MB free"
    except OSError:
        free = ""
    return StoreError(f"{what}: {why} (disk {disk}{free})")


def name_temporary(directory: Path) -> Path:
    """Return the path of a new file on its way to its final name."""
    return directory / f".{secrets.token_hex(8)}.part"


def _create(path: Path, mode: int = 0o666) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.open(path, flags | _SAFE, mode)


def _write(path: Path, data: bytes | bytearray, mode: int) -> None:
    descriptor = _create(path, mode)
    try:
        left = memoryview(data)
        while left:  # a full disk may take a part without an error
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_to_free_name(temporary: Path, path: Path) -> bool:
    """Give the file its final name, or return False if that is taken."""
    try:
        os.link(temporary, path)  # unlike a rename, it never replaces
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links, such as exFAT
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


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

    Locked is the directory that the lock's file is in, for the file can be deleted while it is
    held; the file too, where directories cannot be locked, and against runners that lock it alone.
    It tells who holds it.

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
            return Holder(*json.loads(file.read(_MOST_OF_HOLDER)))
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
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise
        return True
