"""The files and batches of a fake service: uploads, jobs that run row by row, and their results.

1. A job is billed while it runs, row by row, whether or not anybody fetches its answers.
2. Its answers can be fetched once it has ended, never before.
3. The quota of calls does not apply to rows.
4. Files are on disk, and are read and written in threads only, a few rows at a time: they may be
   larger than memory, and a job can be left between rows.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import anyio
import anyio.abc

from ._gemini import (
    Call,
    error_reply,
    json_object,
    json_reply,
    list_reply,
    mapping,
    prompt_of,
    refusal,
    reply_in_place,
    rpc_error,
)
from ._http import (
    JSON,
    NO_FAULT,
    Fault,
    JsonObject,
    Reply,
    Request,
    ServerConnection,
    Threads,
    pause,
)
from ._service import Service

State: TypeAlias = Literal[
    "PENDING", "RUNNING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"
]
_FileAction: TypeAlias = Literal[
    "start_upload", "upload", "get_file", "list_files", "delete_file", "download"
]
_BatchAction: TypeAlias = Literal[
    "create_batch", "get_batch", "list_batches", "cancel_batch", "delete_batch"
]
Action: TypeAlias = Literal[_FileAction, _BatchAction]
_Handler: TypeAlias = Callable[[str, Request], Awaitable[Reply]]

_KEPT = timedelta(hours=48)  # told to clients; files stay while the server runs
_FILE_PAGES, _JOB_PAGES = (10, 100), (50, 1000)
_LONGEST_ID = 40  # characters
_TOO_LONG = f"File ID (name excluding 'files/') cannot be more than {_LONGEST_ID} characters."
_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_WRONG_ID = (
    "File name may only contain lowercase alphanumeric characters or dashes (-) and cannot begin "
    "or end with a dash."
)
_GRANULARITY = "8388608"  # bytes that a chunk should be a multiple of; others are taken too
_COMMANDS = ("query", "upload", "upload, finalize", "finalize")
_BATCH_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
_ENDS = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_JOB_ERRORS: dict[str, JsonObject] = {
    "CANCELLED": {"code": 1, "message": "The operation was cancelled."},
    "EXPIRED": {"code": 4, "message": "The batch expired before it was completed."},
    "FAILED": {"code": 13, "message": "An internal error has occurred."},
}
_ROWS, _BYTES = 32, 16 * 1024 * 1024  # most that are taken at once; a single row may be larger


@dataclass(frozen=True, slots=True)
class Job:
    """One batch as it was when it was looked at.

    Attributes:
        number: 1 for the first job that a server created.
        name: Name of the resource, such as ``batches/3a96``.
        display_name: Name that the client gave it, empty if it gave none.
        model: Model id in the path.
        keys: Keys of its rows, in the order of the file; empty for a row without one.
        state: PENDING, RUNNING, or how it ended.
        images: Images made for it, that is, paid for.
    """

    number: int
    name: str
    display_name: str
    model: str
    keys: tuple[str, ...] = field(repr=False)
    state: State = "PENDING"
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFault:
    """How one job goes wrong.

    Attributes:
        state: State that it ends in.
        after: Share of its rows that are processed before it ends, from the first on, so that
            they are billed and answered; by default all if it succeeds, even in part, else none.
        output: Whether there is a file with the answers; without one, the images made are lost.
        shuffle: Whether the answers come in another order than the rows: the last one first.
        edit: Called in a thread with each line of the answers, without its newline; the lines it
            returns are sent instead: none, several, or something that is not JSON.

    Raises:
        ValueError: If a value is out of range.
    """

    state: State = "SUCCEEDED"
    after: float | None = None
    output: bool = True
    shuffle: bool = False
    edit: Callable[[bytes], Iterable[bytes]] | None = None

    def __post_init__(self) -> None:
        if self.state not in _ENDS:
            raise ValueError(f"state must be one of {', '.join(_ENDS)}, got {self.state}")
        if self.after is not None and not 0 <= self.after <= 1:
            raise ValueError(f"after must be in 0..1, got {self.after}")

    def rows_of(self, count: int) -> int:
        """Return how many of count rows are processed."""
        succeeds = self.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED")
        return round(count * (float(succeeds) if self.after is None else self.after))


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
    """Serves requests about files and batches.

    Args:
        service: Whose files and batches they are.
        latency: Seconds a job takes, or a function that returns them for a job.
        job_faults: What goes wrong with a job.
        faults: What goes wrong with a request, by action or as a function.

    Raises:
        ValueError: If faults has an unknown action.
    """

    def __init__(
        self,
        service: Service,
        latency: float | Callable[[Job], float],
        job_faults: Callable[[Job], JobFault | None],
        faults: ControlFaults | None,
    ) -> None:
        self._service = service
        self._files = files = _Files(service.threads)
        self._jobs = jobs = _Jobs(service, files, latency, job_faults)
        self._fault = faults if callable(faults) else _by_action(faults or {})
        self._received: Counter[Action] = Counter()
        self._routes: tuple[tuple[str, str, Action, _Handler], ...] = (
            ("POST", r"/upload/v1beta/files()", "start_upload", files.start_upload),
            ("GET", r"/v1beta/files/([^/:]+)", "get_file", files.get),
            ("GET", r"/v1beta/files()", "list_files", files.list),
            ("DELETE", r"/v1beta/files/([^/:]+)", "delete_file", files.delete),
            ("GET", r"(?:/download)?/v1beta/files/([^/:]+):download", "download", files.download),
            ("POST", r"/v1beta/models/([^/:]+):batchGenerateContent", "create_batch", jobs.create),
            ("GET", r"/v1beta/batches/([^/:]+)", "get_batch", jobs.get),
            ("GET", r"/v1beta/batches()", "list_batches", jobs.list),
            ("POST", r"/v1beta/batches/([^/:]+):cancel", "cancel_batch", jobs.cancel),
            ("DELETE", r"/v1beta/batches/([^/:]+)", "delete_batch", jobs.delete),
        )

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every job created, oldest first."""
        return self._jobs.created

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start with no job; they run in tasks."""
        self._jobs.begin(tasks)

    def files_kept(self) -> AbstractAsyncContextManager[None]:
        """Keep files while the block runs, starting from none."""
        return self._files.kept()

    async def serve(self, request: Request, connection: ServerConnection) -> bool:
        """Answer a request on its connection; return False if it is about something else.

        Raises:
            Disconnected: If the client has gone.
        """
        for method, pattern, action, handler in self._routes:
            match = re.fullmatch(pattern, request.path) if method == request.method else None
            if match is not None:
                if action == "start_upload" and "upload_id" in request.query:
                    action, handler = "upload", self._files.upload
                self._received[action] += 1
                call = ControlCall(self._received[action], action, match[1])
                await connection.send(*await self._answer(call, handler, request))
                return True
        return False

    async def _answer(
        self, call: ControlCall, handler: _Handler, request: Request
    ) -> tuple[Reply, Fault]:
        """Return the reply, and what is to go wrong while it is sent."""
        # The URL of an upload is secret enough: clients send no key there.
        if call.action != "upload" and (denied := self._service.denial(request)):
            return denied, NO_FAULT
        fault = self._fault(call) or NO_FAULT
        if fault.delay:
            await pause(fault.delay)
        instead = reply_in_place(fault)
        if instead is not None and not fault.late:
            return instead, fault
        reply = await handler(call.id, request)
        if instead is not None:
            return instead, fault
        if reply.file is not None:
            return replace(reply, status=fault.status or reply.status), fault
        if fault.edit is not None and reply.status < 300:
            edited = fault.edit(json.loads(reply.body or b"{}"))
            reply = replace(reply, body=json.dumps(edited).encode())
        return reply, fault


def _by_action(faults: Mapping[str, Iterable[Fault | None]]) -> _ControlFault:
    if unknown := set(faults) - set(get_args(Action)):
        raise ValueError(f"control_faults has no action {sorted(unknown)[0]!r}")
    scripts = {action: iter(listed) for action, listed in faults.items()}
    return lambda call: next(scripts.get(call.action, iter(())), None)


# Files


@dataclass(slots=True)
class _StoredFile:
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
        """Return the service's description of it for a client that reached the service at host."""
        url = f"http://{host}/v1beta/{self.name}"
        described = {
            "name": self.name,
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size),
            "createTime": _timestamp(self.created),
            "updateTime": _timestamp(self.created),
            "expirationTime": _timestamp(self.created + _KEPT),
            "uri": url,
            "downloadUri": f"{url}:download?alt=media" if self.generated else "",
            "state": "ACTIVE",
            "source": "GENERATED" if self.generated else "UPLOADED",
        }
        return {name: value for name, value in described.items() if value}


