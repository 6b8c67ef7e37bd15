"""Coordinator: the one place that admits the calls of all workers.

1. At most max_concurrent calls are in flight over all workers, within one throttle and one budget.
2. After a stop every call that asks is refused with its cause, including those that were waiting.
3. The calls of a block live in its task group: a worker that falls silent loses the group, and with
   it its tokens; what it had in flight counts as possibly paid.

It sees neither prompts nor images: a worker asks it to admit a call, makes the call, and reports
the result. It does not depend on Ray: it is an ordinary object, whose methods take arguments that
are small and can be pickled.
"""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from logging import INFO, getLogger

from anyio import CapacityLimiter, Event, Lock, create_task_group, current_time, sleep_until
from anyio.abc import TaskGroup

from genbatch._bucket import ObjectStore, StoredImage
from genbatch._core import ParkingLot, Turn, Waits, current_turn, waiting
from genbatch._logs import log
from genbatch._money import Budget
from genbatch._run import RunBreaker
from genbatch._throttle import Throttle
from genbatch._values import (
    BudgetExhausted,
    GenbatchError,
    QuotaExhausted,
    RateLimited,
    Stopped,
    StoreError,
    Unauthorized,
    Unavailable,
)

from ._ledger import Ledger

STOPS = (Unauthorized, QuotaExhausted, BudgetExhausted, Stopped, StoreError)
HEARTBEAT = 2.0  # seconds between the heartbeats of a block
_DEAD_AFTER = 10.0  # seconds without one
_SEGMENT = 5_000  # rows of the index
_TELL_EVERY = 10.0  # seconds

_log = getLogger("genbatch.ray")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a run.

    Attributes:
        store: Where images and the ledger are.
        model: Full id of the model that all calls ask.
        price: Estimated US dollars per attempt, None if unknown.
        max_concurrent: Most calls in flight over all workers.
        usd: Spending limit in US dollars for all runs into the store, None for none.
        max_images: Most images to pay for in all these runs, None for no bound.
        pace: Highest start rate, such as ``"300/min"``; None to learn it.
        rows: Rows of the input.
        resumed: Those of them that have an image already.
    """

    store: str
    model: str
    price: float | None
    max_concurrent: int
    usd: float | None = None
    max_images: int | None = None
    pace: str | None = None
    rows: int = 0
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class FleetProgress:
    """How far a run has come.

    Attributes:
        store: Where its images are saved.
        rows: Rows in all, with those that had an image before.
        done: Rows that have an image.
        failed: Rows that have none, of blocks that have ended.
        in_flight: Calls that are being made.
        waiting: Calls that wait for their turn.
        blocks: Blocks of rows that workers are at.
        spent: US dollars that all runs into the store have paid, as far as is known.
        maybe_spent: US dollars for calls that may have been billed without an image.
        capacity: Most calls at once that the throttle allows.
        rate: Most calls it starts in a second, None where it knows no bound.
        paused_for: Seconds until it starts calls again.
        stopped: Why no further call is made, empty as long as they are.
    """

    store: str
    rows: int
    done: int
    failed: int
    in_flight: int
    waiting: int
    blocks: int
    spent: float
    maybe_spent: float
    capacity: int
    rate: float | None
    paused_for: float
    stopped: str

    def __str__(self) -> str:
        parts = [f"{self.done:,} of {self.rows:,} done", f"{self.failed:,} failed"]
        parts += [f"{self.in_flight} in flight", f"{self.waiting} waiting"]
        parts.append(f"{self.blocks} blocks at workers")
        parts.append(f"${self.spent + self.maybe_spent:,.2f}")
        parts += [f"rate limited: {self.paused_for:.0f} s"] if self.paused_for else []
        parts += [f"stopping: {self.stopped}"] if self.stopped else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an attempt.

    Attributes:
        error: None if an image came.
        cost: US dollars of the images, None if unknown.
        images: How many came in the answer.
        answered: Whether the error is a valid answer of the service, without an image.
    """

    error: Exception | None = None
    cost: float | None = None
    images: int = 1
    answered: bool = False


@dataclass(slots=True, eq=False)
class _RemoteCall:
    """A worker's call: admitted, then reported; admitted again as long as it is rejected."""

    turn: Event = field(default_factory=Event)
    reported: Event = field(default_factory=Event)
    report: Report = field(default_factory=Report)
    error: Exception | None = field(default_factory=lambda: _dead())  # until it is admitted


