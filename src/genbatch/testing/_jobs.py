"""The batches of a fake Gemini: jobs that run row by row, and their answers.

1. A job is billed while it runs, row by row, whether or not anybody fetches its answers.
2. Its answers can be fetched once it has ended, never before.
3. The quota of calls does not apply to rows; one of tokens bounds the jobs that have not ended.
4. Rows and answers are files, which may be larger than memory (unless answers are shuffled), and a
   job can be left between rows.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc
from anyio import from_thread

from . import _wire
from ._files import Files, StoredFile
from ._http import Fault, JsonObject, Reply, Request, check, pause
from ._server import Refused, Threads, json_reply
from ._wire import Call

State: TypeAlias = Literal[
    "PENDING", "RUNNING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"
]

_PAGES = (50, 1000)
# The service's words, which tell neither the limit nor how long to wait.
_TOO_MANY_TOKENS = (
    "You exceeded your current quota, please check your plan and billing details. For more "
    "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)
_BATCH_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
_ENDS = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_ERRORS: dict[str, JsonObject] = {
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
        files: Names of the files that its rows refer to.
    """

    number: int
    name: str
    display_name: str
    model: str
    keys: tuple[str, ...] = field(repr=False)
    state: State = "PENDING"
    images: int = 0
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFault:
    """How one job goes wrong.

    Attributes:
        state: State that it ends in.
        after: Share of its rows that are processed before it ends, from the first on, so that
            they are billed and answered; by default all if it succeeds, even in part, else none.
        output: Whether there is a file with the answers; without one, the images made are lost.
        late_output: How often a job that has ended is looked at before the file is named.
        shuffle: Whether the answers come in another order than the rows: the last one first.
        edit: Called in a thread with each line of the answers, without its newline; the lines it
            returns are sent instead: none, several, or something that is not JSON.

    Raises:
        ValueError: If a value is out of range.
    """

    state: State = "SUCCEEDED"
    after: float | None = None
    output: bool = True
    late_output: int = 0
    shuffle: bool = False
    edit: Callable[[bytes], Iterable[bytes]] | None = None

    def __post_init__(self) -> None:
        known = ", ".join(_ENDS)
        check(self.state in _ENDS, f"state must be one of {known}, got {self.state}")
        is_share = self.after is None or 0 <= self.after <= 1
        check(is_share, f"after must be in 0..1, got {self.after}")
        check(self.late_output >= 0, f"late_output must be >= 0, got {self.late_output}")

    def rows_of(self, count: int) -> int:
        """Return how many of count rows are processed."""
        succeeds = self.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED")
        return round(count * (float(succeeds) if self.after is None else self.after))


