"""The files and batches of a fake service: uploads, jobs that run row by row, and their results.

1. A job is billed while it runs, row by row, whether or not anybody fetches its answers.
2. Its answers can be fetched once it has ended, never before.
3. The quota of calls does not apply to rows.
4. Files are on disk, and are read and written in threads only, row by row: they may be larger than
   memory, answers that are shuffled apart, and a job can be left between rows.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import anyio
import anyio.abc
from anyio import from_thread

from ._http import JSON, NO_FAULT, Fault, JsonObject, Reply, Request, ServerConnection, pause
from ._server import Threads, carry_out, json_reply, reply_in_place, scripted
from ._wire import (
    Call,
    error_reply,
    json_object,
    list_reply,
    mapping,
    prompt_of,
    refusal,
    rpc_error,
)

State: TypeAlias = Literal[
    "PENDING", "RUNNING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"
]
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
_Handler: TypeAlias = Callable[[str, Request], Awaitable[Reply]]
_Make: TypeAlias = Callable[[Call, Fault], tuple[object, int]]

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
        files: The files.
        jobs: The batches.
        denial: Returns the reply to a caller without access, None to one with it.
        faults: What goes wrong with a request, by action or as a function.

    Raises:
        ValueError: If faults has an unknown action.
    """

    def __init__(
        self,
        files: Files,
        jobs: Jobs,
        denial: Callable[[Request], Reply | None],
        faults: ControlFaults | None,
    ) -> None:
        self._denial, self._upload = denial, files.upload
        self._fault = scripted(faults if callable(faults) else _by_action(faults or {}), NO_FAULT)
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

    async def serve(self, request: Request, connection: ServerConnection) -> bool:
        """Answer a request on its connection; return False if it is about something else.

        Raises:
            Disconnected: If the client has gone.
        """
        for method, pattern, action, handler in self._routes:
            match = re.fullmatch(pattern, request.path) if method == request.method else None
            if match is not None:
                if action == "start_upload" and "upload_id" in request.query:
                    action, handler = "upload", self._upload
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
        if call.action != "upload" and (denied := self._denial(request)):
            return denied, NO_FAULT
        fault = self._fault(call)

        async def act() -> Reply:
            reply = await handler(call.id, request)
            if fault.edit is None or reply.file is not None or reply.status >= 300:
                return reply
            return replace(
                reply, body=json.dumps(fault.edit(json.loads(reply.body or "{}"))).encode()
            )

        return await carry_out(act, fault, error_reply), fault


def _by_action(faults: Mapping[str, Iterable[Fault | None]]) -> _ControlFault:
    if unknown := set(faults) - set(get_args(Action)):
        raise ValueError(f"control_faults has no action {sorted(unknown)[0]!r}")
    scripts = {action: iter(listed) for action, listed in faults.items()}
    return lambda call: next(scripts.get(call.action, iter(())), None)


