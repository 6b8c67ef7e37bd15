"""Submitting a job: each step is in the journal before the next, so a kill after any is safe.

1. Rows: the job, and its requests as attempts. Killed here, the job is forgotten by the next run.
2. The file is uploaded, and its name recorded.
3. The job is created with our label as its display name, and its own name recorded. If the answer
   is lost, the label is looked up at the service before anything else. If the service does not know
   it, the file is deleted and the label is looked up again: a late create then finds no file.
4. Where the service has no room (429), the job waits its turn, and the jobs of its model behind it.
   If waiting may not help, since no other job will make room, the job is forgotten, and its
   requests are divided among smaller ones.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from logging import INFO, WARNING, getLogger

from anyio import sleep

from genbatch._logs import log
from genbatch._values import GenbatchError, RateLimited, Rejected, Stopped, Unauthorized
from genbatch.gemini import backoff

from ._job import UNKNOWN, JobContext, LiveJob
from ._journal import Spool
from ._references import OLDEST

_log = getLogger("genbatch.run")

_LONGEST_PAUSE = 600.0  # seconds


def new_label() -> str:
    """Return a label that no other job has, in any directory."""
    return f"genbatch-{secrets.token_hex(8)}"


async def submit(context: JobContext, job: LiveJob, spool: Spool) -> bool:
    """Submit a job when it is its turn.

    Returns:
        False if the service does not have the job, and the journal no longer: no call is waiting
        for it, or its requests are to be put into other jobs.

    Raises:
        Stopped: If the service refuses such a job; the error has a status.
        GenbatchError: If it could not be submitted.
    """
    if not job.waiters or _must_be_written_anew(context, job, spool):
        return False
    job.id = await context.place.run_in_thread(
        context.jobs.add, job.label, job.model, spool.requests
    )
    context.enter(job, "NEW")
    lost = 0  # creates of which nothing is known
    while job.name is None:
        await _upload(context, job, spool)
        if not job.waiters or _must_be_written_anew(context, job, spool):
            await _drop(context, job)
            return False
        job.is_sent = True
        error = await _create(context, job)
        if isinstance(error, RateLimited):
            if await _divide_or_wait(context, job, spool, error):
                return False
        elif error is not None:
            job.is_sent = False
            lost += 1
            await _prepare_another_create(context, job, error, lost)
    log(_log, INFO, "job %s has %d requests", job.label, len(spool.requests))
    return True


def _must_be_written_anew(context: JobContext, job: LiveJob, spool: Spool) -> bool:
    """Return whether a job has become too large, or refers to images that may soon be gone."""
    is_large = len(spool.requests) > 1 and spool.tokens > context.most_tokens(job.model)
    return is_large or time.time() - spool.oldest_reference > OLDEST


async def _divide_or_wait(
    context: JobContext, job: LiveJob, spool: Spool, error: RateLimited
) -> bool:
    """Forget a job for which there is no room so that its requests are divided, or wait for room.

    Returns:
        Whether it is forgotten.
    """
    if len(spool.requests) > 1 and context.allow_half(job, spool.tokens):
        log(_log, WARNING, "no room for job %s: dividing it", job.label, error=error)
        job.is_sent = await recover(context, job)
        return not job.is_sent
    job.is_sent = False
    # Asking again costs nothing, and room may be made earlier than the service thinks.
    pause = context.poll if error.retry_after is None else min(error.retry_after, _LONGEST_PAUSE)
    context.enter(job, "NEW", f"waiting for room: {error}")
    log(_log, WARNING, "no room for job %s, next try in %.1f s", job.label, pause, error=error)
    await sleep(pause)
    return False


async def _prepare_another_create(
    context: JobContext, job: LiveJob, error: GenbatchError, lost: int
) -> None:
    """Wait before another create of a job, under another label: a late one may still arrive."""
    if not isinstance(error, UNKNOWN) or lost > context.service.max_retries:
        await _drop(context, job)
        raise _refusal(job, error) from error
    pause = backoff(lost)
    job.label, job.file = new_label(), None
    await context.note(job, label=job.label, file=None)
    log(_log, WARNING, "submitting job %s again in %.1f s", job.label, pause, error=error)
    await sleep(pause)


async def _upload(context: JobContext, job: LiveJob, spool: Spool) -> None:
    """Upload the file of a job, unless the service has it and will keep it long enough."""
    if job.file is not None and time.time() - job.uploaded < OLDEST:
        return
    job.uploaded = time.time()
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
        # It may be gone: the service answers 403 then, as it would to a wrong key, with which it
        # would not have answered the look-up.
        with suppress(Rejected, Unauthorized):
            await context.service.delete(job.file)
        name = await context.service.find(job.label)
    return name


async def _drop(context: JobContext, job: LiveJob) -> None:
    await context.place.run_in_thread(context.jobs.drop, job.id)


def _refusal(job: LiveJob, error: GenbatchError) -> GenbatchError:
    """Return the error for the calls: refusing a job says nothing about its requests."""
    if not isinstance(error, Rejected):
        return error
    return Stopped(
        f"the service did not accept a job for {job.model}: {error}", status=error.status
    )
