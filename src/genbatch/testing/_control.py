"""Requests about files and batches: which there are, who may make them, and how they go wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, get_args
from urllib.parse import parse_qs

from ._access import denial
from ._batches import Batches
from ._faults import Fault, reply_in_place
from ._files import Files, StoredFile
from ._http import Connection, Request, pause
from ._jobs import Job, JobFault
from ._service import Service, split
from ._uploads import Uploads
from ._wire import Reply, json_reply

Action: TypeAlias = Literal[
    "start_upload",
    "upload",
    "get_file",
    "list_files",
    "delete_file",
    "download",
    "create_batch",
    "get_batch",
    "list_batches",
    "cancel_batch",
    "delete_batch",
]
_NO_FAULT = Fault()
_ROUTES: tuple[tuple[str, str, Action], ...] = (
    ("POST", r"/upload/v1beta/files()", "start_upload"),
    ("GET", r"/v1beta/files/([^/:]+)", "get_file"),
    ("GET", r"/v1beta/files()", "list_files"),
    ("DELETE", r"/v1beta/files/([^/:]+)", "delete_file"),
    ("GET", r"(?:/download)?/v1beta/files/([^/:]+):download", "download"),
    ("POST", r"/v1beta/models/([^/:]+):batchGenerateContent", "create_batch"),
    ("GET", r"/v1beta/batches/([^/:]+)", "get_batch"),
    ("GET", r"/v1beta/batches()", "list_batches"),
    ("POST", r"/v1beta/batches/([^/:]+):cancel", "cancel_batch"),
    ("DELETE", r"/v1beta/batches/([^/:]+)", "delete_batch"),
)


@dataclass(frozen=True, slots=True)
class ControlCall:
    """One request about files or batches as the server received it.

    Attributes:
        number: 1 for the first of its action that a server received.
        action: What it asks for: start_upload, upload (a chunk), get_file, list_files,
            delete_file, download, create_batch, get_batch, list_batches, cancel_batch or
            delete_batch.
        id: Id of the file or the batch, or of the model for a new batch; empty for a list.
    """

    number: int
    action: Action
    id: str


_ControlFault: TypeAlias = Callable[[ControlCall], Fault | None]
ControlFaults: TypeAlias = Mapping[str, Iterable[Fault | None]] | _ControlFault


class Control:
    """Serves files and batches.

    Args:
        service: Whose files and batches they are.
        latency: Seconds a job takes, or a function that tells them.
        job_faults: What goes wrong with a job.
        faults: What goes wrong with a request, by action or told by a function.

    Raises:
        ValueError: If faults has an action that there is not.
    """

    def __init__(
        self,
        service: Service,
        latency: float | Callable[[Job], float],
        job_faults: Callable[[Job], JobFault | None],
        faults: ControlFaults | None,
    ) -> None:
        self._service = service
        self._files = Files()
        self._uploads = Uploads(self._files)
        self.batches = Batches(service, self._files, latency, job_faults)
        self._fault = faults if callable(faults) else _by_action(faults or {})
        self._received: Counter[Action] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep files and batches while the block runs, from none on."""
        self._uploads.begin()
        async with self._files.kept(self._service.threads):
            yield

    def parse(self, method: str, target: str) -> ControlCall | None:
        """Return what a request asks for, None if that is nothing about files and batches."""
        path, query = split(target)
        for its_method, pattern, action in _ROUTES:
            if its_method == method and (match := re.fullmatch(pattern, path)):
                chunk = action == "start_upload" and "upload_id" in parse_qs(query)
                action = "upload" if chunk else action
                self._received[action] += 1
                return ControlCall(self._received[action], action, match[1])
        return None

    async def serve(self, call: ControlCall, request: Request, connection: Connection) -> None:
        """Answer a request on the connection that it came on.

        Raises:
            Disconnected: If the client has gone.
        """
        path, _ = split(request.target)
        # The URL of an upload is secret enough: clients send no key there.
        refused = call.action != "upload" and denial(
            path, request.headers, self._service.api_keys, self._service.tokens
        )
        if refused:
            await connection.send(refused)
            return
        fault = self._fault(call) or _NO_FAULT
        await pause(fault.delay)
        instead = reply_in_place(fault)
        if instead is not None and not fault.late:
            await connection.send(instead, fault)
            return
        answer = await self._act(call, request)
        if instead is not None:
            await connection.send(instead, fault)
        elif isinstance(answer, StoredFile):
            await self._download(answer, connection, fault)
        else:
            await connection.send(_edited(answer, fault), fault)

    async def _act(self, call: ControlCall, request: Request) -> Reply | StoredFile:
        _, query = split(request.target)
        headers, body, host = request.headers, request.body, request.headers.get("host", "")
        match call.action:
            case "start_upload":
                return await self._uploads.start(headers, body, host)
            case "upload":
                token = parse_qs(query)["upload_id"][0]
                return await self._uploads.receive(token, headers, body, host)
            case "get_file":
                return self._files.describe(call.id, host)
            case "list_files":
                return self._files.list(query, host)
            case "delete_file":
                return self._files.delete(call.id)
            case "download":
                return self._files.to_download(call.id)
            case _:
                return await self._act_on_batch(call, request)

    async def _act_on_batch(self, call: ControlCall, request: Request) -> Reply:
        path, query = split(request.target)
        match call.action:
            case "create_batch":
                return await self.batches.create(call.id, path, request.headers, request.body)
            case "list_batches":
                return self.batches.list(query)
            case "cancel_batch":
                return self.batches.cancel(call.id)
            case "delete_batch":
                return self.batches.delete(call.id)
            case _:
                return self.batches.describe(call.id)

    async def _download(self, file: StoredFile, connection: Connection, fault: Fault) -> None:
        def read(start: int, size: int) -> bytes:
            with file.path.open("rb") as opened:
                opened.seek(start)
                return opened.read(size)

        async def piece(start: int, size: int) -> bytes:
            return await self._files.in_thread(partial(read, start, size))

        reply = Reply(fault.status or 200, b"", {"content-type": file.mime_type})
        await connection.send_file(reply, file.size, piece, fault)


def _by_action(faults: Mapping[str, Iterable[Fault | None]]) -> _ControlFault:
    if unknown := set(faults) - set(get_args(Action)):
        raise ValueError(f"control_faults has no action {sorted(unknown)[0]!r}")
    scripts = {action: iter(listed) for action, listed in faults.items()}
    return lambda call: next(scripts.get(call.action, iter(())), None)


def _edited(answer: Reply, fault: Fault) -> Reply:
    if fault.edit is None or answer.status >= 300:
        return answer
    edited = json_reply(fault.edit(json.loads(answer.body or b"{}")))
    return replace(edited, status=answer.status, headers=answer.headers)
