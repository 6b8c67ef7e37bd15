"""The Batch API of a fake service: jobs are created, wait, run row by row, and end.

1. A job is billed while it runs, row by row, whether or not anybody fetches its answers.
2. Its answers can be fetched once it has ended, never before.
3. The quota of calls does not apply to rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import anyio.abc

from ._catalogue import lacks, not_found
from ._faults import Fault
from ._files import Files
from ._http import pause
from ._jobs import Batch, Job, JobFault
from ._rows import answer, read, reverse, scan
from ._service import Service
from ._wire import JsonObject, Reply, error_reply, json_object, json_reply, mapping, page_of

_NO_FAULT = Fault()
_NO_JOB_FAULT = JobFault()
_USUAL_PAGE, _LARGEST_PAGE = 50, 1000


class Batches:
    """Every job there is, and those that were.

    Args:
        service: Answers the rows, and counts their images.
        files: Where the rows come from, and the answers go.
        latency: Seconds from the creation of a job to its end, or a function that tells them.
        faults: What goes wrong with a job.
    """

    def __init__(
        self,
        service: Service,
        files: Files,
        latency: float | Callable[[Job], float],
        faults: Callable[[Job], JobFault | None],
    ) -> None:
        self._service = service
        self._files = files
        self._latency = latency
        self._faults = faults
        self._created: list[Batch] = []
        self._batches: dict[str, Batch] = {}
        self._tasks: anyio.abc.TaskGroup

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start with no job; they run in tasks."""
        self._batches.clear()
        self._tasks = tasks

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every job created, oldest first."""
        return tuple(batch.job for batch in self._created)

    @property
    def count(self) -> int:
        """How many jobs were created."""
        return len(self._created)

    # Requests

    async def create(self, model: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Create a job that runs the rows of a file, and return the answer."""
        if lacks(model, self._service.models):
            return error_reply(404, not_found(model))
        described = mapping(json_object(body).get("batch"))
        source = mapping(described.get("inputConfig"))
        if "requests" in source:
            return error_reply(400, "Inlined requests are not served here: upload a file.")
        if "fileName" not in source:
            return error_reply(400, "* BatchGenerateContentRequest.batch.input_config: required\n")
        if (file := self._files.find(source["fileName"])) is None:
            return error_reply(404)
        keys, error = await self._files.in_thread(lambda: scan(file.path))
        id, name = secrets.token_hex(18), str(described.get("displayName") or "")
        batch = Batch(self.count + 1, id, name, model, headers, path, file, keys, error)
        self._created.append(batch)
        self._batches[id] = batch
        self._tasks.start_soon(self._run, batch)
        return json_reply(batch.operation())

    def describe(self, id: str) -> Reply:
        """Return the answer to a client that asks how a job is."""
        batch = self._batches.get(id)
        return json_reply(batch.operation()) if batch else error_reply(404)

    def list(self, query: str) -> Reply:
        """Return one page of the jobs, the newest first."""
        batches = list(reversed(self._batches.values()))
        page = page_of(query, len(batches), _USUAL_PAGE, _LARGEST_PAGE)
        if page is None:
            return error_reply(400)
        start, end = page
        answer: JsonObject = {"operations": [each.operation() for each in batches[start:end]]}
        return json_reply(answer | ({"nextPageToken": f"page-{end}"} if end < len(batches) else {}))

    def cancel(self, id: str) -> Reply:
        """Cancel a job, unless it has ended, and return the answer."""
        if (batch := self._batches.get(id)) is None:
            return error_reply(404)
        batch.scope.cancel()
        return json_reply({})

    def delete(self, id: str) -> Reply:
        """Forget a job, which runs on if it runs, and return the answer."""
        return error_reply(404) if self._batches.pop(id, None) is None else json_reply({})

    # What happens to a job

    async def _run(self, batch: Batch) -> None:
        fault = self._faults(batch.job) or _NO_JOB_FAULT
        latency = self._latency(batch.job) if callable(self._latency) else self._latency
        half = latency / self._service.speed / 2
        name = f"batch-{batch.id}"
        output = await self._files.new("application/jsonl", name, generated=True)
        with batch.scope:
            await pause(half)
            batch.enter("RUNNING")
            if self._files.find(batch.input.name) is None:  # deleted by the client
                batch.error = {"code": 5, "message": f"{batch.input.name} is not found."}
            if batch.error is None:
                await self._process(batch, fault, output.path)
            await pause(half)
        if batch.succeeded + batch.failed and fault.output:
            if fault.shuffle:
                await self._files.in_thread(lambda: reverse(output.path))
            await self._files.publish(output)
            batch.output = output
        if batch.scope.cancelled_caught:
            batch.enter("CANCELLED")
        else:
            batch.enter(fault.state if batch.error is None else "FAILED")

    async def _process(self, batch: Batch, fault: JobFault, output: Path) -> None:
        rows, offset = fault.rows_of(len(batch.keys)), 0
        while (left := rows - batch.succeeded - batch.failed) > 0:
            calls, offset = await self._files.in_thread(partial(read, batch, offset, left))
            # Asked for here and not in the thread: calls ask too, and faults may be an iterator.
            faulted = [(call, self._service.faults(call) or _NO_FAULT) for call in calls]
            act = partial(answer, self._service, faulted, output, fault.edit)
            answered = await self._files.in_thread(act)
            self._service.images += answered.images
            batch.images += answered.images
            batch.succeeded += answered.succeeded
            batch.failed += answered.failed
