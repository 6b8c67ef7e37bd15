"""Collecting what a job has brought: line by line, each image saved before anybody sees it.

1. The first image of a request counts, and an error only where none comes: lines may come in any
   order, twice, or for nothing that was asked.
2. The last lines are taken, and the job is finished, as one: so a batch that ends with its last
   image leaves no job behind that is not.
3. Where lines cannot be read to their end, the job stays live; what is saved is skipped next time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from logging import INFO, WARNING, getLogger
from typing import TypeAlias

from anyio import CancelScope, move_on_after, sleep

from genbatch._logs import tell
from genbatch._values import (
    GenbatchError,
    Image,
    InvalidResponse,
    RateLimited,
    Rejected,
    SavedImage,
    TimedOut,
    Unavailable,
)
from genbatch.gemini import backoff

from ._job import Common, Job
from ._journal import Sent
from ._lines import key_in
from ._operations import Seen

_log = getLogger("genbatch.run")

GONE = "GONE"
_PASSING = (Unavailable, TimedOut, InvalidResponse, RateLimited)
_MOST_LINES, _MOST_BYTES = 256, 1_000_000  # that a thread reads in one go
_TIDYING = 5.0  # seconds
_KEPT = "the service keeps them for 48 hours"

Save: TypeAlias = Callable[[Sent, Image], SavedImage]


@dataclass(slots=True)
class Results:
    """Lines of results, taken one after the other; this blocks.

    Attributes:
        model: Full id of the model asked.
        read: Makes the image of a line for a model, or raises why it has none.
        save: Makes an image durable.
        pending: Requests without an image, by their keys.
        errors: What their lines say, by their keys.
        strays: Lines for nothing that is pending.
    """

    model: str
    read: Callable[[bytes, str], Image]
    save: Save
    pending: dict[str, Sent]
    errors: dict[str, GenbatchError] = field(default_factory=dict)
    strays: int = 0

    def take(self, lines: list[bytes]) -> list[tuple[Sent, SavedImage]]:
        """Take lines, and return what was saved."""
        saved = []
        for line in lines:
            key = key_in(line, self.pending.__contains__)
            if key is None:
                self.strays += 1
                continue
            try:
                image = self.read(line, self.model)
            except GenbatchError as error:
                self.errors.setdefault(key, error)
                continue
            saved.append((self.pending[key], self.save(self.pending[key], image)))
            del self.pending[key]
        return saved


async def collect(common: Common, job: Job, seen: Seen) -> None:
    """Save what an ended job has brought, let its calls go on, and finish it.

    Raises:
        StoreError: If the disk takes no more; the job stays live.
        GenbatchError: If its results could not be read; the job stays live.
    """
    results: Results | None = None
    last: list[bytes] = []
    if seen.output is not None:
        try:
            results, last = await _read(common, job, seen.output)
        except Rejected as refusal:
            if refusal.status != 404:
                raise
            seen = Seen(GONE, seen.output)
    # Some of the batch's prompts may have found their images in the journal: it may end now.
    with CancelScope(shield=True):
        await _finish(common, job, seen, results, last)
    with move_on_after(_TIDYING, shield=True):
        for file in (job.file, seen.output):
            if file is not None:
                with suppress(GenbatchError):
                    await common.batches.delete(file)


async def _finish(
    common: Common, job: Job, seen: Seen, results: Results | None, last: list[bytes]
) -> None:
    """Take the last lines, and end the job; this waits for the disk only."""
    saved = [] if results is None else await common.place.hop(results.take, last)
    errors = {} if results is None else results.errors
    if results is not None and results.strays:
        tell(_log, INFO, "job %s has %d lines for nothing", job.label, results.strays)
    pending = await common.place.hop(common.jobs.pending, job.id)
    missing = _missing(job, seen)
    failures = [(sent, errors.get(key, missing)) for key, sent in pending.items()]
    await common.place.hop(common.jobs.finish, job.id, seen.state, failures)
    _go_on(common, job, saved)
    for sent, error in failures:
        if job.spool is None:
            common.settle_earlier(sent, None, maybe_paid=error.maybe_paid)
        common.waiters.settle(sent.call.plan.item, error)
    tell(_log, INFO, "job %s has ended, %s", job.label, seen.state.lower())


async def _read(common: Common, job: Job, file: str) -> tuple[Results, list[bytes]]:
    """Read results to their end, from the beginning again where they are cut off.

    Returns:
        All of them, and the last lines, which are still to be taken.
    """
    for made in count(1):
        pending = await common.place.hop(common.jobs.pending, job.id)
        save = partial(common.save, job)
        results = Results(job.model, common.batches.read_result, save, pending)
        try:
            return results, await _take_all(common, job, results, common.batches.lines(file))
        except _PASSING as error:
            if made > common.batches.max_retries:
                raise
            tell(_log, WARNING, "the results of job %s are read again", job.label, error=error)
            await sleep(backoff(made))
    raise AssertionError  # count has no end


async def _take_all(
    common: Common, job: Job, results: Results, lines: AsyncGenerator[bytes]
) -> list[bytes]:
    """Take lines in chunks but for the last one, and return that."""
    chunk: list[bytes] = []
    size = 0
    saved: list[tuple[Sent, SavedImage]] = []
    try:
        async with aclosing(lines):
            async for line in lines:
                if len(chunk) >= _MOST_LINES or size >= _MOST_BYTES:
                    _go_on(common, job, saved)
                    saved = await common.place.hop(results.take, chunk)
                    chunk, size = [], 0
                chunk.append(line)
                size += len(line)
    finally:
        _go_on(common, job, saved)
    return chunk


def _go_on(common: Common, job: Job, saved: list[tuple[Sent, SavedImage]]) -> None:
    """Let calls go on whose images are saved."""
    for sent, image in saved:
        if job.spool is None:
            common.settle_earlier(sent, image.cost or 0.0, maybe_paid=False)
        common.waiters.settle(sent.call.plan.item, image)


def _missing(job: Job, seen: Seen) -> GenbatchError:
    """Return why a request has no line in what a job has brought."""
    if seen.state == GONE:
        what = f"job {job.label}, or its results, are gone from the service ({_KEPT})"
        return InvalidResponse(f"{what}: asked for again, it is paid again", maybe_paid=True)
    if seen.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED"):
        return InvalidResponse(f"job {job.label} has brought nothing for it", maybe_paid=True)
    told = f": {seen.message}" if seen.message else ""
    return Unavailable(f"job {job.label} has ended as {seen.state}{told}")
