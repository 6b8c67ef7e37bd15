"""Readers for the fuzz: each read may be cancelled, in every way there is, and is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from genbatch import OutcomeStream, collect, stream

from .batches import Batch, Record

Read = Callable[[], Awaitable[None]]
LEAVES = ("break", "error", "scope", "native")  # ways to leave a block early


async def _plainly(batch: Batch, read: Read) -> None:
    await read()


async def _under_deadline(batch: Batch, read: Read) -> None:
    with anyio.move_on_after(0 if batch.backend == "uvloop" else batch.pick.randrange(3)):
        await read()


async def _under_cancelled_scope(batch: Batch, read: Read) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for _ in range(batch.pick.randrange(5)):
            await checkpoint()
        group.cancel_scope.cancel()


async def _under_native_timeout(batch: Batch, read: Read) -> None:
    units = (
        batch.pick.choice((0, 0.00001)) if batch.backend == "uvloop" else batch.pick.randrange(3)
    )
    try:
        async with asyncio.timeout(units):
            await read()
    except TimeoutError:
        pass


async def _in_cancelled_task(batch: Batch, read: Read) -> None:
    reading = asyncio.ensure_future(read())
    reading.add_done_callback(_retrieve)
    for _ in range(batch.pick.randrange(6)):
        await asyncio.sleep(0)
    reading.cancel()
    try:
        await asyncio.wait([reading])
    finally:
        reading.cancel()  # if this reader is cancelled itself
    if not reading.cancelled():
        reading.result()


def _retrieve(reading: asyncio.Future[None]) -> None:
    """Take notice of its error, which asyncio else reports if the reader is gone meanwhile."""
    if not reading.cancelled():
        reading.exception()


SCOPED = (_plainly, _under_deadline, _under_cancelled_scope)
NATIVE = (*SCOPED, _under_native_timeout, _in_cancelled_task)


class _Left(Exception):
    pass


class Readers:
    """One or several readers of one batch, until its end or until one of them leaves."""

    def __init__(self, batch: Batch) -> None:
        pick = batch.pick
        self.batch = batch
        self.count = pick.choice((1, 1, 2, 3))
        self.slow = pick.choice((0.0, 0.0, 0.1, 0.5))  # share of reads followed by a pause
        self.borrows = batch.limiter is not None and pick.random() < 0.3
        self.calm = pick.choice((0.2, 0.6, 0.95))  # share of reads left in peace
        self.leave = pick.choice(LEAVES) if pick.random() < 0.25 or self._is_endless else ""
        self.leave_after = pick.randint(0, 2 * batch.size if self._is_endless else batch.size)
        self.ended = False

    @property
    def _is_endless(self) -> bool:
        return self.batch.source == "endless"

    async def read_all(self, outcomes: OutcomeStream[int, int]) -> None:
        """Read until the end with all readers; the only one reads in the block's own task."""
        if self.count == 1:
            await self._read_until_end(outcomes)
            return
        async with anyio.create_task_group() as group:
            for _ in range(self.count):
                group.start_soon(self._read_until_end, outcomes)

    async def _read_until_end(self, outcomes: OutcomeStream[int, int]) -> None:
        batch = self.batch
        pick = batch.pick
        ways = SCOPED if batch.backend == "trio" else NATIVE

        async def read() -> None:
            batch.take(await outcomes.receive())

        while True:
            if self.leave and batch.handed_over >= self.leave_after:
                raise _Left
            way = _plainly if pick.random() < self.calm else pick.choice(ways)
            try:
                await way(batch, read)
            except* anyio.EndOfStream:
                self.ended = True
            if self.ended:
                return
            await self._linger()

    async def _linger(self) -> None:
        """Be slow, hold the batch's own limiter, or resize it, now and then."""
        batch, pick = self.batch, self.batch.pick
        if pick.random() < self.slow:
            await batch.pause(pick.randrange(4))
        if batch.limiter is None or pick.random() > 0.1:
            return
        if self.borrows:
            async with batch.limiter:
                await batch.pause(1)
        if batch.resizes:
            batch.resize(0 if pick.random() < 0.1 else pick.randint(1, batch.max_concurrent + 2))
            if batch.limiter.total_tokens == 0:  # a pause, which somebody has to end
                await batch.pause(2)
                batch.resize(pick.randint(1, batch.max_concurrent + 2))


async def run_batch(batch: Batch) -> Record:
    """Run a batch through stream or collect and return what was recorded."""
    arguments = batch.open()
    if batch.source != "endless" and batch.pick.random() < 0.1:
        batch.reads = False
        outcomes = await collect(batch.generate, **arguments)
        for outcome in outcomes:
            batch.take(outcome)
        if [outcome.index for outcome in outcomes] != list(range(batch.size)):
            batch.record.lost += 1
        return batch.finish(ended=True)
    readers = Readers(batch)
    try:
        await _read_block(readers, arguments)
    except _Left:
        pass
    except asyncio.CancelledError:
        if readers.leave != "native":
            raise
    batch.left = True
    await batch.pause(10)  # nothing may happen any more
    return batch.finish(readers.ended)


async def _read_block(readers: Readers, arguments: dict[str, Any]) -> None:
    """Open the block, read in it, and leave it in the way that was drawn."""
    batch = readers.batch
    left = False
    with anyio.CancelScope() as scope:
        async with stream(batch.generate, ordered=batch.ordered, **arguments) as outcomes:
            try:
                await readers.read_all(outcomes)
            except* _Left:
                left = True
            if left and readers.leave == "error":
                raise _Left
            if left and readers.leave == "scope":
                scope.cancel()
                await checkpoint()
            if left and readers.leave == "native":
                await _cancel_natively(batch)


async def _cancel_natively(batch: Batch) -> None:
    """Cancel the task that is in the block, as asyncio does; on trio there is but one way."""
    if batch.backend == "trio":
        return
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(1)
    finally:
        task.uncancel()
