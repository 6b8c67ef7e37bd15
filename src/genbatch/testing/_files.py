"""The files of a fake Gemini: those that clients upload, and the answers to batches.

Uploads are resumable: a start that says where the bytes go, then chunks. Bytes are on disk, and are
read and written in threads only: files may be larger than memory.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from . import _wire
from ._http import JSON, JsonObject, Reply, Request
from ._server import Threads, json_reply

_KEPT = timedelta(hours=48)  # told to clients; files stay while the server runs
_PAGES = (10, 100)
_LONGEST_ID = 40  # characters
_TOO_LONG = f"File ID (name excluding 'files/') cannot be more than {_LONGEST_ID} characters."
_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_WRONG_ID = (
    "File name may only contain lowercase alphanumeric characters or dashes (-) and cannot begin "
    "or end with a dash."
)
_GRANULARITY = "8388608"  # bytes that a chunk should be a multiple of; others are taken too
_COMMANDS = ("query", "upload", "upload, finalize", "finalize")


@dataclass(slots=True)
class StoredFile:
    """A file of the service, perhaps still written; its id is its name without ``files/``."""

    id: str
    path: Path
    mime_type: str
    display_name: str = ""
    generated: bool = False
    announced: int | None = None  # bytes of an upload
    size: int = 0
    complete: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    # A chunk that is sent again must not overtake the first one, which is still being written.
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def name(self) -> str:
        """Name of the resource."""
        return f"files/{self.id}"

    def append(self, content: bytes) -> None:
        """Write content, in a thread."""
        with self.path.open("ab") as file:
            self.size += file.write(content)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from start up to end, in a thread."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def described(self, host: str) -> JsonObject:
        """Return the service's description of it for a client that reached the service at host."""
        url = f"http://{host}/v1beta/{self.name}"
        return _wire.filled(
            name=self.name,
            displayName=self.display_name,
            mimeType=self.mime_type,
            sizeBytes=str(self.size),
            createTime=_wire.timestamp(self.created),
            updateTime=_wire.timestamp(self.created),
            expirationTime=_wire.timestamp(self.created + _KEPT),
            uri=url,
            downloadUri=f"{url}:download?alt=media" if self.generated else "",
            state="ACTIVE",
            source="GENERATED" if self.generated else "UPLOADED",
        )

    def wrong_chunk(self, command: str, offset: str, size: int) -> str | None:
        """Return what is wrong with a chunk of size bytes, None if nothing is."""
        if command not in _COMMANDS:
            return f"Upload command {command!r} is not served here."
        if offset != str(self.size):
            return f"The chunk begins at {offset}, but {self.size} bytes were received."
        end, most = self.size + size, self.announced
        if most is not None and (end > most or ("finalize" in command and end < most)):
            return f"{end} bytes were sent, but {most} were announced."
        return None


