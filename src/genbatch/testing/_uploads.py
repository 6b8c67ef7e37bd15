"""Resumable uploads of a fake service: a start that tells where the bytes go, then chunks.

The server's own word counts: what it has received is what is on disk.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from ._files import LONGEST_ID, TOO_LONG, Files, StoredFile
from ._wire import JSON, Reply, error_reply, json_object, mapping

_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_WRONG_ID = (
    "File name may only contain lowercase alphanumeric characters or dashes (-) and cannot begin "
    "or end with a dash."
)
_GRANULARITY = "8388608"  # bytes that a chunk should be a multiple of; others are taken too
_COMMANDS = ("query", "upload", "upload, finalize", "finalize")


@dataclass(slots=True)
class _Upload:
    file: StoredFile
    announced: int | None  # bytes
    received: int = 0
    ended: bool = False
    # A chunk that is sent again must not overtake the first one, which is still being written.
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Uploads:
    """The uploads that have begun; files is where they end."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._uploads: dict[str, _Upload] = {}

    def begin(self) -> None:
        """Forget every upload."""
        self._uploads.clear()

    async def start(self, headers: Mapping[str, str], body: bytes, host: str) -> Reply:
        """Begin an upload, and return the answer, whose headers tell where its bytes go."""
        if headers.get("x-goog-upload-protocol") != "resumable":
            return error_reply(400, "Only resumable uploads are served here.")
        described = mapping(json_object(body).get("file"))
        id = str(described.get("name") or "").removeprefix("files/")
        if id and (wrong := self._wrong_id(id)):
            return error_reply(400, f"* CreateFileRequest.file.name: {wrong}\n")
        mime_type = headers.get("x-goog-upload-header-content-type") or described.get("mimeType")
        file = await self._files.new(str(mime_type or "application/octet-stream"), id)
        file.display_name = str(described.get("displayName") or described.get("display_name") or "")
        announced = headers.get("x-goog-upload-header-content-length", "")
        token = secrets.token_urlsafe(24)
        self._uploads[token] = _Upload(file, int(announced) if announced.isdecimal() else None)
        url = f"http://{host}/upload/v1beta/files?upload_id={token}&upload_protocol=resumable"
        fields = {"x-goog-upload-url": url, "x-goog-upload-chunk-granularity": _GRANULARITY}
        return Reply(200, b"", JSON | {"x-goog-upload-status": "active"} | fields)

    def _wrong_id(self, id: str) -> str | None:
        if len(id) > LONGEST_ID:
            return TOO_LONG
        if not _ID.fullmatch(id):
            return _WRONG_ID
        return f"File {id} already exists." if self._files.find(id) else None

    async def receive(
        self, token: str, headers: Mapping[str, str], body: bytes, host: str
    ) -> Reply:
        """Take a chunk of an upload, or a question about it, and return the answer.

        Knowing the token is access enough, as it is for the service.
        """
        if (upload := self._uploads.get(token)) is None:
            lost = error_reply(404)
            return Reply(404, lost.body, JSON | {"x-goog-upload-status": "final"})
        command = headers.get("x-goog-upload-command", "")
        async with upload.lock:
            if not upload.ended and command != "query":
                offset = headers.get("x-goog-upload-offset", "0")
                if wrong := _wrong_chunk(upload, command, offset, len(body)):
                    return _state(upload, error_reply(400, wrong))
                await self._files.in_thread(lambda: _append(upload, body))
                if "finalize" in command:
                    upload.ended = True
                    await self._files.publish(upload.file)
            described = {"file": upload.file.described(host)} if upload.ended else {}
            return _state(upload, Reply(200, json.dumps(described).encode()))


def _wrong_chunk(upload: _Upload, command: str, offset: str, size: int) -> str | None:
    """Return what is wrong with a chunk of size bytes, None if nothing is."""
    if command not in _COMMANDS:
        return f"Upload command {command!r} is not served here."
    if offset != str(upload.received):
        return f"The chunk begins at {offset}, but {upload.received} bytes were received."
    end, announced = upload.received + size, upload.announced
    if announced is not None and (end > announced or ("finalize" in command and end < announced)):
        return f"{end} bytes were sent, but {announced} were announced."
    return None


def _append(upload: _Upload, body: bytes) -> None:
    with upload.file.path.open("ab") as file:
        file.write(body)
    upload.received += len(body)


def _state(upload: _Upload, reply: Reply) -> Reply:
    """Return reply with how far the upload is."""
    fields = {
        "x-goog-upload-status": "final" if upload.ended else "active",
        "x-goog-upload-size-received": str(upload.received),
    }
    return Reply(reply.status, reply.body, JSON | fields)