@dataclass(slots=True)
class _RunningJob:
    """A job while it runs, and when it has ended; error is why, where it failed."""

    job: Job
    headers: Mapping[str, str] = field(repr=False)
    path: str
    input: StoredFile
    tokens: int = 0
    error: JsonObject | None = None
    succeeded: int = 0
    failed: int = 0
    output: StoredFile | None = None
    unnamed: int = 0  # looks at the job, once ended, before its output is named
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    # Cancelled by the client.
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def done(self) -> int:
        """How many of its rows are answered."""
        return self.succeeded + self.failed

    @property
    def has_ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.job.state in _ENDS

    def enter(self, state: State) -> None:
        """Go on to state."""
        self.job = replace(self.job, state=state)
        self.updated = datetime.now(UTC)

    def call(self, row: Mapping[str, Any]) -> Call:
        """Return the next row as the call that it is."""
        body, key = _wire.mapping(row.get("request")), str(row.get("key", ""))
        number, prompt = self.done + 1, _wire.prompt_of(body)
        return Call(number, self.job.model, prompt, body, self.headers, self.path, key)

    def count(self, reply: Reply, images: int) -> None:
        """Count a row as answered by reply."""
        self.failed += reply.status >= 300
        self.succeeded += reply.status < 300
        self.job = replace(self.job, images=self.job.images + images)

    def operation(self) -> JsonObject:
        """Return the service's description of it."""
        job, ended, updated = self.job, self.has_ended, _wire.timestamp(self.updated)
        output = {"responsesFile": self.output.name} if self.output and not self.unnamed else {}
        counts = _wire.filled(
            requestCount=len(job.keys),
            successfulRequestCount=self.succeeded,
            failedRequestCount=self.failed,
            pendingRequestCount=len(job.keys) - self.done,
        )
        metadata = _wire.filled(
            model=f"models/{job.model}",
            displayName=job.display_name,
            inputConfig={"fileName": self.input.name},
            output=output,
            createTime=_wire.timestamp(self.created),
            updateTime=updated,
            endTime=updated if ended else "",
            batchStats={name: str(count) for name, count in counts.items()},
            state=f"BATCH_STATE_{job.state}",
            name=job.name,
        )
        answer = {"name": job.name, "metadata": {"@type": _BATCH_TYPE, **metadata}}
        # Not for one that succeeded in part: users report that it never becomes done.
        if not ended or job.state == "PARTIALLY_SUCCEEDED":
            return answer
        if job.state != "SUCCEEDED":
            return answer | {"done": True, "error": self.error or _ERRORS[job.state]}
        response = {"@type": f"{_BATCH_TYPE}Output", **output}
        return answer | {"done": True} | ({"response": response} if output else {})


@dataclass(slots=True)
class FakeJobs:
    """Every job: it is created, waits, runs row by row, and ends; deleted ones are remembered.

    Attributes:
        files: Those that clients have uploaded, and the answers.
        latency: Returns the seconds that a job takes.
        job_fault: Returns what goes wrong with a job.
        fault: Returns what goes wrong with a row.
        make: Makes the reply to a row, and says how many images it bills.
        check_model: Refuses a model that cannot be called.
        most_tokens: Tokens of a model's jobs that have not ended, None for any number.
    """

    files: Files
    latency: Callable[[Job], float]
    job_fault: Callable[[Job], JobFault]
    fault: Callable[[Call], Fault]
    make: Callable[[Call, Fault], tuple[Reply, int]]
    check_model: Callable[[str], None]
    most_tokens: int | None = None
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
        self.check_model(model)
        described = _wire.mapping(_wire.json_object(request.body).get("batch"))
        source = _wire.mapping(described.get("inputConfig"))
        if "requests" in source:
            raise _wire.refused(400, "Inlined requests are not served here: upload a file.")
        if "fileName" not in source:
            raise _wire.refused(400, "* BatchGenerateContentRequest.batch.input_config: required\n")
        if (file := self.files.find(source["fileName"])) is None:
            raise _wire.refused(404)
        keys, files, tokens, error = await self._threads.run(_scan, file.path)
        enqueued = (each for each in self._created if each.job.model == model)
        enqueued_tokens = sum(each.tokens for each in enqueued if not each.has_ended)
        if self.most_tokens is not None and enqueued_tokens + tokens > self.most_tokens:
            raise _wire.refused(429, _TOO_MANY_TOKENS)
        id, name = secrets.token_hex(18), str(described.get("displayName") or "")
        job = Job(len(self._created) + 1, f"batches/{id}", name, model, keys, files=files)
        running = _RunningJob(job, request.headers, request.path, file, tokens, error)
        self._created.append(running)
        self._listed[id] = running
        self._tasks.start_soon(self._run, running, f"batch-{id}")
        return json_reply(running.operation())

    def _get(self, id: str) -> _RunningJob:
        if (running := self._listed.get(id)) is None:
            raise _wire.refused(404)
        return running

    async def get(self, id: str, request: Request) -> Reply:
        """Describe a job."""
        running = self._get(id)
        reply = json_reply(running.operation())
        if running.has_ended and running.unnamed:
            running.unnamed -= 1
        return reply

    async def list(self, id: str, request: Request) -> Reply:
        """Describe one page of the jobs, the newest first."""
        listed = [running.operation() for running in reversed(self._listed.values())]
        return _wire.list_reply("operations", listed, request, _PAGES)

    async def cancel(self, id: str, request: Request) -> Reply:
        """Cancel a job, unless it has ended."""
        self._get(id).scope.cancel()
        return json_reply({})

    async def delete(self, id: str, request: Request) -> Reply:
        """Forget a job; if it is running, it runs on."""
        self._get(id)
        del self._listed[id]
        return json_reply({})

    # Running

    async def _run(self, running: _RunningJob, output_id: str) -> None:
        fault, half = self.job_fault(running.job), self.latency(running.job) / 2
        output = self.files.new(output_id, mime_type="application/jsonl", generated=True)
        with running.scope:
            await pause(half)
            running.enter("RUNNING")
            for name in (running.input.name, *running.job.files):
                if self.files.find(name) is None:  # deleted by the client, or never uploaded
                    running.error = {"code": 5, "message": f"{name} is not found."}
            if running.error is None:
                await self._threads.run(self._answer_rows, running, fault, output)
            await pause(half)
        if running.done and fault.output:
            if fault.shuffle:
                await self._threads.run(_reverse, output.path)
            self.files.publish(output)
            running.output, running.unnamed = output, fault.late_output
        if running.scope.cancelled_caught:
            running.enter("CANCELLED")
        else:
            running.enter(fault.state if running.error is None else "FAILED")

    def _answer_rows(self, running: _RunningJob, fault: JobFault, output: StoredFile) -> None:
        """Write the answers to the rows of a job, in a thread; may be cancelled between rows."""
        rows = islice(_rows(running.input.path), fault.rows_of(len(running.job.keys)))
        for _, row in rows:
            from_thread.check_cancelled()
            call = running.call(row)
            # Asked for outside this thread: calls ask too, and faults may be an iterator.
            row_fault = from_thread.run_sync(self.fault, call)
            try:
                _wire.check_body(call)
                reply, images = self.make(call, replace(row_fault, reset=False))
            except Refused as refused:
                reply, images = refused.reply, 0
            running.count(reply, images)
            line = _answer_line(call.key, reply)
            lines = fault.edit(line) if fault.edit else (line,)
            output.append(b"".join(each + b"\n" for each in lines))


