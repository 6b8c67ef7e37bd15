"""A job of this process, what all of them share, and the calls that wait for what they bring."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from logging import INFO, getLogger
from typing import TYPE_CHECKING

from anyio import Event

from genbatch._core import waiting
from genbatch._logs import about, tell
from genbatch._money import Budget
from genbatch._store import Store
from genbatch._values import Image, SavedImage, Stopped
from genbatch.gemini import JOB_SHARE

from ._journal import JobRow, Jobs, Sent, Spool

if TYPE_CHECKING:
    from ._service import Batches

_log = getLogger("genbatch.store")


@dataclass(frozen=True, slots=True)
class Limits:
    """When requests become a job.

    Attributes:
        requests: Most in one job.
        size: Most bytes of its file.
        linger: Seconds without a further request after which it waits for no more.
        poll: Most seconds between two looks at a job.
    """

    requests: int
    size: int
    linger: float
    poll: float


@dataclass(slots=True, eq=False)
class Job:
    """A job, from its first request to its end.

    Attributes:
        model: Full id.
        label: Our name for it.
        spool: Its requests, where this process has gathered them.
        id: Its number in the journal, 0 before it has one.
        file: The service's name of its file of requests, once that is known.
        name: The service's name of it, once that is known.
        state: As it was last seen.
        began: Seconds since the epoch.
        is_sent: Whether the service may have it.
        is_full: Set when no further request has room in it.
    """

    model: str
    label: str
    spool: Spool | None = None
    id: int = 0
    file: str | None = None
    name: str | None = None
    state: str = ""
    began: float = field(default_factory=time.time)
    is_sent: bool = False
    is_full: Event = field(default_factory=Event)

    @classmethod
    def of(cls, row: JobRow) -> Job:
        """Return the job of an earlier process."""
        _, label, model, file, name, state, _, began, _ = row
        return cls(model, label, None, row.id, file, name, state, began, is_sent=True)


class Waiter:
    """A call that waits for what a job brings.

    Attributes:
        result: What that is; None before it came, and where the journal knows.
    """

    __slots__ = ("_settled", "item", "job", "result")

    def __init__(self, item: int, job: Job) -> None:
        self.item = item
        self.job = job
        self.result: SavedImage | Exception | None = None
        self._settled = Event()

    def settle(self, result: SavedImage | Exception | None) -> None:
        """Let the call go on."""
        # Each call its own: a raised one grows its traceback.
        self.result = copy.copy(result) if isinstance(result, Exception) else result
        self._settled.set()

    async def wait(self) -> SavedImage | None:
        """Wait until it may go on; return the image, None if the journal knows what came of it.

        Raises:
            Stopped: If the batch drains meanwhile.
            GenbatchError: If there is no image.
        """
        try:
            with waiting():
                await self._settled.wait()
        except Stopped:
            if self.result is None and self.job.is_sent:
                where = f"its job {self.job.label} goes on at the service"
                raise Stopped(f"{where}: collect it later", maybe_paid=True) from None
            if self.result is None:
                raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Waiters:
    """The calls that wait, by the items that they are for."""

    def __init__(self) -> None:
        self._of_item: dict[int, Waiter] = {}

    def add(self, item: int, job: Job) -> Waiter:
        """Return the one for an item, which a job is to bring."""
        self._of_item[item] = waiter = Waiter(item, job)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Forget one that waits no more."""
        if self._of_item.get(waiter.item) is waiter:
            del self._of_item[waiter.item]

    def settle(self, item: int, result: SavedImage | Exception | None) -> None:
        """Let the call for an item go on, if there is one."""
        if (waiter := self._of_item.pop(item, None)) is not None:
            waiter.settle(result)

    def release(self, job: Job, result: Exception | None) -> None:
        """Let all calls go on that still wait for a job."""
        for waiter in [each for each in self._of_item.values() if each.job is job]:
            self.settle(waiter.item, result)

    def has(self, job: Job) -> bool:
        """Return whether any call waits for a job."""
        return any(each.job is job for each in self._of_item.values())


@dataclass(slots=True)
class Common:
    """What all jobs of a batch share.

    Attributes:
        batches: The service's queue.
        place: The store.
        jobs: What its journal knows of jobs.
        budget: What the calls are paid from.
        price: US dollars of a live image, in place of the price table's.
        poll: Most seconds between two looks at a job.
        watch: Told how the jobs stand, whenever that changes.
        live: Jobs that have not ended, by their numbers in the journal.
        waiters: The calls that wait for them.
    """

    batches: Batches
    place: Store
    jobs: Jobs
    budget: Budget
    price: float | None
    poll: float
    watch: Callable[[str], object] | None
    live: dict[int, Job] = field(default_factory=dict)
    waiters: Waiters = field(default_factory=Waiters)
    _told: str = ""

    def enter(self, job: Job, state: str) -> None:
        """Note in which state a job is now, "" for one that is none any more."""
        job.state = state
        if state:
            self.live[job.id] = job
        else:
            self.live.pop(job.id, None)
        if self.watch is not None and (line := self._line()) != self._told:
            self._told = line
            self.watch(line)

    def _line(self) -> str:
        if not self.live:
            return ""
        states = Counter(each.state.lower().replace("_", " ") for each in self.live.values())
        told = ", ".join(f"{number} {state}" for state, number in states.most_common())
        return f"{len(self.live)} {'job' if len(self.live) == 1 else 'jobs'}: {told}"

    def save(self, job: Job, sent: Sent, image: Image) -> SavedImage:
        """Save the image of a request and tell the log; this blocks.

        Raises:
            StoreError: If it cannot be written.
        """
        cost = image.cost if self.price is None else self.price
        image = replace(image, cost=None if cost is None else cost * JOB_SHARE)
        elapsed = max(0.0, time.time() - job.began)
        saved = self.jobs.save(sent, image, elapsed)
        told = "cost unknown" if saved.cost is None else f"${saved.cost:.4f}"
        with about(model=saved.model, cost=saved.cost, elapsed=elapsed, key=sent.call.plan.key):
            tell(_log, INFO, "saved %s, %s", saved.path, told, path=str(saved.path))
        return saved

    def settle_earlier(self, sent: Sent, cost: float | None, *, maybe_paid: bool) -> None:
        """Settle in the budget a request that an earlier process has sent.

        Args:
            sent: Counted as perhaps billed so far.
            cost: US dollars of its image, None where none came.
            maybe_paid: Whether it still is perhaps billed.
        """
        budget = self.budget
        if not maybe_paid:
            budget.maybe_images -= 1
            budget.maybe_spent = max(0.0, budget.maybe_spent - (sent.price or 0.0))
        if cost is not None:
            budget.images += 1
            budget.spent += cost
