"""Queue: calls that wait in jobs of the service's batch queue, and the tasks that look after those.

A call adds its request to a file for its model, and waits. A file that is full, or has got nothing
new for a while, becomes a job, and that has a task to itself: it submits, looks at and collects it.
Calls wait as those for a rate limit do: they are not in flight, and a batch that drains drops them.
Their jobs go on at the service, and the next run into the directory takes them up.
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
from genbatch._logs import about, tell
from genbatch._money import Budget
from genbatch._run import RunBreaker
from genbatch._store import Call, Store
from genbatch._values import ImageRequest, Rejected, SavedImage, Unavailable
from genbatch.gemini import JOB_SHARE, GeminiClient
from genbatch.gemini import price as price_of

from ._collect import collect
from ._job import Common, Job, Limits, Waiter
from ._journal import Jobs, Sent, Spool
from ._look import wait_for_end
from ._opening import open_batches
from ._submit import new_label, recover, submit

if TYPE_CHECKING:
    from ._service import Batches

_log = getLogger("genbatch.run")

_AT_ONCE = 4  # requests in memory on their way to a file
_MOST_QUIET = 10  # times the linger that calls on their way are waited for


class Queue:
    """The jobs of one batch; to be used inside running.

    Args:
        client: Open when the block is entered.
        place: The same.
        budget: What the calls are paid from.
        price: US dollars of a live image, in place of the price table's.
        limits: When requests become a job.
        watch: Told how the jobs stand, whenever that changes.
    """

    _common: Common
    _tasks: TaskGroup
    _has_earlier: bool  # whether jobs of earlier runs are live

    def __init__(
        self,
        client: GeminiClient,
        place: Store,
        budget: Budget,
        price: float | None,
        limits: Limits,
        watch: Callable[[str], object] | None,
    ) -> None:
        self._client = client
        self._place = place
        self._budget = budget
        self._price = price
        self._limits = limits
        self._watch = watch
        self._arriving = 0  # calls on their way to a file: one that is quiet waits for them
        self._open: dict[str, Job] = {}  # by model: jobs that take further requests
        self._failed: dict[int, Exception] = {}  # why live jobs are not looked after any more

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Look after jobs in the block, those of earlier runs too."""
        # Of whoever enters: a call would hand its own down to the tasks, and drain them.
        self._context = copy_context()
        self._few = CapacityLimiter(_AT_ONCE)
        self._lock = Lock()
        if self._place.has_queue:
            raise RuntimeError("another batch looks after the jobs of this store already")
        self._place.has_queue = True
        error: BaseException | None = None
        try:
            async with open_batches(self._client) as batches, create_task_group() as self._tasks:
                try:
                    await self._begin(batches)
                    yield
                except BaseException as exc:
                    # Let through the task group, it would arrive wrapped in a group of its own.
                    if (error := without_cancellation(exc)) is None:
                        raise
                finally:
                    self._tasks.cancel_scope.cancel()
        finally:
            self._place.has_queue = False
            # Not lost where an outer scope was cancelled meanwhile.
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame

    async def _begin(self, batches: Batches) -> None:
        jobs, limits = Jobs(self._place.archive), self._limits
        self._common = Common(
            batches, self._place, jobs, self._budget, self._price, limits.poll, self._watch
        )
        rows = await self._place.hop(jobs.live)
        number, usd = await self._place.hop(jobs.open_attempts)
        self._budget.maybe_images += number
        self._budget.maybe_spent += usd
        self._has_earlier = bool(rows)
        for row in rows:
            job = Job.of(row)
            self._common.enter(job, row.state)
            self._start(job)

    @contextmanager
    def arrival(self) -> Iterator[Callable[[], None]]:
        """Count a call as on its way in the block, until the function that it gets is called."""
        self._arriving += 1
        with ExitStack() as stack:
            stack.callback(self._arrive)
            yield stack.close

    def _arrive(self) -> None:
        self._arriving -= 1

    async def make(
        self,
        call: Call,
        request: ImageRequest,
        breaker: RunBreaker,
        arrived: Callable[[], None],
    ) -> SavedImage:
        """Have a job bring the image of a call, and return it saved.

        Args:
            call: That was begun.
            request: With its model's full id.
            breaker: Asked before the request is paid for.
            arrived: Of an arrival; called before this waits for long.

        Raises:
            GenbatchError: If there is no image; settled tells whether none may come any more.
        """
        while True:
            number = await self._place.hop(self._common.jobs.of, call.plan.item)
            arrived()
            saved = None if number is None else await self._take_up(number, call)
            # A job that has it no more may have brought it: asked after it, the journal knows.
            if saved is None and self._has_earlier:
                begun = await self._place.hop(self._place.archive.begin, call.plan)
                saved = begun if isinstance(begun, SavedImage) else None
            if saved is None and number is None:
                breaker.check(request.model)
                saved = await self._pay(call, request)
            if saved is not None:
                return saved

    async def settled(self, call: Call) -> bool:
        """Return whether no job may bring the image of a call any more."""
        return await self._place.hop(self._common.jobs.of, call.plan.item) is None

    async def _take_up(self, number: int, call: Call) -> SavedImage | None:
        """Wait for a job that has the request already."""
        if (error := self._failed.get(number)) is not None:
            raise copy(error)  # each call its own: a raised one grows its traceback
        if (job := self._common.live.get(number)) is None:
            return None
        waiter = self._common.waiters.add(call.plan.item, job)
        try:
            return await waiter.wait()
        finally:
            self._common.waiters.remove(waiter)

    async def _pay(self, call: Call, request: ImageRequest) -> SavedImage | None:
        """Add the request to a job, paid from the budget, and wait for what it brings."""
        price = self._price
        if price is None:
            price = price_of(request.model, request.image_size)
        price = None if price is None else price * JOB_SHARE
        async with self._budget.attempt(price) as attempt:
            attempt.maybe_images = 0
            waiter = await self._add(Sent(call, price), request)
            attempt.maybe_images = 1  # from now on it may be sent
            try:
                saved = await waiter.wait()
            finally:
                self._common.waiters.remove(waiter)
            if saved is not None:
                attempt.paid(saved.cost)
            return saved

    async def _add(self, sent: Sent, request: ImageRequest) -> Waiter:
        """Add a request to a job, and return what waits for it."""
        key = sent.call.plan.key.encode()
        with waiting(), self.arrival():
            async with self._few:
                body = await self._common.batches.body(request)
                line = b'{"key": "%b", "request": %b}\n' % (key, body)
                async with self._lock:  # or the job is sent while a line is on its way to its file
                    job, spool = self._with_room(request.model, len(line))
                    waiter = self._common.waiters.add(sent.call.plan.item, job)
                    try:
                        await self._place.hop(spool.write, line, sent)
                    except BaseException:
                        self._common.waiters.remove(waiter)
                        raise
                    if len(spool.requests) >= self._limits.requests:
                        job.is_full.set()
                        del self._open[job.model]
        return waiter

    def _with_room(self, model: str, size: int) -> tuple[Job, Spool]:
        """Return the job that takes the next request of a model, and its file."""
        job = self._open.get(model)
        if job is not None and job.spool is not None:
            if job.spool.size + size <= self._limits.size:
                return job, job.spool
            job.is_full.set()
        label = new_label()
        spool = Spool(self._common.jobs.spools, label, model)
        job = self._open[model] = Job(model, label, spool)
        self._start(job)
        return job, spool

    def _start(self, job: Job) -> None:
        self._context.run(self._tasks.start_soon, self._look_after, job)

    async def _look_after(self, job: Job) -> None:
        """Bring a job to its end, and let every call go on that waits for it."""
        error: Exception | None = None
        try:
            with about(model=job.model):
                if await self._send(job):
                    await collect(self._common, job, await wait_for_end(self._common, job))
        except Exception as exc:  # noqa: BLE001 - it is the error of the calls that wait
            tell(_log, WARNING, "job %s is left", job.label, error=exc)
            # What refuses to tell of a job has not refused its requests.
            error = Unavailable(f"{job.label}: {exc}") if isinstance(exc, Rejected) else exc
            self._failed[job.id] = error
        self._common.enter(job, "")
        self._common.waiters.release(job, error)

    async def _send(self, job: Job) -> bool:
        """Return whether the service has a job, once that is known."""
        if job.spool is None:
            return job.name is not None or await recover(self._common, job)
        await self._gather(job, job.spool)
        try:
            return await submit(self._common, job, job.spool)
        finally:
            await self._place.hop(job.spool.remove)

    async def _gather(self, job: Job, spool: Spool) -> None:
        """Wait until a job is full, or has got nothing new for a while."""
        quiet = 0
        while not job.is_full.is_set() and quiet < (_MOST_QUIET if self._arriving else 1):
            before = len(spool.requests)
            with move_on_after(self._limits.linger):
                await job.is_full.wait()
            quiet = quiet + 1 if before == len(spool.requests) else 0
        async with self._lock:
            if self._open.get(job.model) is job:
                del self._open[job.model]
