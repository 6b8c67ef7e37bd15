"""Looking at a job until it has ended, ever more seldom."""

from __future__ import annotations

from logging import WARNING, getLogger

from anyio import sleep

from genbatch._logs import tell
from genbatch._values import InvalidResponse, RateLimited, Rejected, TimedOut, Unavailable

from ._collect import GONE
from ._job import Common, Job
from ._operations import Seen

_log = getLogger("genbatch.run")

_FIRST_LOOK = 1 / 12  # of the longest pause between looks
_FAILED_LOOKS = 20  # in a row
_PASSING = (Unavailable, TimedOut, InvalidResponse, RateLimited)


async def wait_for_end(common: Common, job: Job) -> Seen:
    """Look at a job again and again until it has ended."""
    pause, failed = common.poll * _FIRST_LOOK, 0
    if job.spool is not None:
        common.enter(job, "PENDING")
        await sleep(pause)
    while True:
        try:
            seen = await common.batches.look(job.name or "")
        except Rejected as error:
            if error.status != 404:
                raise
            return Seen(GONE)
        except _PASSING as error:
            failed += 1
            if failed >= _FAILED_LOOKS:
                raise
            tell(_log, WARNING, "job %s cannot be looked at", job.label, error=error)
        else:
            failed = 0
            await _note(common, job, seen.state)
            if seen.has_ended:
                return seen
        await sleep(pause)
        pause = min(2 * pause, common.poll)


async def _note(common: Common, job: Job, state: str) -> None:
    if state != job.state:
        await common.place.hop(lambda: common.jobs.note(job.id, state=state))
        common.enter(job, state)
