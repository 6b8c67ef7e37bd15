"""A live job, the calls that wait for its results, and what all jobs of a batch share."""

from __future__ import annotations

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from logging import INFO, WARNING, getLogger
from math import inf
from typing import TYPE_CHECKING

from anyio import Event, Lock, sleep

from genbatch._core import waiting
from genbatch._logs import log
from genbatch._money import Attempt, Overrun
from genbatch._run import PaidCalls
from genbatch._store import Store, kept_request
from genbatch._values import (
    DamagedImage,
    Image,
    InvalidResponse,
    RateLimited,
    Rejected,
    SavedImage,
    Stopped,
    TimedOut,
    Unavailable,
)
from genbatch.gemini import job_price, job_share

from ._journal import JobRequest, Jobs, Spool

if TYPE_CHECKING:
    from ._service import BatchService

_log = getLogger("genbatch.run")

UNKNOWN = (Unavailable, TimedOut, InvalidResponse)  # what the service has done is not known
PASSING = (*UNKNOWN, RateLimited)
GONE = "GONE"

SUCCESSES = ("SUCCEEDED", "PARTIALLY_SUCCEEDED")
_ENDED = (*SUCCESSES, "FAILED", "CANCELLED", "EXPIRED")
_FIRST_POLL = 1 / 12  # of the longest pause between polls
_FAILED_POLLS = 20  # in a row
_LATEST_RESULTS = 600.0  # seconds that the results of an ended job are waited for in one run
# Seconds from a job's begin after which nothing is expected of it: it may take days, although 24
# hours are promised, and results are kept for two.
_LONGEST_LIFE = 7 * 86_400.0
# Estimated input tokens in a job. The service limits those of all jobs of a model that have not
# ended, for a new account to 1 to 2 million.
_MOST_TOKENS = 1_000_000
# Below this, it is not tokens that a job is refused for: smaller ones would be refused as well.
_FEWEST_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The status of a job at the service.

    Attributes:
        state: PENDING, RUNNING, SUCCEEDED, PARTIALLY_SUCCEEDED, FAILED, CANCELLED, EXPIRED, GONE if
            the service does not know the job, or any other state that it reports.
        output: Name of the file with its results, None without one.
        message: Why it failed, empty if unknown.
        has_answers: Whether the service says that it has answered any request.
    """

    state: str
    output: str | None = None
    message: str = ""
    has_answers: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether its results are final."""
        return self.state in _ENDED

    @property
    def lacks_results(self) -> bool:
        """Whether it has ended with results, but does not say yet where they are."""
        has_results = self.state in SUCCESSES or (self.has_ended and self.has_answers)
        return has_results and self.output is None


@dataclass(slots=True, eq=False)
class LiveJob:
    """A job, from its first request to its end.

    Attributes:
        model: Full id.
        label: Our name for it.
        spool: Its requests, if this process collected them; None for a job of an earlier process.
        id: Its number in the journal, 0 before it has one.
        file: The service's name for its file of requests, once known.
        uploaded: When that was uploaded, in seconds since the epoch.
        name: The service's name for the job, once known.
        state: Its latest known state.
        note: What it waits for, if that is worth telling.
        began: Seconds since the epoch.
        is_sent: Whether the service may have it.
        is_full: Set when no further request fits.
        waiters: The calls that wait for it, by their items.
        has_images: Whether it has brought any: then refusals are of single prompts.
    """

    model: str
    label: str
    spool: Spool | None = None
    id: int = 0
    file: str | None = None
    uploaded: float = 0.0
    name: str | None = None
    state: str = ""
    note: str = ""
    began: float = field(default_factory=time.time)
    is_sent: bool = False
    is_full: Event = field(default_factory=Event)
    waiters: dict[int, Waiter] = field(default_factory=dict)
    has_images: bool = False

    def settle(self, item: int, result: SavedImage | Exception | None) -> None:
        """Wake the call that waits for an item, if there is one."""
        self.has_images = self.has_images or isinstance(result, SavedImage)
        if (waiter := self.waiters.pop(item, None)) is not None:
            waiter.settle(result)

    def release(self, result: Exception | None) -> None:
        """Wake all calls that are still waiting."""
        for item in list(self.waiters):
            self.settle(item, result)


