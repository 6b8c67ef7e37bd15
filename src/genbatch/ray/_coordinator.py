"""Coordinator: the one place that lets the calls of all workers start.

1. At most max_concurrent calls are in flight over all workers, within one throttle and one budget.
2. After a stop every call that asks is refused with it, also one that has waited.
3. The calls of a batch live in its task group: a worker that is not heard of any more loses it, and
   with it its places; what it had in flight counts as possibly paid.

It sees no prompt and no image: of a call it is told when it begins and what came of it. A worker
asks with admit, makes the call, and tells with report. It knows nothing of Ray, and all its methods
are called as those of any object.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from anyio import CapacityLimiter, Event, Lock, create_task_group, current_time, sleep_until
from anyio.abc import TaskGroup

from genbatch._core import ParkingLot, waiting
from genbatch._money import Budget
from genbatch._throttle import Throttle
from genbatch._values import (
    BudgetExhausted,
    GenbatchError,
    RateLimited,
    Stopped,
    StoreError,
    Unavailable,
)

from ._halt import Halt
from ._kept import StoredImage
from ._ledger import Ledger
from ._messages import DEAD_AFTER, STOPS, Bounds, Report
from ._objects import ObjectStore

_SEGMENT = 5_000  # rows of the index


@dataclass(slots=True, eq=False)
class _Call:
    """A call of a worker: its turn comes, then its report, then again where it was rejected."""

    turn: Event = field(default_factory=Event)
    reported: Event = field(default_factory=Event)
    report: Report = field(default_factory=Report)
    error: Exception | None = field(default_factory=lambda: _dead())  # until it may be made


@dataclass(slots=True, eq=False)
class _Batch:
    heard: float
    tasks: TaskGroup | None = None
    attended: Event = field(default_factory=Event)
    left: Event = field(default_factory=Event)
    calls: dict[int, _Call] = field(default_factory=dict)


class Coordinator:
    """Admits the calls of all workers of a run.

    Args:
        bounds: Those of the run.

    Raises:
        ValueError: If one is malformed or out of range.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._throttle = Throttle(pace=bounds.pace)
        self._budget = Budget(bounds.usd, max_images=bounds.max_images)
        self._halt = Halt(bounds.model)
        self._entered: dict[str, _Batch] = {}  # and not yet attended
        self._batches: dict[str, _Batch] = {}
        self._ended = ParkingLot()
        self._saved: list[StoredImage] = []
        self._run = secrets.token_hex(8)
        self._ledger: Ledger | None = None
        self._store: ObjectStore | None = None
        self._tokens: CapacityLimiter | None = None
        self._opening = Lock()

    async def enter(self, batch: str) -> Exception | None:
        """Let a batch in, which attend is called for next; return why it may not make calls."""
        try:
            await self._open()
            self._halt.check()
        except Exception as exc:  # noqa: BLE001 - the worker raises it
            return exc
        self._entered[batch] = _Batch(current_time())
        return None

    async def attend(self, batch: str) -> None:
        """Let a batch make calls until it has left, or was not heard of for 10 s."""
        record = self._batches[batch] = self._entered.pop(batch)
        try:
            async with create_task_group() as tasks:
                record.tasks = tasks
                record.attended.set()
                tasks.start_soon(self._listen, record)
                await record.left.wait()
                # A call that was reported awaits nothing more, and is paid all the same.
                tasks.cancel_scope.cancel()
        finally:
            del self._batches[batch]
            record.left.set()
            self._ended.unpark()

    async def beat(self, batch: str) -> None:
        """Hear that a batch is alive."""
        if (record := self._batches.get(batch)) is not None:
            record.heard = current_time()

    async def admit(self, batch: str, number: int) -> Exception | None:
        """Wait for the turn of a call; return why it may not be made, None if it may.

        Args:
            batch: That has entered.
            number: Of the call in its batch.
        """
        record = self._batches.get(batch) or self._entered.get(batch)
        if record is None:
            return _dead()
        await record.attended.wait()
        if record.left.is_set() or record.tasks is None:
            return _dead()
        call = record.calls[number] = _Call()
        record.tasks.start_soon(self._make, call)
        return await _answer(call)

    async def report(self, batch: str, number: int, report: Report) -> Exception | None:
        """Hear what came of an attempt; where it was rejected, wait for the turn of another.

        Returns:
            None if the call may be made again, or the report was no rejection; else why not.
        """
        record = self._batches.get(batch)
        call = None if record is None else record.calls.get(number)
        if record is None or call is None:
            return report.error  # counted as possibly paid, when it was taken for dead
        call.turn = Event()
        call.report = report
        call.reported.set()
        if isinstance(report.error, RateLimited):
            return await _answer(call)
        del record.calls[number]
        return report.error

    async def failed(self, error: Exception) -> None:
        """Hear how a call has failed, its retries included, or what a worker cannot go on with."""
        self._halt.learn(error)
        if not isinstance(error, Unavailable | TimeoutError):
            self._halt.stop(error if isinstance(error, STOPS) else Stopped(str(error)))

    async def leave(self, batch: str, saved: list[StoredImage], *, stopped: bool) -> None:
        """Hear that a batch is over, with the images it has saved.

        Where it was stopped, this returns when all others have ended too, so that what they had in
        flight is saved before anybody is told.
        """
        if (record := self._batches.get(batch) or self._entered.get(batch)) is not None:
            await record.attended.wait()
            record.left.set()
            while batch in self._batches:
                await self._ended.park()
        self._saved += saved
        while stopped and self._batches:
            await self._ended.park()  # those others are refused, and so end soon
        with suppress(StoreError):  # the images are there, and are found without an index
            if len(self._saved) >= _SEGMENT or not self._batches:
                await self._write_index()
            if not self._batches and self._ledger is not None:
                await self._ledger.settle()

    async def state(self) -> dict[str, float]:
        """Return how it stands: calls in flight and waiting, and what is spent."""
        return {
            "in_flight": self._throttle.in_flight,
            "waiting": self._throttle.waiting,
            "batches": len(self._batches),
            "spent": self._budget.spent,
            "maybe_spent": self._budget.maybe_spent,
        }

    async def _open(self) -> None:
        """Read the ledger, once.

        Raises:
            StoreError: If it cannot be read.
        """
        async with self._opening:
            if self._ledger is None:
                self._store = await ObjectStore(self._bounds.store).__aenter__()
                objects, step = self._store.objects, self._bounds.max_concurrent
                earlier = await self._store.hop(objects.ledger)
                note = partial(self._store.hop, objects.note, self._run)
                self._tokens = CapacityLimiter(step)
                self._ledger = Ledger(self._budget, list(earlier.values()), note, step)

    async def _listen(self, record: _Batch) -> None:
        """End a batch whose worker is not heard of."""
        while not record.left.is_set():
            await sleep_until(record.heard + DEAD_AFTER)
            if current_time() >= record.heard + DEAD_AFTER:
                record.left.set()

    async def _make(self, call: _Call) -> None:
        """Give a call its turns until it has an answer."""
        self._halt.let_wait()
        assert self._tokens is not None  # noqa: S101 - enter has opened it
        try:
            self._halt.check()
            with waiting():
                await self._tokens.acquire_on_behalf_of(call)
            try:
                await self._throttle.run(partial(self._attempt, call))
            finally:
                self._tokens.release_on_behalf_of(call)
        except Exception as exc:  # noqa: BLE001 - the worker raises it
            if isinstance(exc, BudgetExhausted):
                self._halt.stop(exc)
            call.error = self._halt.cause_of(exc)
        finally:
            call.turn.set()

    async def _attempt(self, call: _Call) -> None:
        assert self._ledger is not None  # noqa: S101 - enter has opened it
        self._halt.check()
        async with self._ledger.attempt(self._bounds.price) as attempt:
            self._halt.check()  # again: a grant is in writing first, which takes time
            call.error = None
            call.turn.set()
            await call.reported.wait()
            # Nothing is awaited from here until it is paid and its token free.
            call.reported, call.error = Event(), _dead()
            report = call.report
            if report.error is None:
                attempt.paid(report.cost)
                self._halt.learn(None)
            elif report.answered:
                attempt.failed(report.error)
                self._halt.learn(None)
            else:
                self._halt.learn_of_attempt(report.error)
                raise report.error

    async def _write_index(self) -> None:
        saved, self._saved = self._saved, []
        if saved and self._store is not None:
            await self._store.hop(self._store.objects.add_segments, saved)


def _dead() -> GenbatchError:
    """Return why a worker that stood still makes no call: its rows fail, and are for a next run."""
    return GenbatchError(f"the worker was not heard of for {DEAD_AFTER:.0f} s, run again")


async def _answer(call: _Call) -> Exception | None:
    await call.turn.wait()
    return call.error
