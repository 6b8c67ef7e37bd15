"""Where objects are kept, a directory or a bucket behind a URL. All methods block.

1. create never replaces: of all that create the same name, one succeeds.
2. An object is complete or absent, and durable once create or replace has returned.

Names are relative, with slashes.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from genbatch._store import disk_error, make_directory, sync_directory
from genbatch._values import EXTENSIONS, StoreError

_TEMPORARY = "tmp"  # the directory of files that have not got their names yet
_OLD = 86_400.0  # seconds
_SOON = 1.5  # seconds that opening tries again
_PATIENCE = 15.0  # the same for what follows
_TYPES = {extension: kind for kind, extension in EXTENSIONS.items()} | {
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
}
_SAME = {  # as s3fs and boto3 name them
    "key": "access_key_id",
    "secret": "secret_access_key",
    "endpoint_url": "endpoint",
    "region_name": "region",
}
_ENDPOINTS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "GOOGLE_BASE_URL"),
    *("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
)
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
_NO_CREDENTIALS = re.compile(
    "169\\.254\\.|metadata\\.google|/latest/api/token|Missing(Account|Access)", re.IGNORECASE
)
_WRONG_REGION = re.compile(
    "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocation|redirect without", re.IGNORECASE
)
_REFUSED = re.compile("status code: (4[0-9]{2} [A-Za-z ]+)")

Tag: TypeAlias = dict[str, Any]  # of one version of an object


def open_place(
    where: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> Directory | Bucket:
    """Open a directory or a bucket, and check that it creates objects exclusively.

    Raises:
        StoreError: If it cannot be written to, or cannot create objects exclusively.
        ImportError: If the URL needs a package that is not installed.
    """
    text = os.fspath(where)
    path = text.removeprefix("file://")
    if "://" not in path:
        return _checked(Directory(Path(path)), text)
    _checked(Bucket(text, options or {}, _SOON), text)
    return Bucket(text, options or {}, _PATIENCE)


def _checked(place: Directory | Bucket, text: str) -> Directory | Bucket:
    probe = f"{_TEMPORARY}/{secrets.token_hex(8)}"
    if not place.create(probe, b"") or place.create(probe, b"") or place.read(probe) != b"":
        raise StoreError(
            f"{text} does not create objects exclusively, which exactly-once needs: use a "
            "local or shared directory, S3, GCS or Azure"
        )
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

    def under(self, directory: str, most: int | None = None) -> list[str] | None:
        """Return the base names of all files below a directory, None if there are most."""
        names: list[str] = []
        with self._errors(directory):
            for _, _, files in os.walk(self._directory / directory):
                names += files
                if most is not None and len(names) >= most:
                    return None
        return names

    def tagged(self, name: str) -> tuple[bytes, Tag] | None:
        """Return the bytes of an object and its tag for swap, None if there is none."""
        data = self.read(name)
        return None if data is None else (data, {})

    def swap(self, name: str, data: bytes, tag: Tag) -> bool:
        """Replace an object; two that do this at once may both succeed, see can_swap."""
        self.remove(name)
        return self.create(name, data)

    def can_swap(self) -> bool:
        """Return False: file systems do not compare and swap."""
        return False

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
    """A bucket of S3, GCS or Azure, or ``memory://`` for tests.

    Args:
        url: Of the bucket, and of a prefix in it.
        options: Of obstore's store; the names that s3fs has for them are understood too.
        patience: Seconds to try each request again where the service fails; one that is not
            answered in twice as many has failed.
    """

    def __init__(self, url: str, options: Mapping[str, Any], patience: float) -> None:
        try:
            self._obstore: Any = import_module("obstore")
        except ImportError as exc:
            raise ImportError(f"{url} needs obstore: pip install 'genbatch[bucket]'") from exc
        self.url = url.rstrip("/")
        self._scheme, _, rest = self.url.partition("://")
        self._name = rest.partition("/")[0]
        with self._errors(""):
            self._store = self._opened(_config(options), patience)

    def _opened(self, config: dict[str, Any], patience: float) -> Any:
        if self._scheme == "memory":
            return _memory(self.url)
        is_plain = any(str(value).startswith("http://") for value in config.values())
        is_plain |= any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        return self._obstore.store.from_url(
            self.url,
            config=config,
            client_options={
                "allow_http": is_plain,
                "connect_timeout": "2s",
                "timeout": f"{2 * patience:g}s",
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=patience)},
        )

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object durably; return False if the name is taken."""
        with suppress(FileExistsError), self._errors(name, is_put=True):
            self._put(name, data, "create")
            return True
        return False

    def replace(self, name: str, data: bytes) -> None:
        """Write an object durably, replacing any of that name."""
        with self._errors(name, is_put=True):
            self._put(name, data, "overwrite")

    def swap(self, name: str, data: bytes, tag: Tag) -> bool:
        """Replace an object durably if its tag is still this one; return whether it was."""
        with suppress(FileExistsError, FileNotFoundError), self._errors(name):
            self._put(name, data, tag)
            return True
        return False

    def can_swap(self) -> bool:
        """Return whether the service compares and swaps, which this tries."""
        probe = f"{_TEMPORARY}/{secrets.token_hex(8)}"
        try:
            self.create(probe, b"0")
            held = self.tagged(probe)
            if held is None or not self.swap(probe, b"1", held[1]):
                return False
            return not self.swap(probe, b"2", held[1])
        except StoreError:
            return False
        finally:
            self.remove(probe)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object, None if there is none."""
        held = self.tagged(name)
        return None if held is None else held[0]

    def tagged(self, name: str) -> tuple[bytes, Tag] | None:
        """Return the bytes of an object and its tag for swap, None if there is none."""
        with suppress(FileNotFoundError), self._errors(name):
            got = self._obstore.get(self._store, name)
            tag = {each: got.meta[each] for each in ("e_tag", "version") if got.meta[each]}
            return bytes(got.bytes()), tag
        return None

    def names(self, directory: str) -> list[str]:
        """Return the names directly in a directory, none if it is missing."""
        with self._errors(directory):
            found = self._obstore.list_with_delimiter(self._store, directory)
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    def under(self, directory: str, most: int | None = None) -> list[str] | None:
        """Return the base names of all objects below a directory, None if there are most."""
        names: list[str] = []
        with self._errors(directory):
            # A thousand a request, on S3.
            for page in self._obstore.list(self._store, directory, chunk_size=1000):
                names += (each["path"].rpartition("/")[2] for each in page)
                if most is not None and len(names) >= most:
                    return None
        return names

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        with suppress(FileNotFoundError), self._errors(name):
            self._obstore.delete(self._store, name)

    def uri(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{name}"

    def _put(self, name: str, data: bytes, mode: str | Tag) -> None:
        kind = _TYPES.get(os.path.splitext(name)[1], "application/octet-stream")
        attributes = {} if self._scheme == "memory" else {"Content-Type": kind}
        # In one request: the parts of an upload are no conditional one.
        self._obstore.put(
            self._store, name, data, mode=mode, attributes=attributes, use_multipart=False
        )

    @contextmanager
    def _errors(self, name: str, *, is_put: bool = False) -> Iterator[None]:
        try:
            yield
        except (StoreError, FileExistsError):
            raise
        except Exception as exc:
            text, kind = str(exc), type(exc).__name__
            if kind in ("AlreadyExistsError", "PreconditionError"):
                raise FileExistsError(name) from None
            if isinstance(exc, FileNotFoundError) and not (is_put or _NO_BUCKET.search(text)):
                raise
            if "ConditionalRequestConflict" in text:
                raise FileExistsError(name) from None
            raise StoreError(f"cannot use {self.uri(name)}: {self._advice(kind, text)}") from exc

    def _advice(self, kind: str, text: str) -> str:
        """Return what is wrong, and what to set."""
        variables = _CREDENTIALS.get(self._scheme, "the credentials of the service")
        if _NO_BUCKET.search(text) or kind in ("NotFoundError", "FileNotFoundError"):
            return f"there is no bucket {self._name!r}: create it, or correct the URL"
        if _NO_CREDENTIALS.search(text) or "MissingAccountName" in text or "Missing" in kind:
            return f"there are no credentials: set {variables}, or give storage_options"
        if _WRONG_REGION.search(text):
            return f"the bucket {self._name!r} is in another region: set AWS_REGION to its own"
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            return f"the credentials were refused: check {variables}, and that they may write there"
        if kind == "UnknownConfigurationKeyError" or "onfiguration key" in text:
            return f"storage_options has an unknown name: {text.splitlines()[0][:200]}"
        if kind == "NotSupportedError" or "501" in text:
            return "the service does not know conditional requests, which exactly-once needs"
        if "Unable to recognise URL" in text:
            return "the URL names no bucket: write it as s3://bucket/prefix"
        if refused := _REFUSED.search(text):
            return f"the service answered {refused[1]}: check its endpoint"
        return "the service failed or cannot be reached: check the network, and its endpoint"


def _config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that obstore has for them."""
    inner = dict(options.get("client_kwargs") or {})
    given = {**{name: value for name, value in options.items() if name != "client_kwargs"}, **inner}
    return {_SAME.get(name, name): value for name, value in given.items() if value is not None}


@cache
def _memory(url: str) -> Any:
    """Return the store of a URL in this process, the same one each time."""
    return import_module("obstore").store.MemoryStore()
