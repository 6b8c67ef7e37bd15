"""Submitting a job: each step is in the journal before the next, so a kill after any is safe.

1. Rows: the job, and its requests as attempts. Killed here, the job is forgotten by the next run.
2. The file is uploaded, and its name recorded.
3. The job is created with our label as its display name, and its own name recorded. If the answer
   is lost, the label is looked up at the service before anything else. If the service does not know
   it, the file is deleted and the label is looked up again: a late create then finds no file.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from itertools import count
from logging import INFO, WARNING, getLogger

from anyio import sleep

from genbatch._logs import log
from genbatch._values import GenbatchError, RateLimited, Rejected, Stopped, Unauthorized
from genbatch.gemini import backoff

from ._job import UNKNOWN, JobContext, LiveJob
from ._journal import Spool

_log = getLogger("genbatch.run")


def new_label() -> str:
    """Return a label that no other job has, in any directory."""
    return f"genbatch-{secrets.token_hex(8)}"


async def submit(context: JobContext, job: LiveJob, spool: Spool) -> bool:
    """Submit a job; forget it and return False if no call is waiting for it any more.

    Raises:
        Stopped: If the service refuses such a job; the error has a status.
        GenbatchError: If it could not be submitted.
    """
    if not job.waiters:
        return False
    job.id = await context.place.run_in_thread(
        context.jobs.add, job.label, job.model, spool.requests
    )
    context.enter(job, "NEW")
    for made in count(1):
        if job.file is None:
            await _upload(context, job, spool)
        if not job.waiters:
            await _drop(context, job)
            return False
        job.is_sent = True
        if (error := await _create(context, job)) is None:
            break
        job.is_sent = False
        if isinstance(error, RateLimited):
            pause = context.poll if error.retry_after is None else error.retry_after
        elif isinstance(error, UNKNOWN) and made <= context.service.max_retries:
            pause = backoff(made)
            # Under the old label a create may still arrive late, and fail.
            job.label, job.file = new_label(), None
            await context.note(job, label=job.label, file=None)
        else:
            await _drop(context, job)
            raise _refusal(job, error) from error
        log(_log, WARNING, "job %s is sent again in %.1f s", job.label, pause, error=error)
        await sleep(pause)
    log(_log, INFO, "job %s has %d requests", job.label, len(spool.requests))
    return True


async def _upload(context: JobContext, job: LiveJob, spool: Spool) -> None:
    try:
        job.file = await context.service.upload(spool.path, job.label)
    except GenbatchError as error:
        await _drop(context, job)
        raise _refusal(job, error) from error
    await context.note(job, file=job.file)


async def _create(context: JobContext, job: LiveJob) -> GenbatchError | None:
    """Create a job and record its name; return the error if there is no job and never will be.

    Raises:
        GenbatchError: If it cannot be known.
    """
    assert job.file is not None  # noqa: S101 - narrows the type
    try:
        job.name = await context.service.create(job.model, job.file, job.label)
    except Unauthorized as error:
        return error
    except GenbatchError as error:  # even a refusal may follow the job's creation
        is_unknown = isinstance(error, UNKNOWN)
        job.name = await (_find(context, job) if is_unknown else context.service.find(job.label))
        if job.name is None:
            return error
    await context.note(job, name=job.name)
    return None


async def recover(context: JobContext, job: LiveJob) -> bool:
    """Look up a job that the service may not have; return whether it has it.

    Raises:
        GenbatchError: If the service cannot be asked.
    """
    job.name = await _find(context, job)
    if job.name is not None:
        await context.note(job, name=job.name)
        return True
    for request in (await context.place.run_in_thread(context.jobs.pending, job.id)).values():
        context.settle_earlier(job, request, maybe_paid=False)
    await _drop(context, job)
    return False


async def _find(context: JobContext, job: LiveJob) -> str | None:
    """Return the name of a job that may exist; None if it does not and never will."""
    name = await context.service.find(job.label)
    if name is None and job.file is not None:
        with suppress(Rejected):  # it is gone
            await context.service.delete(job.file)
        name = await context.service.find(job.label)
    return name


async def _drop(context: JobContext, job: LiveJob) -> None:
    await context.place.run_in_thread(context.jobs.drop, job.id)


def _refusal(job: LiveJob, error: GenbatchError) -> GenbatchError:
    """Return the error for the calls: refusing a job says nothing about its requests."""
    if not isinstance(error, Rejected):
        return error
    return Stopped(f"the service takes no job for {job.model}: {error}", status=error.status)
