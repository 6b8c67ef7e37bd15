"""Readers for the fuzz, and what is done to a batch while they read.

Each read may be cancelled, in every way there is, and is tried again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from genbatch import OutcomeStream, collect, stream

from .backends import tasks_alive
from .batches import CHILD, Batch, Record

Read = Callable[[], Awaitable[None]]
CORE = "genbatch."  # how the names of the core's tasks begin
LOUD = {  # how a batch was ended, and how an error begins that says so
    "cut short": "the batch was cut short",
    "source": "prompts raised a cancellation of its own",
}
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
        self.count = pick.choice((1, 1, 2, 3, 4))
        self.slow = pick.choice((0.0, 0.0, 0.1, 0.5))  # share of reads followed by a pause
        self.borrows = batch.limiter is not None and pick.random() < 0.3
        self.calm = pick.choice((0.2, 0.6, 0.95))  # share of reads left in peace
        self.leave = pick.choice(LEAVES) if pick.random() < 0.25 or self._is_endless else ""
        self.leave_after = pick.randint(0, 2 * batch.size if self._is_endless else batch.size)
        self.ended = False
        self.leaves_natively = False

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
        ways = NATIVE if batch.is_asyncio else SCOPED

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
    tasks = record_tasks(batch) if batch.is_asyncio else []
    arguments = batch.open()
    async with anyio.create_task_group() as group:
        group.start_soon(meddle, batch, tasks)
        before = tasks_alive(batch.backend)
        how = await _run_to_an_end(batch, arguments)
        batch.left = True
        batch.record.leaked += _core_tasks(batch, tasks, before)
        await batch.pause(10)  # nothing may happen any more
        batch.record.leaked += max(0, tasks_alive(batch.backend) - before)
        group.cancel_scope.cancel()
    return batch.finish(how)


async def _run_to_an_end(batch: Batch, arguments: dict[str, Any]) -> str:
    """Return how the batch came to its end, in the words of Batch.finish."""
    try:
        if batch.source != "endless" and batch.pick.random() < 0.1:
            return await _collect(batch, arguments)
        return await _read_block(Readers(batch), arguments)
    except BaseException as exc:
        if not batch.struck or (how := _told_by(exc)) is None:
            raise
        return how


def _told_by(exc: BaseException) -> str | None:
    """Return what an error says of a batch that was struck, None if it is of another kind."""
    if isinstance(exc, BaseExceptionGroup):
        told = {_told_by(each) for each in exc.exceptions}
        return told.pop() if len(told) == 1 else None
    if type(exc) is not RuntimeError:
        return None
    return next((how for how, words in LOUD.items() if str(exc).startswith(words)), None)


async def _collect(batch: Batch, arguments: dict[str, Any]) -> str:
    batch.reads = False
    outcomes = await collect(batch.generate, **arguments)
    for outcome in outcomes:
        batch.take(outcome)
    if [outcome.index for outcome in outcomes] != list(range(batch.size)):
        batch.record.lost += 1
    return "ended"


async def _read_block(readers: Readers, arguments: dict[str, Any]) -> str:
    """Open the block, read in it, and leave it in the way that was drawn."""
    try:
        left = await _read_and_leave(readers, arguments)
    except _Left:
        return "left"
    except asyncio.CancelledError:
        if not readers.leaves_natively:
            raise
        return "left"
    return "left" if left else "ended" if readers.ended else ""


async def _read_and_leave(readers: Readers, arguments: dict[str, Any]) -> bool:
    batch = readers.batch
    left = False
    with anyio.CancelScope() as scope:
        async with stream(batch.generate, ordered=batch.ordered, **arguments) as outcomes:
            batch.outcomes = outcomes
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
                await _cancel_natively(readers)
    return left


async def _cancel_natively(readers: Readers) -> None:
    """Cancel the task that is in the block, as asyncio does; on trio there is but one way."""
    if not readers.batch.is_asyncio:
        return
    task = asyncio.current_task()
    assert task is not None
    readers.leaves_natively = True
    task.cancel()
    try:
        await asyncio.sleep(1)
    finally:
        task.uncancel()


async def meddle(batch: Batch, tasks: list[asyncio.Task[Any]]) -> None:
    """Resize the batch's own limiter, drain it, or strike at its tasks, at random moments."""
    pick = batch.pick
    scale = pick.choice((2, 20, 200))
    for _ in range(pick.randint(1, 6) if batch.acts else 0):
        await _wait(batch, scale)
        act = pick.choice(batch.acts)
        if act == "strike":
            _strike(batch, tasks)
        elif batch.outcomes is None:  # not open yet, or collect
            continue
        elif act == "resize":
            await _resize(batch, scale)
        else:
            batch.drained = True
            batch.outcomes.drain()
    await anyio.sleep_forever()


async def _wait(batch: Batch, scale: int) -> None:
    amount = batch.pick.randrange(scale)
    await (batch.pause if batch.pick.random() < 0.5 else batch.step_aside)(amount)


async def _resize(batch: Batch, scale: int) -> None:
    """Change the total of the batch's own limiter; a pause is ended again, unless it drains."""
    pick = batch.pick
    if pick.random() < 0.2:
        batch.resize_own(0)
        await _wait(batch, scale)
        if "drain" in batch.acts and pick.random() < 0.3:
            assert batch.outcomes is not None
            batch.drained = True
            batch.outcomes.drain()
            return
    batch.resize_own(math.inf if pick.random() < 0.1 else pick.randint(1, 2 * batch.max_concurrent))


def _strike(batch: Batch, tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel one of the tasks of the core, or of a call, natively."""
    alive = [task for task in tasks if not task.done() and _is_struck(task)]
    if alive:
        batch.strike(batch.pick.choice(alive))


def _is_struck(task: asyncio.Task[Any]) -> bool:
    name = task.get_name()
    if name.endswith("OutcomeStream._run") and getcoroutinestate(task.get_coro()) == CORO_CREATED:
        return False  # anyio's TaskGroup.start waits for ever for one cancelled before it began
    return name == CHILD or name.startswith(CORE)


def record_tasks(batch: Batch) -> list[asyncio.Task[Any]]:
    """Have the running loop append each new task to the list, which is returned.

    asyncio itself knows them in no order, and a strike would be another one each time.
    """
    tasks: list[asyncio.Task[Any]] = []

    def make(coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, **options)
        tasks.append(task)
        return task

    loop = asyncio.get_running_loop()
    if batch.backend == "eager":
        loop.set_task_factory(asyncio.create_eager_task_factory(make))
    else:
        loop.set_task_factory(lambda loop, coro, **options: make(coro, loop=loop, **options))
    return tasks


def _core_tasks(batch: Batch, tasks: list[asyncio.Task[Any]], before: int) -> int:
    """Count the tasks of the core that live, when its block was left."""
    if not batch.is_asyncio:
        return tasks_alive(batch.backend) - before
    return sum(task.get_name().startswith(CORE) for task in tasks if not task.done())