class Files:
    """Every file, while the server runs."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._files: dict[str, StoredFile] = {}  # by id
        self._uploads: dict[str, StoredFile] = {}  # by token
        self._directory: Path

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep files while the block runs, starting from none."""
        self._files.clear()
        self._uploads.clear()
        make = partial(tempfile.TemporaryDirectory[str], prefix="genbatch-fake-")
        directory = await self._threads.run(make)
        self._directory = Path(directory.name)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._threads.run(directory.cleanup)

    def new(self, id: str = "", **details: Any) -> StoredFile:
        """Return a file without bytes that no client sees yet."""
        token = secrets.token_hex(6)
        return StoredFile(id or token, self._directory / token, **details)

    def publish(self, file: StoredFile) -> None:
        """Let clients see file, whose bytes are complete."""
        file.complete, file.created = True, datetime.now(UTC)
        self._files[file.id] = file

    def find(self, name: object) -> StoredFile | None:
        """Return the file of that name, None if there is none."""
        return self._files.get(name.removeprefix("files/")) if isinstance(name, str) else None

    def _get(self, id: str) -> StoredFile:
        if (file := self._files.get(id)) is None:
            # The words of the service, which never says whether such a file exists.
            message = f"You do not have permission to access the File {id} or it may not exist."
            raise _wire.refused(403, message)
        return file

    # Requests

    async def get(self, id: str, request: Request) -> Reply:
        """Describe a file."""
        return json_reply(self._get(id).described(request.host))

    async def list(self, id: str, request: Request) -> Reply:
        """Describe one page of the files, the newest first."""
        files = [file.described(request.host) for file in reversed(self._files.values())]
        return _wire.list_reply("files", files, request, _PAGES)

    async def download(self, id: str, request: Request) -> Reply:
        """Return the content of a generated file."""
        file = self._get(id)
        if not file.generated:
            message = f"File {id} was uploaded: only generated ones are downloaded."
            raise _wire.refused(400, message)
        read = partial(self._threads.run, file.read)
        return Reply(200, b"", {"content-type": file.mime_type}, (file.size, read))

    async def delete(self, id: str, request: Request) -> Reply:
        """Delete a file. Its bytes stay: a job or another client may be reading them."""
        if len(id) > _LONGEST_ID:  # as the service does, which gives its own results longer ones
            raise _wire.refused(400, f"* DeleteFileRequest.name: {_TOO_LONG}\n")
        del self._files[self._get(id).id]
        return json_reply({})

    async def start_upload(self, id: str, request: Request) -> Reply:
        """Begin an upload; headers of the reply say where its bytes go."""
        headers = request.headers
        if headers.get("x-goog-upload-protocol") != "resumable":
            raise _wire.refused(400, "Only resumable uploads are served here.")
        described = _wire.mapping(_wire.json_object(request.body).get("file"))
        id = str(described.get("name") or "").removeprefix("files/")
        if id and (wrong := self._wrong_id(id)):
            raise _wire.refused(400, f"* CreateFileRequest.file.name: {wrong}\n")
        mime_type = headers.get("x-goog-upload-header-content-type") or described.get("mimeType")
        name = described.get("displayName") or ""
        announced = headers.get("x-goog-upload-header-content-length", "")
        token = secrets.token_urlsafe(24)
        self._uploads[token] = self.new(
            id,
            mime_type=str(mime_type or "application/octet-stream"),
            display_name=str(name),
            announced=int(announced) if announced.isdecimal() else None,
        )
        path = f"/upload/v1beta/files?upload_id={token}&upload_protocol=resumable"
        fields = {
            "x-goog-upload-status": "active",
            "x-goog-upload-url": f"http://{request.host}{path}",
            "x-goog-upload-chunk-granularity": _GRANULARITY,
        }
        return Reply(200, b"", JSON | fields)

    def _wrong_id(self, id: str) -> str | None:
        if len(id) > _LONGEST_ID:
            return _TOO_LONG
        if not _ID.fullmatch(id):
            return _WRONG_ID
        return f"File {id} already exists." if id in self._files else None

    async def upload(self, id: str, request: Request) -> Reply:
        """Take a chunk of an upload, or a question about it.

        Knowing the token is access enough, as it is for the service.
        """
        if (file := self._uploads.get(request.query["upload_id"])) is None:
            fields = {"x-goog-upload-status": "final"}
            return replace(_wire.error_reply(404), headers=JSON | fields)
        wrong, command = None, request.headers.get("x-goog-upload-command", "")
        async with file.lock:
            if not file.complete and command != "query":
                offset = request.headers.get("x-goog-upload-offset", "0")
                wrong = file.wrong_chunk(command, offset, len(request.body))
                if wrong is None:
                    await self._threads.run(file.append, request.body)
                    if "finalize" in command:
                        self.publish(file)
        fields = {
            "x-goog-upload-status": "final" if file.complete else "active",
            "x-goog-upload-size-received": str(file.size),
        }
        described = {"file": file.described(request.host)} if file.complete else {}
        reply = _wire.error_reply(400, wrong) if wrong else json_reply(described)
        return replace(reply, headers=JSON | fields)
