"""Files: images published atomically, under names that are never overwritten.

1. A file under its final name is complete and on disk, whatever was killed when.
2. No file of others is overwritten or written through.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from genbatch._values import EXTENSIONS, StoreError

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


_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