class Waiter:
    """A call that waits for a job's result.

    Attributes:
        result: The result; None until it is known, or if it is in the journal.
    """

    __slots__ = ("_settled", "item", "job", "result")

    def __init__(self, item: int, job: LiveJob) -> None:
        self.item = item
        self.job = job
        self.result: SavedImage | Exception | None = None
        self._settled = Event()
        job.waiters[item] = self

    def settle(self, result: SavedImage | Exception | None) -> None:
        """Wake the call."""
        # Each call its own: a raised one grows its traceback.
        self.result = copy.copy(result) if isinstance(result, Exception) else result
        self._settled.set()

    async def wait(self) -> SavedImage | None:
        """Wait for the result; return the image, or None if the journal has the result.

        Raises:
            Stopped: If the batch drains meanwhile.
            GenbatchError: If there is no image.
        """
        try:
            with waiting():
                await self._settled.wait()
        except Stopped:
            if self.result is None and self.job.is_sent:
                running = f"job {self.job.label} is still running at the service"
                raise Stopped(f"{running}: run again to collect it", maybe_paid=True) from None
            if self.result is None:
                raise
        finally:
            self.forget()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def forget(self) -> None:
        """Stop waiting."""
        if self.job.waiters.get(self.item) is self:
            del self.job.waiters[self.item]