# Files


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
    file: StoredFile
    announced: int | None  # bytes
    received: int = 0
    ended: bool = False
    # A chunk that is sent again must not overtake the first one, which is still being written.
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Files:
    """The files that clients have uploaded, and the results of jobs.

    Uploads are resumable: a start that says where the bytes go, then chunks. What the server has
    received is what is on disk.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._files: dict[str, StoredFile] = {}
        self._uploads: dict[str, _Upload] = {}
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

    async def publish(self, file: StoredFile) -> None:
        """Let clients see file, whose bytes are complete."""
        file.size = (await self._threads.run(file.path.stat)).st_size
        file.created = datetime.now(UTC)
        self._files[file.id] = file

    def find(self, name: object) -> StoredFile | None:
        """Return the file of that name, None if there is none."""
        return self._files.get(name.removeprefix("files/")) if isinstance(name, str) else None

    # Requests

    async def get(self, id: str, request: Request) -> Reply:
        """Describe a file."""
        file = self._files.get(id)
        return json_reply(file.described(request.host)) if file else _no_access(id)

    async def list(self, id: str, request: Request) -> Reply:
        """Describe one page of the files, the newest first."""
        files = [file.described(request.host) for file in reversed(self._files.values())]
        return list_reply("files", files, request, _FILE_PAGES)

    async def download(self, id: str, request: Request) -> Reply:
        """Return the content of a generated file."""
        if (file := self._files.get(id)) is None:
            return _no_access(id)
        if not file.generated:
            return error_reply(400, f"File {id} was uploaded: only generated ones are downloaded.")
        read = partial(self._threads.run, _read, file.path)
        return Reply(200, b"", {"content-type": file.mime_type}, (file.size, read))

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
        name = described.get("displayName") or described.get("display_name") or ""
        mime_type = str(mime_type or "application/octet-stream")
        file = self.new(id, mime_type=mime_type, display_name=str(name))
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


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


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
    input: StoredFile
    error: JsonObject | None = None
    succeeded: int = 0
    failed: int = 0
    output: StoredFile | None = None
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

    def call(self, row: Mapping[str, Any]) -> Call:
        """Return the next row as the call that it is."""
        body, key = mapping(row.get("request")), str(row.get("key", ""))
        number, model = self.done + 1, self.job.model
        return Call(number, model, prompt_of(body), body, self.headers, self.path, key)

    def count(self, has_failed: bool, images: int) -> None:
        """Count one row as answered."""
        self.failed += has_failed
        self.succeeded += not has_failed
        self.job = replace(self.job, images=self.job.images + images)

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


@dataclass(slots=True, kw_only=True)
class Jobs:
    """Every job: it is created, waits, runs row by row, and ends; deleted ones are remembered.

    Attributes:
        files: Those that clients have uploaded, and the answers.
        latency: Returns the seconds that a job takes.
        job_faults: Returns what goes wrong with a job.
        faults: Returns what goes wrong with a row.
        make: Makes the answer to a row, and says how many images it bills.
        lacks: Returns the error for a model that cannot be called.
    """

    files: Files
    latency: Callable[[Job], float]
    job_faults: Callable[[Job], JobFault]
    faults: Callable[[Call], Fault]
    make: _Make
    lacks: Callable[[str], Reply | None]
    _created: list[_RunningJob] = field(default_factory=list)
    _listed: dict[str, _RunningJob] = field(default_factory=dict)  # by id
    # Not those of calls and files, which go on while jobs run.
    _threads: Threads = field(default_factory=Threads)
    _tasks: anyio.abc.TaskGroup = field(init=False)

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """List no job from now on; new ones run in tasks."""
        self._listed.clear()
        self._threads.begin()
        self._tasks = tasks

    @property
    def created(self) -> tuple[Job, ...]:
        """Every job created, oldest first."""
        return tuple(each.job for each in self._created)

    # Requests

    async def create(self, model: str, request: Request) -> Reply:
        """Create a job that runs the rows of a file."""
        if missing := self.lacks(model):
            return missing
        described = mapping(json_object(request.body).get("batch"))
        source = mapping(described.get("inputConfig"))
        if "requests" in source:
            return error_reply(400, "Inlined requests are not served here: upload a file.")
        if "fileName" not in source:
            return error_reply(400, "* BatchGenerateContentRequest.batch.input_config: required\n")
        if (file := self.files.find(source["fileName"])) is None:
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
        listed = [running.operation() for running in reversed(self._listed.values())]
        return list_reply("operations", listed, request, _JOB_PAGES)

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
        fault, half = self.job_faults(running.job), self.latency(running.job) / 2
        output = self.files.new(output_id, mime_type="application/jsonl", generated=True)
        with running.scope:
            await pause(half)
            running.enter("RUNNING")
            if self.files.find(running.input.name) is None:  # deleted by the client
                running.error = {"code": 5, "message": f"{running.input.name} is not found."}
            if running.error is None:
                await self._threads.run(self._answer_rows, running, fault, output.path)
            await pause(half)
        if running.done and fault.output:
            if fault.shuffle:
                await self._threads.run(_reverse, output.path)
            await self.files.publish(output)
            running.output = output
        if running.scope.cancelled_caught:
            running.enter("CANCELLED")
        else:
            running.enter(fault.state if running.error is None else "FAILED")

    def _answer_rows(self, running: _RunningJob, fault: JobFault, output: Path) -> None:
        """Write the answers to the rows of a job, in a thread; may be cancelled between rows."""
        rows = islice(_rows(running.input.path), fault.rows_of(len(running.job.keys)))
        with output.open("wb") as file:
            for _, row in rows:
                from_thread.check_cancelled()
                call = running.call(row)
                # Asked for outside this thread: calls ask too, and faults may be an iterator.
                row_fault = from_thread.run_sync(self.faults, call)
                line, has_failed, images = _answer_row(self.make, call, row_fault)
                running.count(has_failed, images)
                lines = fault.edit(line) if fault.edit else (line,)
                file.writelines(each + b"\n" for each in lines)


# Rows: these functions read or write files, or draw, and are called in threads.


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each line of a file that is not blank, and the JSON object it holds."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield number, json_object(line)


def _scan(path: Path) -> tuple[tuple[str, ...], JsonObject | None]:
    """Return the keys of a file's rows, and the error if it is not a file of rows."""
    keys: list[str] = []
    for number, row in _rows(path):
        if not row:
            message = f"Line {number} of the input file is no JSON object."
            return tuple(keys), {"code": 3, "message": message}
        keys.append(str(row.get("key", "")))
    if keys:
        return tuple(keys), None
    return (), {"code": 3, "message": "The input file has no requests."}


def _answer_row(make: _Make, call: Call, fault: Fault) -> tuple[bytes, bool, int]:
    """Return the line that answers a row, whether it is an error, and the images billed."""
    instead, images = refusal(call), 0
    if instead is None:
        instead = reply_in_place(replace(fault, reset=False), error_reply)
        if instead is None or fault.late:
            response, images = make(call, fault)
    has_failed = instead is not None and instead.status >= 300
    if instead is None:
        answer = {"response": response}
    elif has_failed:
        answer = {"error": rpc_error(instead)}
    elif given := json_object(instead.body):
        answer = {"response": given}
    else:
        return instead.body.replace(b"\n", b" "), False, images
    return json.dumps({**answer, "key": call.key}).encode(), has_failed, images


def _reverse(path: Path) -> None:
    """Put the lines of a file in the opposite order."""
    with path.open("rb") as file:
        lines = file.readlines()
    path.write_bytes(b"".join(reversed(lines)))