@dataclass(slots=True)
class _Upload:
    file: _StoredFile
    announced: int | None  # bytes
    received: int = 0
    ended: bool = False
    # A chunk that is sent again must not overtake the first one, which is still being written.
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class _Files:
    """The files that clients have uploaded, and the results of jobs.

    Uploads are resumable: a start that says where the bytes go, then chunks. What the server has
    received is what is on disk.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._files: dict[str, _StoredFile] = {}
        self._uploads: dict[str, _Upload] = {}
        self._paths: list[Path] = []

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep files while the block runs, starting from none."""
        self._files.clear()
        self._uploads.clear()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._threads.run(self._remove)

    def _remove(self) -> None:
        while self._paths:
            self._paths.pop().unlink(missing_ok=True)

    async def new(self, mime_type: str, id: str = "", *, generated: bool = False) -> _StoredFile:
        """Return an empty file that no client sees yet."""
        path = await self._threads.run(self._make)
        return _StoredFile(id or secrets.token_hex(6), path, mime_type, generated=generated)

    def _make(self) -> Path:
        handle, name = tempfile.mkstemp(prefix="genbatch-fake-")
        os.close(handle)
        # Noted here, in the thread: a cancellation must not leave the file behind.
        self._paths.append(Path(name))
        return self._paths[-1]

    async def publish(self, file: _StoredFile) -> None:
        """Let clients see file, whose bytes are complete."""
        file.size = (await self._threads.run(file.path.stat)).st_size
        file.created = datetime.now(UTC)
        self._files[file.id] = file

    def find(self, name: object) -> _StoredFile | None:
        """Return the file of that name, None if there is none."""
        return self._files.get(name.removeprefix("files/")) if isinstance(name, str) else None

    # Requests

    async def get(self, id: str, request: Request) -> Reply:
        """Describe a file."""
        file = self._files.get(id)
        return json_reply(file.described(request.host)) if file else _no_access(id)

    async def list(self, id: str, request: Request) -> Reply:
        """Describe one page of the files, the newest first."""
        files = list(reversed(self._files.values()))
        return list_reply(
            "files", files, lambda file: file.described(request.host), request, _FILE_PAGES
        )

    async def download(self, id: str, request: Request) -> Reply:
        """Return the content of a generated file."""
        if (file := self._files.get(id)) is None:
            return _no_access(id)
        if not file.generated:
            return error_reply(400, f"File {id} was uploaded: only generated ones are downloaded.")
        return Reply(200, b"", {"content-type": file.mime_type}, (file.path, file.size))

    async def delete(self, id: str, request: Request) -> Reply:
        """Delete a file. Its bytes stay: a job or another client may be reading them."""
        if len(id) > _LONGEST_ID:  # as the service does, which gives its own results longer ones
            return error_reply(400, f"* DeleteFileRequest.name: {_TOO_LONG}\n")
        return _no_access(id) if self._files.pop(id, None) is None else json_reply({})

    async def start_upload(self, id: str, request: Request) -> Reply:
        """Begin an upload; headers of the reply say where its bytes go."""
        headers = request.headers
        if headers.get("x-goog-upload-protocol") != "resumable":
            return error_reply(400, "Only resumable uploads are served here.")
        described = mapping(json_object(request.body).get("file"))
        id = str(described.get("name") or "").removeprefix("files/")
        if id and (wrong := self._wrong_id(id)):
            return error_reply(400, f"* CreateFileRequest.file.name: {wrong}\n")
        mime_type = headers.get("x-goog-upload-header-content-type") or described.get("mimeType")
        file = await self.new(str(mime_type or "application/octet-stream"), id)
        file.display_name = str(described.get("displayName") or described.get("display_name") or "")
        announced = headers.get("x-goog-upload-header-content-length", "")
        token = secrets.token_urlsafe(24)
        self._uploads[token] = _Upload(file, int(announced) if announced.isdecimal() else None)
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
        if (upload := self._uploads.get(request.query["upload_id"])) is None:
            return replace(error_reply(404), headers=JSON | {"x-goog-upload-status": "final"})
        command = request.headers.get("x-goog-upload-command", "")
        async with upload.lock:
            if not upload.ended and command != "query":
                offset = request.headers.get("x-goog-upload-offset", "0")
                if wrong := _wrong_chunk(upload, command, offset, len(request.body)):
                    return _state(upload, error_reply(400, wrong))
                await self._threads.run(_append, upload, request.body)
                if "finalize" in command:
                    upload.ended = True
                    await self.publish(upload.file)
            described = {"file": upload.file.described(request.host)} if upload.ended else {}
            return _state(upload, json_reply(described))


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
    """Return reply with the state of the upload in its headers."""
    fields = {
        "x-goog-upload-status": "final" if upload.ended else "active",
        "x-goog-upload-size-received": str(upload.received),
    }
    return replace(reply, headers=JSON | fields)