@dataclass(slots=True)
class JobContext:
    """What all jobs of a batch share.

    Attributes:
        place: The store.
        calls: The live calls, with the batch's budget, price and breaker.
        poll: Most seconds between two polls of a job.
        watch: Called with a summary of the jobs whenever it changes.
        service: The service's batch queue, once the batch is entered.
        jobs: The jobs in the store's journal, once the batch is entered.
        live: Jobs that have not ended, by their numbers in the journal.
        turns: By model: held while a job is submitted, so that only one waits for room.
    """

    place: Store
    calls: PaidCalls
    poll: float
    watch: Callable[[str], object] | None
    service: BatchService = field(init=False)
    jobs: Jobs = field(init=False)
    live: dict[int, LiveJob] = field(default_factory=dict)
    turns: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))
    _most_tokens: dict[str, int] = field(default_factory=dict)
    _told: str = ""

    def most_tokens(self, model: str) -> int:
        """Return how many input tokens a job for a model may have."""
        return self._most_tokens.get(model, _MOST_TOKENS)

    def allow_half(self, job: LiveJob, tokens: int) -> bool:
        """Allow half the tokens of a refused job to its model's jobs, if smaller ones may fit.

        Return False where waiting is better: jobs of this model will make room when they end, or
        the job is so small that it cannot have been refused for its tokens.
        """
        others = (each for each in self.live.values() if each.model == job.model and each.name)
        half = max(_FEWEST_TOKENS, tokens // 2)
        if half >= tokens or any(each.state not in _ENDED for each in others):
            return False
        self._most_tokens[job.model] = min(half, self.most_tokens(job.model))
        return True

    def enter(self, job: LiveJob, state: str, note: str = "") -> None:
        """Set the state of a job, "" for one that is over, and what it waits for."""
        job.state, job.note = state, note
        if state:
            self.live[job.id] = job
        else:
            self.live.pop(job.id, None)
        if self.watch is not None and (line := self._summary()) != self._told:
            self._told = line
            self.watch(line)

    def _summary(self) -> str:
        if not self.live:
            return ""
        states = Counter(each.state.lower().replace("_", " ") for each in self.live.values())
        told = ", ".join(f"{number} {state}" for state, number in states.most_common())
        notes = "".join(sorted({f" ({each.note})" for each in self.live.values() if each.note}))
        return f"{len(self.live)} {'job' if len(self.live) == 1 else 'jobs'}: {told}{notes}"

    async def note(self, job: LiveJob, **columns: object) -> None:
        """Record new facts about a job in the journal."""
        await self.place.run_in_thread(lambda: self.jobs.note(job.id, **columns))

    def save(self, job: LiveJob, request: JobRequest, image: Image) -> SavedImage:
        """Save the image of a request; this blocks.

        Raises:
            StoreError: If it cannot be written.
        """
        attempt = self._paid(job.model, request, image.cost, image.images)
        image = replace(image, cost=None if attempt.price is None else attempt.cost)
        elapsed = max(0.0, time.time() - job.began)
        return self.place.archive.save(request.call, image, elapsed)

    def keep_damaged(self, job: LiveJob, request: JobRequest, error: DamagedImage) -> None:
        """Keep what came in place of the image of a request, in the folder only; this blocks.

        Raises:
            StoreError: If it cannot be written.
        """
        attempt = self._paid(job.model, request, error.cost, error.images)
        error.cost = None if attempt.price is None else attempt.cost
        self.place.archive.keep_damaged(request.call, error)
        error.data = None  # a job may have thousands

    def _paid(self, model: str, request: JobRequest, live: float | None, images: int) -> Attempt:
        """Return the attempt of a request as it ended, and note how far it exceeded its price.

        Args:
            model: Full id.
            request: Of a job that was sent.
            live: US dollars that the images would cost in a live call, None where unknown.
            images: How many came.
        """
        asked = replace(kept_request(request.content), model=model)
        attempt = Attempt(job_price(asked, self.calls.price), request.price)
        attempt.paid(None if live is None else live * job_share(model), images)
        if attempt.overrun is not None:
            request.call.overrun = (model, *attempt.overrun)
        return attempt

    def settle_earlier(
        self,
        job: LiveJob,
        request: JobRequest,
        images: int = 0,
        cost: float = 0.0,
        *,
        maybe_paid: bool,
    ) -> None:
        """Settle a request in the budget if an earlier process sent it: here, no call does.

        Args:
            job: The job of the request.
            request: Counted as possibly paid so far.
            images: How many came.
            cost: US dollars of them.
            maybe_paid: Whether it still counts as possibly paid.
        """
        if job.spool is not None:
            return
        budget = self.calls.budget
        if not maybe_paid:
            budget.maybe_images -= 1
            budget.maybe_spent = max(0.0, budget.maybe_spent - (request.price or 0.0))
        if request.call.overrun is not None:
            model, most, ratio, excess = request.call.overrun
            budget.expect(model, Overrun(most, ratio, excess))
        budget.images += images
        budget.spent += cost


async def wait_for_end(context: JobContext, job: LiveJob) -> JobStatus:
    """Wait until a job has ended and says where its results are.

    Raises:
        Unavailable: If it does not say so for some minutes; it may later.
        GenbatchError: If the service cannot be asked.
    """
    if job.spool is not None:
        context.enter(job, "PENDING")
        await sleep(context.poll * _FIRST_POLL)
    status = await _poll(context, job, lambda status: status.has_ended, inf)
    if status.lacks_results:
        log(_log, INFO, "job %s has ended, but its results are not available yet", job.label)
        context.enter(job, status.state, "waiting for its results")
        status = await _poll(context, job, lambda status: not status.lacks_results, _LATEST_RESULTS)
    if not (status.lacks_results and status.state in SUCCESSES):
        return status
    if time.time() - job.began > _LONGEST_LIFE:
        return JobStatus(GONE)
    late = f"job {job.label} succeeded, but its results are not available yet"
    raise Unavailable(f"{late}: run again to collect them", maybe_paid=True)


async def _poll(
    context: JobContext, job: LiveJob, is_final: Callable[[JobStatus], bool], patience: float
) -> JobStatus:
    """Poll a job with growing intervals and return its final status, or the last in patience."""
    pause, waited, failed = context.poll * _FIRST_POLL, 0.0, 0
    while True:
        try:
            status = await context.service.look(job.name or "")
        except Rejected as error:
            if error.status != 404:
                raise
            return JobStatus(GONE)
        except PASSING as error:
            failed += 1
            if failed >= _FAILED_POLLS:
                raise
            log(_log, WARNING, "the state of job %s is unknown", job.label, error=error)
        else:
            failed = 0
            if status.state != job.state:
                await context.note(job, state=status.state)
                context.enter(job, status.state)
            if is_final(status) or waited >= patience:
                return status
        await sleep(pause)
        waited += pause
        pause = min(2 * pause, context.poll)
