"""The files of a fake service: what clients have uploaded, and the results of jobs.

Their bytes are on disk, in a temporary directory, and are read and written in threads only: a file
may be larger than memory.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from ._wire import JsonObject, Reply, error_reply, json_reply, page_of

T = TypeVar("T")

LONGEST_ID = 40  # characters
TOO_LONG = f"File ID (name excluding 'files/') cannot be more than {LONGEST_ID} characters."
_KEPT = timedelta(hours=48)  # told to clients; files stay while the server runs
_USUAL_PAGE, _LARGEST_PAGE = 10, 100


@dataclass(slots=True)
class StoredFile:
    """A file of the service; its id is its name without ``files/``."""

    id: str
    path: Path
    mime_type: str
    display_name: str = ""
    generated: bool = False
    size: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        """Name of the resource."""
        return f"files/{self.id}"

    def described(self, host: str) -> JsonObject:
        """Return what the service says of it to a client that reached it at host."""
        url = f"http://{host}/v1beta/{self.name}"
        described = {
            "name": self.name,
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "expirationTime": timestamp(self.created + _KEPT),
            "uri": url,
            "downloadUri": f"{url}:download?alt=media" if self.generated else "",
            "state": "ACTIVE",
            "source": "GENERATED" if self.generated else "UPLOADED",
        }
        return {name: value for name, value in described.items() if value}


class Files:
    """Every file there is."""

    def __init__(self) -> None:
        self._files: dict[str, StoredFile] = {}
        self._directory: Path | None = None
        self._threads: anyio.CapacityLimiter
        self._making: anyio.Lock

    @asynccontextmanager
    async def kept(self, threads: anyio.CapacityLimiter) -> AsyncIterator[None]:
        """Keep files while the block runs, from none on; at most so many threads use them."""
        self._threads, self._making = threads, anyio.Lock()
        self._files.clear()
        try:
            yield
        finally:
            if (directory := self._directory) is not None:
                self._directory = None
                with anyio.CancelScope(shield=True):
                    await self.in_thread(partial(shutil.rmtree, directory))

    async def in_thread(self, act: Callable[[], T]) -> T:
        """Return what act returns, which may read and write files."""
        return await anyio.to_thread.run_sync(act, limiter=self._threads)

    async def new(self, mime_type: str, id: str = "", *, generated: bool = False) -> StoredFile:
        """Return an empty file that no client sees yet."""
        # Not before it is needed: most servers have no files, and a killed one leaves it behind.
        async with self._making:
            if self._directory is None:
                make = partial(tempfile.mkdtemp, prefix="genbatch-fake-")
                self._directory = Path(await self.in_thread(make))
        path = self._directory / secrets.token_hex(8)
        await self.in_thread(path.touch)
        return StoredFile(id or secrets.token_hex(6), path, mime_type, generated=generated)

    async def publish(self, file: StoredFile) -> None:
        """Let clients see file, whose bytes are complete."""
        file.size = await self.in_thread(lambda: file.path.stat().st_size)
        file.created = datetime.now(UTC)
        self._files[file.id] = file

    def find(self, name: object) -> StoredFile | None:
        """Return the file of that name, None if there is none."""
        return self._files.get(name.removeprefix("files/")) if isinstance(name, str) else None

    # Requests

    def describe(self, id: str, host: str) -> Reply:
        """Return the answer to a client that asks what a file is."""
        file = self._files.get(id)
        return json_reply(file.described(host)) if file else _no_access(id)

    def list(self, query: str, host: str) -> Reply:
        """Return one page of the files, the newest first."""
        files = list(reversed(self._files.values()))
        page = page_of(query, len(files), _USUAL_PAGE, _LARGEST_PAGE)
        if page is None:
            return error_reply(400)
        start, end = page
        answer: JsonObject = {"files": [file.described(host) for file in files[start:end]]}
        return json_reply(answer | ({"nextPageToken": f"page-{end}"} if end < len(files) else {}))

    def to_download(self, id: str) -> StoredFile | Reply:
        """Return the file that a client downloads, or the error it is answered."""
        if (file := self._files.get(id)) is None:
            return _no_access(id)
        if not file.generated:
            return error_reply(400, f"File {id} was uploaded: only generated ones are downloaded.")
        return file

    def delete(self, id: str) -> Reply:
        """Delete a file, and return the answer to that.

        Its bytes stay until the end: a job or another client may be reading them.
        """
        if len(id) > LONGEST_ID:  # as the service does, which gives its own results longer ones
            return error_reply(400, f"* DeleteFileRequest.name: {TOO_LONG}\n")
        return _no_access(id) if self._files.pop(id, None) is None else json_reply({})


def timestamp(time: datetime) -> str:
    """Return time as the service writes it."""
    return time.isoformat().replace("+00:00", "Z")


def _no_access(id: str) -> Reply:
    # The words of the service, which tells nobody whether there is such a file.
    return error_reply(
        403, f"You do not have permission to access the File {id} or it may not exist."
    )
