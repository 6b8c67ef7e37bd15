"""Submitting a job: each step is in the journal before the next, so any of them may be the last.

1. Rows: the job, and its requests as attempts. Killed here, it is forgotten by the next run.
2. The file is uploaded, and its name noted.
3. The job is created with our label for its display name, and its own name noted. Where the answer
   is lost, the service is asked for the label before anything else is done. Where it does not know
   it, the file is deleted, and it is asked again: a create that comes late then finds nothing.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from itertools import count
from logging import INFO, WARNING, getLogger

from anyio import sleep

from genbatch._logs import tell
from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    RateLimited,
    Rejected,
    Stopped,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import backoff

from ._job import Common, Job
from ._journal import Spool

_log = getLogger("genbatch.run")

UNKNOWN = (Unavailable, TimedOut, InvalidResponse)  # what the service has done is not known


def new_label() -> str:
    """Return a label that no other job has, of whatever directory."""
    return f"genbatch-{secrets.token_hex(8)}"


async def submit(common: Common, job: Job, spool: Spool) -> bool:
    """Send a job, and return whether it was: not if nobody waits for it any more.

    Raises:
        Stopped: If the service refuses such a job; it has a status.
        GenbatchError: If it could not be sent.
    """
    if not common.waiters.has(job):
        return False
    job.id = await common.place.hop(common.jobs.add, job.label, job.model, spool.requests)
    common.enter(job, "NEW")
    for made in count(1):
        if job.file is None:
            await _upload(common, job, spool)
        if not common.waiters.has(job):
            await _drop(common, job)
            return False
        job.is_sent = True
        if (error := await _create(common, job)) is None:
            break
        job.is_sent = False
        if isinstance(error, RateLimited):
            pause = common.poll if error.retry_after is None else error.retry_after
        elif isinstance(error, UNKNOWN) and made <= common.batches.max_retries:
            pause = backoff(made)
            # Under the old one a create may still come late, and fail.
            job.label, job.file = new_label(), None
            await _note(common, job, label=job.label, file=None)
        else:
            await _drop(common, job)
            raise _refusal(job, error) from error
        tell(_log, WARNING, "job %s is sent again in %.1f s", job.label, pause, error=error)
        await sleep(pause)
    tell(_log, INFO, "job %s has %d requests", job.label, len(spool.requests))
    return True


async def _upload(common: Common, job: Job, spool: Spool) -> None:
    try:
        job.file = await common.batches.upload(spool.path, job.label)
    except GenbatchError as error:
        await _drop(common, job)
        raise _refusal(job, error) from error
    await _note(common, job, file=job.file)


async def _create(common: Common, job: Job) -> GenbatchError | None:
    """Create a job and note its name; return why there is none, and never will be.

    Raises:
        GenbatchError: If that cannot be found out.
    """
    assert job.file is not None  # noqa: S101 - narrows the type
    try:
        job.name = await common.batches.create(job.model, job.file, job.label)
    except Unauthorized as error:
        return error
    except UNKNOWN as error:
        if (name := await _find(common, job)) is None:
            return error
        job.name = name
    except GenbatchError as error:  # refused: but even that may have come after the job
        if (name := await common.batches.find(job.label)) is None:
            return error
        job.name = name
    await _note(common, job, name=job.name)
    return None


async def recover(common: Common, job: Job) -> bool:
    """Find a job of which it is not known whether the service has it; return whether it has.

    Raises:
        GenbatchError: If the service cannot be asked.
    """
    job.name = await _find(common, job)
    if job.name is not None:
        await _note(common, job, name=job.name)
        return True
    for sent in (await common.place.hop(common.jobs.pending, job.id)).values():
        common.settle_earlier(sent, None, maybe_paid=False)
    await _drop(common, job)
    return False


async def _find(common: Common, job: Job) -> str | None:
    """Return the name of a job that may be there; None if it is not, and never will be."""
    name = await common.batches.find(job.label)
    if name is None and job.file is not None:
        with suppress(Rejected):  # it is gone
            await common.batches.delete(job.file)
        name = await common.batches.find(job.label)
    return name


async def _note(common: Common, job: Job, **columns: object) -> None:
    await common.place.hop(lambda: common.jobs.note(job.id, **columns))


async def _drop(common: Common, job: Job) -> None:
    await common.place.hop(common.jobs.drop, job.id)


def _refusal(job: Job, error: GenbatchError) -> GenbatchError:
    """Return what calls fail with: a job that is refused says nothing of its requests."""
    if not isinstance(error, Rejected):
        return error
    return Stopped(f"the service takes no job for {job.model}: {error}", status=error.status)