def _no_access(id: str) -> Reply:
    # The words of the service, which never says whether such a file exists.
    return error_reply(
        403, f"You do not have permission to access the File {id} or it may not exist."
    )


def _timestamp(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


# Jobs


@dataclass(slots=True)
class _RunningJob:
    """A job while it runs, and when it has ended; error is why, where it failed."""

    job: Job
    headers: Mapping[str, str] = field(repr=False)
    path: str
    input: _StoredFile
    error: JsonObject | None = None
    succeeded: int = 0
    failed: int = 0
    output: _StoredFile | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    # Cancelled by the client.
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def done(self) -> int:
        """How many of its rows are answered."""
        return self.succeeded + self.failed

    def enter(self, state: State) -> None:
        """Go on to state."""
        self.job = replace(self.job, state=state)
        self.updated = datetime.now(UTC)

    def operation(self) -> JsonObject:
        """Return the service's description of it."""
        job, ended = self.job, self.job.state in _ENDS
        times = {"createTime": _timestamp(self.created), "updateTime": _timestamp(self.updated)}
        output = {} if self.output is None else {"responsesFile": self.output.name}
        metadata: JsonObject = {
            "@type": _BATCH_TYPE,
            "model": f"models/{job.model}",
            "displayName": job.display_name,
            "inputConfig": {"fileName": self.input.name},
            **({"output": output} if output else {}),
            **times,
            **({"endTime": times["updateTime"]} if ended else {}),
            "batchStats": self._stats(),
            "state": f"BATCH_STATE_{job.state}",
            "name": job.name,
        }
        answer: JsonObject = {"name": job.name, "metadata": metadata}
        # Not for one that succeeded in part: users report that it never becomes done.
        if ended and job.state != "PARTIALLY_SUCCEEDED":
            answer["done"] = True
            if job.state != "SUCCEEDED":
                answer["error"] = self.error or _JOB_ERRORS[job.state]
            elif output:
                answer["response"] = {"@type": f"{_BATCH_TYPE}Output", **output}
        return answer

    def _stats(self) -> JsonObject:
        """Return the counts as the service does: as text, and without those that are 0."""
        counts = {
            "requestCount": len(self.job.keys),
            "successfulRequestCount": self.succeeded,
            "failedRequestCount": self.failed,
            "pendingRequestCount": len(self.job.keys) - self.done,
        }
        return {name: str(count) for name, count in counts.items() if count}


class _Jobs:
    """Every job: it is created, waits, runs row by row, and ends; deleted ones are remembered."""

    def __init__(
        self,
        service: Service,
        files: _Files,
        latency: float | Callable[[Job], float],
        faults: Callable[[Job], JobFault | None],
    ) -> None:
        self._service = service
        self._threads = service.threads
        self._files = files
        self._latency = latency
        self._faults = faults
        self._created: list[_RunningJob] = []
        self._listed: dict[str, _RunningJob] = {}  # by id
        self._tasks: anyio.abc.TaskGroup

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """List no job from now on; new ones run in tasks."""
        self._listed.clear()
        self._tasks = tasks

    @property
    def created(self) -> tuple[Job, ...]:
        """Every job created, oldest first."""
        return tuple(each.job for each in self._created)

    # Requests

    async def create(self, model: str, request: Request) -> Reply:
        """Create a job that runs the rows of a file."""
        if missing := self._service.lacks(model):
            return missing
        described = mapping(json_object(request.body).get("batch"))
        source = mapping(described.get("inputConfig"))
        if "requests" in source:
            return error_reply(400, "Inlined requests are not served here: upload a file.")
        if "fileName" not in source:
            return error_reply(400, "* BatchGenerateContentRequest.batch.input_config: required\n")
        if (file := self._files.find(source["fileName"])) is None:
            return error_reply(404)
        keys, error = await self._threads.run(_scan, file.path)
        id, name = secrets.token_hex(18), str(described.get("displayName") or "")
        job = Job(len(self._created) + 1, f"batches/{id}", name, model, keys)
        running = _RunningJob(job, request.headers, request.path, file, error)
        self._created.append(running)
        self._listed[id] = running
        self._tasks.start_soon(self._run, running, f"batch-{id}")
        return json_reply(running.operation())

    async def get(self, id: str, request: Request) -> Reply:
        """Describe a job."""
        running = self._listed.get(id)
        return json_reply(running.operation()) if running else error_reply(404)

    async def list(self, id: str, request: Request) -> Reply:
        """Describe one page of the jobs, the newest first."""
        listed = list(reversed(self._listed.values()))
        return list_reply("operations", listed, _RunningJob.operation, request, _JOB_PAGES)

    async def cancel(self, id: str, request: Request) -> Reply:
        """Cancel a job, unless it has ended."""
        if (running := self._listed.get(id)) is None:
            return error_reply(404)
        running.scope.cancel()
        return json_reply({})

    async def delete(self, id: str, request: Request) -> Reply:
        """Forget a job; if it is running, it runs on."""
        return error_reply(404) if self._listed.pop(id, None) is None else json_reply({})

    # Running

    async def _run(self, running: _RunningJob, output_id: str) -> None:
        fault = self._faults(running.job) or JobFault()
        latency = self._latency(running.job) if callable(self._latency) else self._latency
        half = latency / self._service.speed / 2
        output = await self._files.new("application/jsonl", output_id, generated=True)
        with running.scope:
            await pause(half)
            running.enter("RUNNING")
            if self._files.find(running.input.name) is None:  # deleted by the client
                running.error = {"code": 5, "message": f"{running.input.name} is not found."}
            if running.error is None:
                await self._process(running, fault, output.path)
            await pause(half)
        if running.done and fault.output:
            if fault.shuffle:
                await self._threads.run(_reverse, output.path)
            await self._files.publish(output)
            running.output = output
        if running.scope.cancelled_caught:
            running.enter("CANCELLED")
        else:
            running.enter(fault.state if running.error is None else "FAILED")

    async def _process(self, running: _RunningJob, fault: JobFault, output: Path) -> None:
        rows, offset = fault.rows_of(len(running.job.keys)), 0
        while (left := rows - running.done) > 0:
            calls, offset = await self._threads.run(_read_rows, running, offset, left)
            # Asked for here and not in the thread: calls ask too, and faults may be an iterator.
            faulted = [(call, self._service.faults(call) or NO_FAULT) for call in calls]
            failed, images = await self._threads.run(
                _answer_rows, self._service, faulted, output, fault.edit
            )
            self._service.images += images
            running.job = replace(running.job, images=running.job.images + images)
            running.succeeded += len(calls) - failed
            running.failed += failed


# Rows: these functions read or write files, or draw, and are called in threads.


def _scan(path: Path) -> tuple[tuple[str, ...], JsonObject | None]:
    """Return the keys of a file's rows, and the error if it is not a file of rows."""
    keys: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            row = json_object(line)
            if not row:
                message = f"Line {number} of the input file is no JSON object."
                return tuple(keys), {"code": 3, "message": message}
            keys.append(str(row.get("key", "")))
    if keys:
        return tuple(keys), None
    return (), {"code": 3, "message": "The input file has no requests."}


def _read_rows(running: _RunningJob, offset: int, count: int) -> tuple[list[Call], int]:
    """Return the next rows of a job, and where in its file the rows after them begin.

    Args:
        running: The job.
        offset: Where the next row begins, in bytes.
        count: Most rows to return; the file has at least that many left.
    """
    calls: list[Call] = []
    with running.input.path.open("rb") as file:
        file.seek(offset)
        while len(calls) < min(count, _ROWS) and file.tell() - offset < _BYTES:
            line = file.readline()
            if line.isspace():
                continue
            row = json_object(line)
            body, key = mapping(row.get("request")), str(row.get("key", ""))
            number, model = running.done + len(calls) + 1, running.job.model
            prompt = prompt_of(body)
            calls.append(Call(number, model, prompt, body, running.headers, running.path, key))
        return calls, file.tell()


def _answer_rows(
    service: Service,
    rows: Sequence[tuple[Call, Fault]],
    output: Path,
    edit: Callable[[bytes], Iterable[bytes]] | None,
) -> tuple[int, int]:
    """Append the answers to rows to output; return how many failed, and the images billed."""
    failed = images = 0
    with output.open("ab") as file:
        for call, fault in rows:
            line, has_failed, made = _answer_row(service, call, fault)
            failed += has_failed
            images += made
            lines = edit(line) if edit else (line,)
            file.writelines(each + b"\n" for each in lines)
    return failed, images


def _answer_row(service: Service, call: Call, fault: Fault) -> tuple[bytes, bool, int]:
    """Return the line that answers a row, whether it is an error, and the images billed."""
    instead, images = refusal(call), 0
    if instead is None:
        instead = reply_in_place(replace(fault, reset=False))
        if instead is None or fault.late:
            response, images = service.make(call, fault)
    if instead is None:
        return json.dumps({"response": response, "key": call.key}).encode(), False, images
    if instead.status >= 300:
        line = json.dumps({"error": rpc_error(instead), "key": call.key}).encode()
        return line, True, images
    if given := json_object(instead.body):
        return json.dumps({"response": given, "key": call.key}).encode(), False, images
    return instead.body.replace(b"\n", b" "), False, images


def _reverse(path: Path) -> None:
    """Put the lines of a file in the opposite order."""
    begins = [0]
    other = path.with_suffix(".reversed")
    with path.open("rb") as file, other.open("wb") as target:
        begins += [file.tell() for _ in iter(file.readline, b"")]
        for begin in reversed(begins[:-1]):
            file.seek(begin)
            target.write(file.readline())
    other.replace(path)
