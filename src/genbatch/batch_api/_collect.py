"""Collecting a job's results: line by line, each image saved before anybody sees it.

1. The first image of a request counts, and an error only if there is no image: lines may come in
   any order, more than once, or with unknown keys.
2. Taking the last lines and finishing the job are one step: a batch that ends with its last image
   leaves no unfinished job behind.
3. If the results cannot be read to the end, the job stays live; the next read skips what was saved.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from logging import INFO, WARNING, getLogger

from anyio import CancelScope, move_on_after, sleep

from genbatch._logs import log
from genbatch._store import kept_request
from genbatch._values import (
    DamagedImage,
    GenbatchError,
    InvalidResponse,
    Rejected,
    SavedImage,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import backoff

from ._job import GONE, PASSING, SUCCESSES, JobContext, JobStatus, LiveJob
from ._journal import JobRequest

_log = getLogger("genbatch.run")

_MOST_LINES, _MOST_BYTES = 256, 1_000_000  # that a thread reads in one go
_TIDYING = 5.0  # seconds
_KEPT = "results are kept for 48 hours"
_KEPT_SECONDS = 48 * 3600.0

# Only ever a name: within a string of JSON its quotes would be escaped.
_KEY = re.compile(rb'"key"\s*:\s*"([^"\\]{1,200})"')


@dataclass(slots=True)
class Results:
    """The results of a job, taken line by line.

    Attributes:
        context: Reads and saves the images.
        job: The job.
        pending: Requests without an image, by their keys.
        errors: The errors of their lines, by their keys.
        strays: Number of lines whose keys are not pending.
    """

    context: JobContext
    job: LiveJob
    pending: dict[str, JobRequest] = field(default_factory=dict)
    errors: dict[str, GenbatchError] = field(default_factory=dict)
    strays: int = 0

    def take(self, lines: list[bytes]) -> list[tuple[JobRequest, SavedImage]]:
        """Take lines; return what was saved. This blocks."""
        saved = []
        for line in lines:
            key = key_in(line, self.pending.__contains__)
            if key is None:
                self.strays += 1
                continue
            request = self.pending[key]
            asked = replace(kept_request(request.content), model=self.job.model)
            try:
                image = self.context.service.read_result(line, asked, self.context.calls.price)
            except GenbatchError as error:
                if isinstance(error, DamagedImage):
                    self.context.keep_damaged(self.job, request, error)
                self.errors.setdefault(key, error)
                continue
            saved.append((request, self.context.save(self.job, request, image)))
            del self.pending[key]
        return saved

    def settle(self, saved: list[tuple[JobRequest, SavedImage]]) -> None:
        """Wake the calls whose images are saved."""
        for request, image in saved:
            images, cost = image.images, image.cost or 0.0
            self.context.settle_earlier(self.job, request, images, cost, maybe_paid=False)
            self.job.settle(request.call.plan.item, image)


async def collect(context: JobContext, job: LiveJob, status: JobStatus) -> None:
    """Save the results of an ended job, wake its calls, and finish it.

    Raises:
        StoreError: If the disk is full or fails; the job stays live.
        GenbatchError: If the results cannot be read; the job stays live.
    """
    results = Results(context, job)
    last: list[bytes] = []
    if status.output is not None:
        try:
            results, last = await _read(context, job, status.output)
        except (Rejected, Unauthorized) as refusal:
            if not _means_gone(job, refusal):
                raise
            status = JobStatus(GONE, status.output)
    # Shielded, since the batch may end now: its prompts may have found their images in the journal.
    with CancelScope(shield=True):
        await _finish(results, status, last)
    with move_on_after(_TIDYING, shield=True):
        for file in (job.file, status.output):
            if file is not None:
                with suppress(GenbatchError):
                    await context.service.delete(file)


def _means_gone(job: LiveJob, refusal: GenbatchError) -> bool:
    """Return whether a job's results are gone, which the service may answer with 403 as well.

    Raises:
        Unavailable: If they should be there still.
    """
    if refusal.status == 403 and time.time() - job.began < _KEPT_SECONDS:
        # The key is not wrong: the service has just answered to it.
        early = f"the results of job {job.label} cannot be read yet"
        raise Unavailable(f"{early}: {refusal}") from refusal
    return refusal.status in (403, 404)


async def _finish(results: Results, status: JobStatus, last: list[bytes]) -> None:
    """Take the last lines and finish the job; this waits for the disk only."""
    context, job = results.context, results.job
    saved = await context.place.run_in_thread(results.take, last)
    if results.strays:
        log(_log, INFO, "ignored %d lines in the results of job %s", results.strays, job.label)
    pending = await context.place.run_in_thread(context.jobs.pending, job.id)
    missing = _missing(job, status)
    failures = [
        (results.pending.get(key, request), results.errors.get(key, missing))
        for key, request in pending.items()
    ]
    await context.place.run_in_thread(context.jobs.finish, job.id, status.state, failures)
    results.settle(saved)
    for request, error in failures:
        if isinstance(error, DamagedImage):
            cost = request.price if error.cost is None else error.cost
            context.settle_earlier(job, request, error.images, cost or 0.0, maybe_paid=False)
        else:
            context.settle_earlier(job, request, maybe_paid=error.maybe_paid)
        job.settle(request.call.plan.item, error)
    log(_log, INFO, "job %s has ended: %s", job.label, status.state.lower())


async def _read(context: JobContext, job: LiveJob, file: str) -> tuple[Results, list[bytes]]:
    """Read results to their end, from the beginning again if they are cut off.

    Returns:
        The results, and the last lines, which are still to be taken.
    """
    for made in count(1):
        pending = await context.place.run_in_thread(context.jobs.pending, job.id)
        results = Results(context, job, pending)
        try:
            return results, await _take_all(results, context.service.lines(file))
        except PASSING as error:
            if made > context.service.max_retries:
                raise
            log(_log, WARNING, "reading the results of job %s again", job.label, error=error)
            await sleep(backoff(made))
    raise AssertionError  # count has no end


async def _take_all(results: Results, lines: AsyncGenerator[bytes]) -> list[bytes]:
    """Take lines in chunks, all but the last one, and return that."""
    chunk: list[bytes] = []
    size = 0
    saved: list[tuple[JobRequest, SavedImage]] = []
    try:
        async with aclosing(lines):
            async for line in lines:
                if len(chunk) >= _MOST_LINES or size >= _MOST_BYTES:
                    results.settle(saved)
                    saved = await results.context.place.run_in_thread(results.take, chunk)
                    chunk, size = [], 0
                chunk.append(line)
                size += len(line)
    finally:
        results.settle(saved)
    return chunk


def _missing(job: LiveJob, status: JobStatus) -> GenbatchError:
    """Return the error of a request without a line in the results."""
    if status.state == GONE:
        what = f"the service no longer has job {job.label} or its results ({_KEPT})"
        return InvalidResponse(f"{what}: another try is paid again", maybe_paid=True)
    if status.state in SUCCESSES:
        what = f"job {job.label} returned no result for this prompt"
        return InvalidResponse(what, maybe_paid=True)
    told = f": {status.message}" if status.message else ""
    # Answers that never came may have been images.
    maybe_paid = status.lacks_results
    return Unavailable(f"job {job.label} ended as {status.state}{told}", maybe_paid=maybe_paid)


def key_in(line: bytes, known: Callable[[str], bool]) -> str | None:
    """Return the first known key in a line, without parsing the line."""
    for found in _KEY.finditer(line):
        if known(key := found[1].decode("ascii", "replace")):
            return key
    return None
