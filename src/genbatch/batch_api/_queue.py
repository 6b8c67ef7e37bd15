"""Queue: calls that wait in jobs of the service's batch queue, and the tasks that run those jobs.

A call adds its request to a file for its model, and waits. A file that is full, or has received no
request for a while, becomes a job with a task of its own, which submits, polls and collects it. If
the service has no room for a job of that size, its calls add their requests to smaller ones.
Calls wait as for a rate limit: they are not in flight, and a batch that drains drops them. Their
jobs continue at the service, and the next run into the directory picks them up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import copy_context
from copy import copy
from logging import WARNING, getLogger
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, Lock, create_task_group, move_on_after
from anyio.abc import TaskGroup

from genbatch._core import waiting, without_cancellation
from genbatch._logs import log, log_context
from genbatch._run import RunBreaker, Service, warn_if_smaller
from genbatch._store import BegunCall, Plan, Store
from genbatch._values import (
    DamagedImage,
    GenbatchError,
    ImageRequest,
    InvalidResponse,
    QuotaExhausted,
    Rejected,
    SavedImage,
    Stopped,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import job_price

from ._collect import collect
from ._job import PASSING, JobContext, LiveJob, Waiter, wait_for_end
from ._journal import JobRequest, Jobs, Spool
from ._references import References
from ._submit import new_label, recover, submit

if TYPE_CHECKING:
    from ._service import BatchService

_log = getLogger("genbatch.run")

# The service's own limit is 2 GB a file: half of it allows for its counting differently.
_MOST_BYTES = 1_000_000_000
_LINGER = 1.0  # seconds without a further request after which a job is submitted
_MOST_QUIET = 10  # times _LINGER that calls on their way are waited for
_AT_ONCE = 4  # requests in memory on their way to a file
_TOKENS_PER_IMAGE = 1_120  # of an input image, whatever its size
_BYTES_PER_TOKEN = 3  # of text: a little less than usual in English, so that jobs rather end early
_TIDYING = 5.0  # seconds


class Queue:
    """Makes the images of one batch with jobs, while running is entered.

    Args:
        context: Its store is open when running is entered.
        job_size: Most requests in one job.
        live: Most live calls at once where jobs could not make an image, 0 for none.
    """

    _tasks: TaskGroup
    _has_earlier: bool  # whether jobs of earlier runs are live

    def __init__(self, context: JobContext, *, job_size: int, live: int) -> None:
        self._context = context
        self._calls = context.calls
        self._place = context.place
        self._job_size = job_size
        self._live = CapacityLimiter(live) if live else None
        self._arriving = 0  # calls on their way to a file: a quiet job waits for them
        self._open: dict[str, LiveJob] = {}  # by model: jobs that take further requests
        self._failed: dict[int, Exception] = {}  # why live jobs were given up

    @property
    def service(self) -> Service:
        """What makes live calls."""
        return self._calls.service

    @property
    def breaker(self) -> RunBreaker:
        """The breaker of the batch."""
        return self._calls.breaker

    @asynccontextmanager
    async def running(self, service: BatchService) -> AsyncGenerator[None]:
        """Run jobs inside the block, including those of earlier runs."""
        # The tasks' own: started in the context of a call, they would drain with it.
        self._variables = copy_context()
        self._few = CapacityLimiter(_AT_ONCE)
        self._lock = Lock()
        if self._place.has_queue:
            raise RuntimeError("another batch is already running the jobs of this store")
        self._place.has_queue = True
        error: BaseException | None = None
        try:
            async with create_task_group() as self._tasks:
                try:
                    await self._begin(service)
                    yield
                except BaseException as exc:
                    # Let through the task group, it would arrive wrapped in a group of its own.
                    if (error := without_cancellation(exc)) is None:
                        raise
                finally:
                    self._tasks.cancel_scope.cancel()
            if error is None:
                await self._delete_references()
        finally:
            self._place.has_queue = False
            # Not lost where an outer scope was cancelled meanwhile.
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame

    async def _begin(self, service: BatchService) -> None:
        jobs, budget = Jobs(self._place.archive), self._calls.budget
        self._context.service, self._context.jobs = service, jobs
        self._references = References(service)
        earlier = await self._place.run_in_thread(jobs.live)
        for attempt, usd in await self._place.run_in_thread(jobs.open_prices):
            if (self._place.directory, attempt) not in budget.in_jobs:
                budget.in_jobs.add((self._place.directory, attempt))
                budget.maybe_images += 1
                budget.maybe_spent += usd
        self._has_earlier = bool(earlier)
        for columns in earlier:
            job = LiveJob(**columns, is_sent=True)
            self._context.enter(job, job.state)
            self._start(job)

    async def _delete_references(self) -> None:
        """Delete the uploaded images, unless a job that is still running may refer to them."""
        if not self._references.has_uploads:
            return
        number, _ = await self._place.run_in_thread(self._context.jobs.open_attempts)
        if not number:
            with move_on_after(_TIDYING):
                await self._references.delete()

    async def save_image(self, store: Store, plan: Plan, request: ImageRequest) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""
        try:
            return await self._save_image(store, plan, request)
        finally:
            if messages := self.breaker.take_refusals():
                await store.forget_refusals(messages)

    async def _save_image(self, store: Store, plan: Plan, request: ImageRequest) -> SavedImage:
        self.breaker.check(request.model)
        watched = self._calls.watching(request)
        with log_context(key=plan.key), watched as watch, self._arrival() as arrived:
            async with store.pending(plan) as pending:
                if isinstance(pending, SavedImage):
                    return pending
                call = pending.call
                try:
                    with _observe(self.breaker, request.model):
                        saved = await self._make(call, request, arrived)
                    if watch is not None:
                        watch.saved(saved)
                    warn_if_smaller(request, saved)
                    return saved
                except GenbatchError as error:
                    if self._live is None or not _may_pass(error):
                        raise
                    if await self._job_of(call) is not None:
                        raise  # that job may still return the image
                with waiting():
                    await self._live.acquire()
                try:
                    saved = await pending.save(await self._calls.make_image(request, pending))
                finally:
                    self._live.release()
                if watch is not None:
                    watch.saved(saved)
                return saved

    @contextmanager
    def _arrival(self) -> Iterator[Callable[[], None]]:
        """Count a call as on its way inside the block, until the function it gets is called."""
        self._arriving += 1
        with ExitStack() as stack:
            stack.callback(self._arrive)
            yield stack.close

    def _arrive(self) -> None:
        self._arriving -= 1

    async def _make(
        self, call: BegunCall, request: ImageRequest, arrived: Callable[[], None]
    ) -> SavedImage:
        """Have a job make the image of a call, and return it saved.

        Args:
            call: Begun.
            request: With its model's full id.
            arrived: Ends the call's arrival; called before this waits for long.

        Raises:
            GenbatchError: If there is no image.
        """
        while True:
            number = await self._job_of(call)
            arrived()
            saved = None if number is None else await self._take_up(number, call)
            # A job that no longer has it may have returned its image; the journal knows by now.
            if saved is None and self._has_earlier:
                begun = await self._place.run_in_thread(self._place.archive.begin, call.plan)
                saved = begun if isinstance(begun, SavedImage) else None
            if saved is None and number is None:
                self.breaker.check(request.model)
                saved = await self._pay(call, request)
            if saved is not None:
                return saved

    async def _job_of(self, call: BegunCall) -> int | None:
        """Return the number of the job that may still return the image of a call."""
        return await self._place.run_in_thread(self._context.jobs.of, call.plan.item)

    async def _take_up(self, number: int, call: BegunCall) -> SavedImage | None:
        """Wait for a job that has the request already."""
        if (error := self._failed.get(number)) is not None:
            raise copy(error)  # each call its own: a raised one grows its traceback
        if (job := self._context.live.get(number)) is None:
            return None
        return await self._wait(Waiter(call.plan.item, job))

    async def _pay(self, call: BegunCall, request: ImageRequest) -> SavedImage | None:
        """Add the request to a job, paid from the budget, and wait for its result."""
        price, budget = job_price(request, self._calls.price), self._calls.budget
        async with budget.attempt(price, request.model) as attempt:
            while True:
                attempt.maybe_images = 0
                waiter = await self._add(JobRequest(call, attempt.price), request)
                attempt.maybe_images = 1  # from now on it may be sent
                try:
                    saved = await self._wait(waiter)
                except BaseException:
                    if call.attempt is not None:  # another batch with this budget may collect it
                        budget.in_jobs.add((self._place.directory, call.attempt))
                    raise
                if saved is not None:
                    attempt.paid(saved.cost, saved.images)
                    attempt.image = saved
                    attempt.is_estimated = saved.usage is None and self._calls.price is None
                if saved is not None or waiter.job.is_sent:
                    return saved
                self.breaker.check(request.model)

    async def _wait(self, waiter: Waiter) -> SavedImage | None:
        try:
            return await waiter.wait()
        except Rejected:
            if waiter.job.has_images:
                with self.breaker.observe(waiter.job.model):
                    pass  # it has answered: this is no row of equal refusals
            raise

    async def _add(self, added: JobRequest, request: ImageRequest) -> Waiter:
        """Add a request to a job, and return the call's waiter."""
        service, key = self._context.service, added.call.plan.key.encode()
        with waiting(), self._arrival():
            async with self._few:
                request = await service.read(request)
                references = await self._references.of(request.images)  # type: ignore[arg-type]  # read
                uris = {position: each.uri for position, each in references.items()}
                body = await service.body(request, uris)
                line = b'{"key": "%b", "request": %b}\n' % (key, body)
                async with self._lock:  # or the job is sent while a line is still being written
                    job, spool = self._with_room(request.model, len(line), _tokens_of(request))
                    uploads = (each.uploaded for each in references.values())
                    spool.oldest_reference = min([spool.oldest_reference, *uploads])
                    waiter = Waiter(added.call.plan.item, job)
                    try:
                        await self._place.run_in_thread(spool.write, line, added)
                    except BaseException:
                        waiter.forget()
                        raise
                    if len(spool.requests) >= self._job_size:
                        job.is_full.set()
                        del self._open[job.model]
        return waiter

    def _with_room(self, model: str, size: int, tokens: int) -> tuple[LiveJob, Spool]:
        """Return the job for a model's next request, and its file, in which that is counted.

        Args:
            model: Full id.
            size: Bytes of the request.
            tokens: Estimated input tokens of it.
        """
        job = self._open.get(model)
        if job is not None and job.spool is not None:
            has_room = job.spool.tokens + tokens <= self._context.most_tokens(model)
            if has_room and job.spool.size + size <= _MOST_BYTES:
                job.spool.tokens += tokens
                return job, job.spool
            job.is_full.set()
        label = new_label()
        spool = Spool(self._context.jobs.spools, label)
        spool.tokens = tokens
        job = self._open[model] = LiveJob(model, label, spool)
        self._start(job)
        return job, spool

    def _start(self, job: LiveJob) -> None:
        self._variables.run(self._tasks.start_soon, self._run, job)

    async def _run(self, job: LiveJob) -> None:
        """Run a job to its end, then wake every call that still waits for it."""
        error: Exception | None = None
        try:
            with log_context(model=job.model):
                if await self._send(job):
                    await collect(self._context, job, await wait_for_end(self._context, job))
        except Exception as exc:  # noqa: BLE001 - raised by the calls that wait
            log(_log, WARNING, "giving up job %s for now", job.label, error=exc)
            # That the service does not describe a job says nothing about its requests.
            refused = isinstance(exc, Rejected)
            error = Unavailable(f"job {job.label} is out of reach: {exc}") if refused else exc
            if isinstance(error, GenbatchError) and job.is_sent:
                error.maybe_paid = True  # it is still in the journal, and may be at the service
            self._failed[job.id] = error
        self._context.enter(job, "")
        job.release(error)

    async def _send(self, job: LiveJob) -> bool:
        """Submit a job, or find an earlier one; return whether the service has it."""
        if job.spool is None:
            return job.name is not None or await recover(self._context, job)
        await self._gather(job, job.spool)
        try:
            async with self._context.turns[job.model]:
                return await submit(self._context, job, job.spool)
        finally:
            await self._place.run_in_thread(job.spool.remove)

    async def _gather(self, job: LiveJob, spool: Spool) -> None:
        """Wait until a job is full, or has received no request for a while."""
        quiet = 0
        while not job.is_full.is_set() and quiet < (_MOST_QUIET if self._arriving else 1):
            before = len(spool.requests)
            with move_on_after(_LINGER):
                await job.is_full.wait()
            quiet = quiet + 1 if before == len(spool.requests) else 0
        async with self._lock:
            if self._open.get(job.model) is job:
                del self._open[job.model]


def _tokens_of(request: ImageRequest) -> int:
    """Return an estimate of the input tokens of a request."""
    texts = (request.text, request.system_instruction or "")
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return size // _BYTES_PER_TOKEN + len(request.images) * _TOKENS_PER_IMAGE


def _may_pass(error: GenbatchError) -> bool:
    """Return whether a live call may succeed where a job has not."""
    if isinstance(error, DamagedImage):
        return False  # it has succeeded, and would be paid again
    # With a status, the service refused the job; without, the batch was stopped.
    is_refused = isinstance(error, Stopped) and error.status is not None
    return is_refused or isinstance(error, PASSING)


@contextmanager
def _observe(breaker: RunBreaker, model: str) -> Iterator[None]:
    """Learn from what concerns all jobs; that many fail in one says nothing of the next."""
    try:
        yield
    except (Rejected, Stopped, Unauthorized, QuotaExhausted):
        with breaker.observe(model):
            raise
    except (InvalidResponse, Unavailable) as error:
        is_reached = isinstance(error, InvalidResponse) or error.is_reached
        if error.scope == "service" or not is_reached:  # a page in its place, or no network
            with breaker.observe(model):
                raise
        raise
    else:
        with breaker.observe(model):
            pass