@dataclass(slots=True, eq=False)
class _Block:
    """A worker's block of rows."""

    heard: float
    tasks: TaskGroup | None = None
    attended: Event = field(default_factory=Event)
    left: Event = field(default_factory=Event)
    calls: dict[int, _RemoteCall] = field(default_factory=dict)


class Coordinator:
    """Admits the calls of all workers of a run.

    Args:
        bounds: The bounds of the run.

    Raises:
        ValueError: If one is malformed or out of range.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._throttle = Throttle(pace=bounds.pace)
        self._budget = Budget(bounds.usd, max_images=bounds.max_images)
        self._waits = Waits()
        self._breaker = RunBreaker(self._waits.drain)
        self._entered: dict[str, _Block] = {}  # not yet attended
        self._blocks: dict[str, _Block] = {}
        self._ended = ParkingLot()
        self._saved: list[StoredImage] = []
        self._failed = 0
        self._made = 0
        self._told = -math.inf
        self._run = secrets.token_hex(8)
        self._ledger: Ledger | None = None
        self._store: ObjectStore | None = None
        self._tokens = CapacityLimiter(bounds.max_concurrent)
        self._opening = Lock()

    async def enter(self, block: str) -> Exception | None:
        """Let a block in, before attend is called for it; return the reason if it is refused."""
        try:
            await self._open()
            self._breaker.check(self._bounds.model)
        except Exception as exc:  # noqa: BLE001 - the worker raises it
            return exc
        self._entered[block] = _Block(current_time())
        return None

    async def attend(self, block: str) -> None:
        """Let a block make calls until it leaves, or sends no heartbeat for 10 s."""
        record = self._blocks[block] = self._entered.pop(block)
        try:
            async with create_task_group() as tasks:
                record.tasks = tasks
                record.attended.set()
                tasks.start_soon(self._listen, record)
                await record.left.wait()
                # Calls already reported await nothing more, so they are still paid.
                tasks.cancel_scope.cancel()
        finally:
            del self._blocks[block]
            record.left.set()
            self._ended.unpark()

    async def beat(self, block: str) -> None:
        """Note that a block is alive."""
        if (record := self._blocks.get(block)) is not None:
            record.heard = current_time()
        await self._tell_progress()

    async def admit(self, block: str, number: int) -> Exception | None:
        """Wait for the turn of a call; return None, or the reason if it is refused.

        Args:
            block: Id of a block that has entered.
            number: The call's number in its block.
        """
        record = self._blocks.get(block) or self._entered.get(block)
        if record is None:
            return _dead()
        await record.attended.wait()
        if record.left.is_set() or record.tasks is None:
            return _dead()
        call = record.calls[number] = _RemoteCall()
        record.tasks.start_soon(self._make, call)
        return await _answer(call)

    async def report(self, block: str, number: int, report: Report) -> Exception | None:
        """Take the report of an attempt; if it was rejected, wait for the turn of the next one.

        Returns:
            None if the next attempt may be made, or if an image came; else the reason.
        """
        record = self._blocks.get(block)
        call = None if record is None else record.calls.get(number)
        if record is None or call is None:
            return report.error  # it counts as possibly paid since the block was taken for dead
        call.turn = Event()
        call.report = report
        call.reported.set()
        if isinstance(report.error, RateLimited):
            return await _answer(call)
        del record.calls[number]
        return report.error

    async def failed(self, error: Exception) -> None:
        """Learn of a call that failed after its retries, or of a worker that cannot go on."""
        self._observe(error)
        if not isinstance(error, Unavailable | TimeoutError):
            self._breaker.stop(error if isinstance(error, STOPS) else Stopped(str(error)))

    async def leave(
        self, block: str, saved: list[StoredImage], *, stopped: bool, failed: int = 0
    ) -> None:
        """End a block, with the images it has saved, and the number of rows that have none.

        After a stop this returns when all other blocks have ended too, so that what they had in
        flight is saved before the stop is raised.
        """
        if (record := self._blocks.get(block) or self._entered.get(block)) is not None:
            await record.attended.wait()
            record.left.set()
            while block in self._blocks:
                await self._ended.park()
        self._saved += saved
        self._failed += failed
        await self._tell_progress()
        while stopped and self._blocks:
            await self._ended.park()  # the others are refused, so they end soon
        with suppress(StoreError):  # the images are saved, and found without an index
            if self._store is not None and (len(self._saved) >= _SEGMENT or not self._blocks):
                saved, self._saved = self._saved, []
                await self._store.run_in_thread(self._store.objects.add_segments, saved)
            if not self._blocks and self._ledger is not None:
                await self._ledger.settle()

    async def state(self) -> FleetProgress:
        """Return how far the run has come."""
        bounds, throttle, budget = self._bounds, self._throttle, self._budget
        cause = self._breaker.cause(bounds.model)
        return FleetProgress(
            bounds.store,
            bounds.rows,
            bounds.resumed + self._made,
            self._failed,
            throttle.in_flight,
            throttle.waiting + self._tokens.statistics().tasks_waiting,
            len(self._blocks),
            budget.spent,
            budget.maybe_spent,
            throttle.capacity,
            throttle.rate,
            throttle.paused_for,
            "" if cause is None else str(cause),
        )

    async def _tell_progress(self) -> None:
        """Log how far the run has come, now and then, and when it is at its end."""
        state = await self.state()
        is_done = not state.blocks and state.done + state.failed >= state.rows
        if is_done or current_time() >= self._told + _TELL_EVERY:
            self._told = current_time()
            log(_log, INFO, "%s: %s", state.store, state)

    async def _open(self) -> None:
        """Read the ledger, once.

        Raises:
            StoreError: If it cannot be read.
        """
        async with self._opening:
            if self._ledger is None:
                self._store = await ObjectStore.open(self._bounds.store)
                objects = self._store.objects
                earlier = (await self._store.run_in_thread(objects.ledger)).values()
                note = partial(self._store.run_in_thread, objects.note, self._run)
                step, model = self._bounds.max_concurrent, self._bounds.model
                self._ledger = Ledger(self._budget, earlier, note, step, model)

    async def _listen(self, record: _Block) -> None:
        """End a block whose worker falls silent."""
        while not record.left.is_set():
            await sleep_until(record.heard + _DEAD_AFTER)
            if current_time() >= record.heard + _DEAD_AFTER:
                record.left.set()

    async def _make(self, call: _RemoteCall) -> None:
        """Admit a call, again as long as it is rejected."""
        current_turn.set(Turn(self._waits))  # a stop ends all waiting
        model = self._bounds.model
        try:
            self._breaker.check(model)
            with waiting():
                await self._tokens.acquire_on_behalf_of(call)
            try:
                await self._throttle.run(partial(self._attempt, call))
            finally:
                self._tokens.release_on_behalf_of(call)
        except Exception as exc:  # noqa: BLE001 - the worker raises it
            if isinstance(exc, BudgetExhausted | RateLimited):  # nothing else is called
                self._breaker.stop(exc)
            call.error = (self._breaker.cause(model) if isinstance(exc, Stopped) else None) or exc
        finally:
            call.turn.set()

    async def _attempt(self, call: _RemoteCall) -> None:
        assert self._ledger is not None  # noqa: S101 - enter has opened it
        self._breaker.check(self._bounds.model)
        async with self._ledger.attempt(self._bounds.price, self._bounds.model) as attempt:
            self._breaker.check(self._bounds.model)  # again: recording a grant takes time
            call.error = None
            call.turn.set()
            await call.reported.wait()
            # From here, nothing is awaited until it is paid and its token is free.
            call.reported, call.error = Event(), _dead()
            report = call.report
            if report.error is None:
                attempt.paid(report.cost, report.images)
                self._made += 1
                self._observe(None)
            elif report.answered:
                attempt.failed(report.error)
                self._observe(None)
            else:
                # These may be retried, and count after that.
                if not isinstance(report.error, Unavailable | TimeoutError):
                    self._observe(report.error)
                raise report.error

    def _observe(self, error: Exception | None) -> None:
        """Learn from the error of a call, None for a valid answer."""
        breaker, model = self._breaker, self._bounds.model
        with suppress(Exception), breaker.observe(model), breaker.observe_store():
            if error is not None:
                raise error
        if isinstance(error, QuotaExhausted):
            breaker.stop(error)  # all calls ask the same model


def _dead() -> GenbatchError:
    """Return the error of the calls of a worker presumed dead; the next run retries their rows."""
    return GenbatchError(f"the worker was not heard from for {_DEAD_AFTER:.0f} s, run again")


async def _answer(call: _RemoteCall) -> Exception | None:
    await call.turn.wait()
    return call.error