# Rows: these functions read or write files, and are called in threads.


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each line of a file that is not blank, and the JSON object it holds."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield number, _wire.json_object(line)


def _scan(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], int, JsonObject | None]:
    """Return a file's keys, the files that its rows refer to, and their tokens.

    Returns:
        Those, and the error if it is not a file of rows.
    """
    keys: list[str] = []
    files: dict[str, None] = {}
    tokens, wrong = 0, ""
    for number, row in _rows(path):
        if not row:
            wrong = f"Line {number} of the input file is no JSON object."
            break
        keys.append(str(row.get("key", "")))
        named, size = _wire.inputs_of(_wire.mapping(row.get("request")))
        files |= dict.fromkeys(named)
        tokens += size
    if not keys and not wrong:
        wrong = "The input file has no requests."
    return tuple(keys), tuple(files), tokens, {"code": 3, "message": wrong} if wrong else None


def _answer_line(key: str, reply: Reply) -> bytes:
    """Return the line that answers a row as reply answers a call."""
    answer: JsonObject
    if reply.status >= 300:
        answer = {"error": _wire.rpc_error(reply)}
    elif response := _wire.json_object(reply.body):
        answer = {"response": response}
    else:
        return reply.body.replace(b"\n", b" ")
    return json.dumps({**answer, "key": key}).encode()


def _reverse(path: Path) -> None:
    """Put the lines of a file in the opposite order."""
    with path.open("rb") as file:
        lines = file.readlines()
    path.write_bytes(b"".join(reversed(lines)))
