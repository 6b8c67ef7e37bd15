"""Where objects are kept, a directory or a bucket behind a URL. All methods block.

1. create never replaces: of all that create the same name, one succeeds.
2. An object is complete or absent, and durable once create or replace has returned.

Names are relative, with slashes.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from genbatch._store import disk_error, make_directory, sync_directory
from genbatch._values import StoreError

_TEMPORARY = "tmp"  # the directory of files that have not got their names yet
_OLD = 86_400.0  # seconds


def open_place(where: str | os.PathLike[str]) -> Directory | Bucket:
    """Open a directory or an fsspec URL, and check that it creates objects exclusively.

    Raises:
        StoreError: If it cannot be written to, or cannot create objects exclusively.
        ImportError: If the URL needs a package that is not installed.
    """
    text = os.fspath(where)
    path = text.removeprefix("file://")
    place: Directory | Bucket = Bucket(text) if "://" in path else Directory(Path(path))
    probe = f"{_TEMPORARY}/{secrets.token_hex(8)}"
    try:
        if not place.create(probe, b"") or place.create(probe, b"") or place.read(probe) != b"":
            raise StoreError(
                f"{text} does not create objects exclusively, which exactly-once needs: use a "
                "local or shared directory, S3, GCS or Azure"
            )
    finally:
        place.remove(probe)
    return place


class Directory:
    """A directory on this machine, or one that all machines share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._made: set[Path] = set()
        with self._errors(""):
            make_directory(self._directory / _TEMPORARY)
            self._sweep()

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object durably; return False if the name is taken."""
        path = self._directory / name
        with self._errors(name), self._written(path, data) as temporary:
            try:
                os.link(temporary, path)  # unlike a rename, it never replaces
            except FileExistsError:
                # Its writer may be killed before it gets to this.
                sync_directory(path.parent)
                return False
            sync_directory(path.parent)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write an object durably, replacing any of that name."""
        path = self._directory / name
        with self._errors(name), self._written(path, data) as temporary:
            os.replace(temporary, path)
            sync_directory(path.parent)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object, None if there is none."""
        with self._errors(name), suppress(FileNotFoundError):
            return (self._directory / name).read_bytes()
        return None

    def names(self, directory: str) -> list[str]:
        """Return the names directly in a directory, none if it is missing."""
        with self._errors(directory), suppress(FileNotFoundError):
            return os.listdir(self._directory / directory)
        return []

    def under(self, directory: str) -> list[str]:
        """Return the base names of all objects below a directory's subdirectories."""
        inner = [f"{directory}/{name}" for name in self.names(directory)]
        return [name for each in inner for name in self.names(each)]

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        with self._errors(name):
            (self._directory / name).unlink(missing_ok=True)

    def uri(self, name: str) -> str:
        """Return the absolute path of an object."""
        return f"{self._directory}{os.sep}{name}"

    def _sweep(self) -> None:
        """Remove old leftovers of killed processes; others may be writing now."""
        with os.scandir(self._directory / _TEMPORARY) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > _OLD:
                        os.unlink(entry)

    @contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """Write data durably under a temporary name, for the block to link or rename."""
        temporary = self._directory / _TEMPORARY / secrets.token_hex(8)
        if path.parent not in self._made:
            make_directory(path.parent)
            self._made.add(path.parent)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            what = f"cannot use {self._directory / name}"
            raise disk_error(what, self._directory, exc) from exc


class Bucket:
    """A URL that fsspec knows, of a service whose objects appear complete."""

    def __init__(self, url: str) -> None:
        try:
            fsspec: Any = import_module("fsspec")
        except ImportError as exc:
            raise ImportError(f"{url} needs fsspec: pip install fsspec") from exc
        self._files, self._root = fsspec.url_to_fs(url)
        self._url = url.rstrip("/")

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object durably; return False if the name is taken."""
        with self._errors(name), suppress(FileExistsError):
            self._files.pipe_file(self._path(name), data, mode="create")
            return True
        return False

    def replace(self, name: str, data: bytes) -> None:
        """Write an object durably, replacing any of that name."""
        with self._errors(name):
            self._files.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object, None if there is none."""
        with self._errors(name), suppress(FileNotFoundError):
            return bytes(self._files.cat_file(self._path(name)))
        return None

    def names(self, directory: str) -> list[str]:
        """Return the names directly in a directory, none if it is missing."""
        with self._errors(directory), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            found = self._files.ls(self._path(directory), detail=False)
            return [path.rstrip("/").rpartition("/")[2] for path in found]
        return []

    def under(self, directory: str) -> list[str]:
        """Return the base names of all objects below a directory's subdirectories."""
        with self._errors(directory):
            found = self._files.find(self._path(directory))  # flat: a thousand a request, on S3
        return [path.rpartition("/")[2] for path in found]

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        with self._errors(name), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def uri(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self._url}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (StoreError, FileExistsError, FileNotFoundError):
            raise
        except Exception as exc:
            raise StoreError(f"cannot use {self.uri(name)}: {exc}") from exc
