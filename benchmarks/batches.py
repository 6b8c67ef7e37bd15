"""Random batches for the fuzz, and the record of what became of each prompt."""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from genbatch import Failure, Outcome, OutcomeStream, Stopped, Success, collect, stream

setting: contextvars.ContextVar[object] = contextvars.ContextVar("setting")

SIZES = ((0, 3), (4, 40), (41, 250), (251, 1500))
# What a call may do besides returning; all but the first four need asyncio.
FATES = (
    "fails",
    "raises a cancellation",
    "nests",
    "nests a stream",
    "cancels its task",
    "cancels its task and waits",
    "swallows a cancellation",
    "lets a group fail",
    "catches a failed group",
)
PORTABLE_FATES = FATES[:4]
CANCELLED_FATES = ("raises a cancellation", "cancels its task and waits")
FATES_WITH_TASKS = ("nests", "nests a stream", "lets a group fail", "catches a failed group")
CHILD = "child of a call"  # the name of its task
INFINITE = 1_000  # calls at once that a batch makes of an infinite total


@dataclass
class Record:
    """Counts of what must not happen, and of what was watched.

    Attributes:
        short: Prompts without an outcome although a reader was told that this was all.
        lost: Outcomes that are wrong, out of turn, or went down with an unexpected error.
        doubled: Outcomes handed over again.
        over_limit: Moments over a bound: calls at once, prompts pulled ahead, calls after the end.
        hung: Batches that did not end.
        leaked: Tasks that outlived their batch.
        prompts: Those with an outcome.
        cut_short: Batches that said so by an error, after a strike at one of their tasks.
    """

    short: int = 0
    lost: int = 0
    doubled: int = 0
    over_limit: int = 0
    hung: int = 0
    leaked: int = 0
    prompts: int = 0
    cut_short: int = 0

    @property
    def faults(self) -> str:
        """The counts of what must not happen, as printed."""
        counts = (self.short, self.lost, self.doubled, self.over_limit, self.hung, self.leaked)
        return "/".join(map(str, counts))

    @property
    def clean(self) -> bool:
        """Whether nothing that must not happen has happened."""
        return self.faults == Record().faults

    def add(self, other: Record) -> None:
        """Add the counts of another record."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class Bound:
    """A total that changes: a lower one holds as soon as no more are there than it allows."""

    total: float
    most: float = 0

    def resize(self, total: float) -> None:
        """Set the total, of which infinity means what a batch makes of it."""
        self.total = INFINITE if total == math.inf else total
        self.most = max(self.most, self.total)

    def settle(self, present: float) -> None:
        """Lower most to the total if no more are there."""
        if present <= self.total:
            self.most = self.total


@dataclass
class Batch:
    """One random batch: made by plan from its seed alone, so that a seed reproduces it."""

    backend: str
    pick: random.Random
    size: int
    max_concurrent: int
    tokens: int | None
    resizes: bool  # the limiter that is given
    ordered: bool
    source: str  # "list", "iterator", "async" or "endless"
    longest: int  # of a call, in units of time
    dirty: float  # share of calls that set a context variable
    acts: tuple[str, ...]  # done to the batch meanwhile: "resize", "drain", "strike"
    fates: dict[int, str]

    limiter: anyio.CapacityLimiter | None = None
    outcomes: OutcomeStream[int, int] | None = None
    own: Bound = field(init=False)  # calls at once, by the batch's own limiter
    shared: Bound = field(init=False)  # calls at once, by the limiter that is given
    ahead: Bound = field(init=False)  # half of the prompts pulled and not handed over
    running: int = 0
    pulled: int = 0
    reads: bool = True  # outcomes are read one by one, so that the window can be watched
    left: bool = False
    drained: bool = False
    struck: bool = False
    marked: int = 0  # calls that began in a task which was to be cancelled
    hit: set[int] = field(default_factory=set)  # prompts whose call a strike may have ended
    calls: dict[Any, int] = field(default_factory=dict)  # prompts by the task that runs their call
    ways_out: dict[int, BaseException | None] = field(default_factory=dict)  # of calls that ended
    seen: dict[int, int] = field(default_factory=dict)  # times that an index was handed over
    handed_over: int = 0
    record: Record = field(default_factory=Record)

    def open(self) -> dict[str, Any]:
        """Return the arguments for stream or collect; call it inside the event loop."""
        self.own, self.ahead = Bound(0), Bound(0)
        self.shared = Bound(math.inf, math.inf)
        self.own.resize(self.max_concurrent)
        self.ahead.resize(self.max_concurrent)
        if self.tokens is not None:
            self.limiter = anyio.CapacityLimiter(self.tokens)
            self.shared = Bound(self.tokens, self.tokens)
        sources = {
            "list": lambda: _Sized(self),
            "iterator": self.pull,
            "endless": self.pull,
            "async": self._pull_async,
        }
        return {
            "prompts": sources[self.source](),
            "max_concurrent": self.max_concurrent,
            "limiter": self.limiter,
        }

    @property
    def is_asyncio(self) -> bool:
        """Whether tasks have native cancellation."""
        return self.backend != "trio"

    def pull(self) -> Iterator[int]:
        """Iterate the prompts, and watch how many are pulled."""
        for prompt in count() if self.source == "endless" else range(self.size):
            if self.drained:
                self.record.over_limit += 1
            self._count_pull()
            yield prompt

    async def _pull_async(self) -> AsyncIterator[int]:
        async with anyio.create_task_group():  # breaks if several tasks iterate
            for prompt in range(self.size):
                if self.pick.random() < 0.2:
                    await self.pause(self.pick.randrange(3))
                self._count_pull()
                yield prompt

    def _count_pull(self) -> None:
        self.pulled += 1
        self._settle_ahead()
        if self.reads and self.pulled - self.handed_over > 2 * self.ahead.most:
            self.record.over_limit += 1

    def _settle_ahead(self) -> None:
        # An asynchronous source may be asked for one already.
        asked = self.pulled - self.handed_over + (self.source == "async")
        self.ahead.settle(asked / 2)

    async def pause(self, units: int) -> None:
        """Let time pass; on uvloop, whose clock is real, a few checkpoints."""
        if self.backend == "uvloop":
            await self.step_aside(2 * units)
        else:
            await anyio.sleep(units)

    async def step_aside(self, times: int) -> None:
        """Let the others run, without time passing."""
        for _ in range(times):
            await checkpoint()

    def resize(self, tokens: int) -> None:
        """Change the limiter that is given while the batch runs."""
        assert self.limiter is not None
        self._settle_calls()
        self.shared.resize(tokens)
        self.limiter.total_tokens = tokens

    def resize_own(self, tokens: float) -> None:
        """Change the limiter of the batch while it runs."""
        assert self.outcomes is not None
        self._settle_calls()
        self.own.resize(tokens)
        self.ahead.resize(tokens)
        self.outcomes.limiter.total_tokens = tokens

    def _settle_calls(self, ending: int = 0) -> None:
        """Notice whether what is borrowed, but for a call that ends, is down to the totals."""
        if self.outcomes is not None:
            self.own.settle(self.outcomes.limiter.borrowed_tokens - ending)
        if self.limiter is not None:
            self.shared.settle(self.limiter.borrowed_tokens - ending)

    async def generate(self, prompt: int) -> int:
        """Take some time, then meet the fate planned for this prompt; note how it came out."""
        task = asyncio.current_task() if self.is_asyncio else None
        self._begin(prompt, task)
        try:
            if units := self.pick.randrange(self.longest + 1):
                await self.pause(units)
            if fate := self.fates.get(prompt):
                await _meet(fate, prompt, self)
        except BaseException as exc:
            self.ways_out[prompt] = exc
            raise
        else:
            self.ways_out[prompt] = None
        finally:
            self.running -= 1
            self._settle_calls(ending=1)
            self.calls.pop(task, None)
        return -prompt

    def _begin(self, prompt: int, task: asyncio.Task[Any] | None) -> None:
        """Watch a call begin: in its turn, and with nothing of another call about it."""
        self.running += 1
        self._settle_calls()
        most = min(self.own.most, self.shared.most)
        if self.left or self.drained or self.running > most:
            self.record.over_limit += 1
        if setting.get(None) is not None:
            self.record.lost += 1  # it sees another's context: its own outcome is spoilt
        if self.pick.random() < self.dirty:
            setting.set(self)
        if task is not None:
            self.marked += bool(task.cancelling())  # another's cancellation, or that of the batch
            self.calls[task] = prompt

    def strike(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the batch natively, and note which calls that may end."""
        self.struck = True
        if task in self.calls:
            self.hit.add(self.calls[task])
        else:  # it may be one that a call has started
            self.hit.update(p for p in self.calls.values() if self.fates.get(p) in FATES_WITH_TASKS)
        task.cancel()

    def take(self, outcome: Outcome[int, int]) -> None:
        """Record an outcome in the very step in which a read returns it."""
        index = outcome.index
        self.handed_over += 1
        self._settle_ahead()
        self.seen[index] = times = self.seen.get(index, 0) + 1
        if times > 1:
            self.record.doubled += 1
            return
        if outcome.prompt != index or not self._is_in_turn(index) or not self._is_right(outcome):
            self.record.lost += 1  # something else came in its place

    def _is_in_turn(self, index: int) -> bool:
        # One that is cut short has gaps where its calls were cancelled, before it says so.
        expected = max(self.seen) if self.struck else self.handed_over - 1
        return not self.ordered or index == expected

    def _is_right(self, outcome: Outcome[int, int]) -> bool:
        """Return whether this is what came out of the call, and what may come out of it."""
        index = outcome.index
        error = outcome.error if isinstance(outcome, Failure) else None
        if index not in self.ways_out:
            return self.drained and isinstance(error, Stopped)
        way_out = self.ways_out.pop(index)
        if isinstance(outcome, Success):
            is_right = way_out is None and outcome.value == -index
        elif isinstance(way_out, Exception):
            is_right = error is way_out
        else:  # a cancellation
            is_right = type(error) is RuntimeError and error.__cause__ is way_out is not None
        return is_right and (index in self.hit or self._is_expected(index, way_out))

    def _is_expected(self, index: int, way_out: BaseException | None) -> bool:
        fate = self.fates.get(index)
        if fate == "fails":
            return isinstance(way_out, ValueError) and way_out.args == (index,)
        if fate in CANCELLED_FATES:
            return not isinstance(way_out, Exception | None)
        if fate == "lets a group fail":
            return isinstance(way_out, ExceptionGroup) and way_out.exceptions[0].args == (index,)
        return way_out is None

    def finish(self, how: str) -> Record:
        """Return the record of a batch that has "ended", was "left", "cut short", or "".

        After an error of its source, "source", as after draining, there are no more prompts than
        were pulled.
        """
        self.record.prompts = len(self.seen)
        self.record.over_limit += self.running
        if how == "cut short":
            self.record.cut_short += 1
        else:
            self.record.lost += self.marked
        if how == "":
            self.record.short += 1  # its block was ended, and nobody was told anything
        if how == "ended" and self.source == "endless" and not self.drained:
            self.record.short += 1
        if how == "ended" or (how == "source" and self.reads):  # collect has told nothing else
            is_partial = self.drained or how == "source" or self.source == "endless"
            self.record.short += abs((self.pulled if is_partial else self.size) - len(self.seen))
        return self.record


class _Sized:
    """Prompts that know how many they are."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return self.batch.size

    def __iter__(self) -> Iterator[int]:
        return self.batch.pull()


async def _meet(fate: str, prompt: int, batch: Batch) -> None:
    match fate:
        case "fails":
            raise ValueError(prompt)
        case "raises a cancellation":
            raise await _stolen_cancellation()
        case "nests" | "nests a stream":
            await _nest(batch, streams=fate != "nests")
        case "lets a group fail":
            await _run_failing_group(prompt, batch)
        case "catches a failed group":
            try:
                await _run_failing_group(prompt, batch)
            except ExceptionGroup:
                pass
        case _:
            await _cancel_itself(fate)


async def _stolen_cancellation() -> BaseException:
    """Return a cancellation that nobody asked for."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()  # a checkpoint may pass, the schedule being shuffled
        except anyio.get_cancelled_exc_class() as exc:
            stolen = exc
    return stolen


async def _cancel_itself(fate: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if fate == "cancels its task and waits":
        await asyncio.sleep(0)
    if fate == "swallows a cancellation":
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass


async def _run_failing_group(prompt: int, batch: Batch) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail(prompt), name=CHILD)
        await batch.step_aside(batch.pick.randrange(3))


async def _fail(prompt: int) -> None:
    raise ValueError(prompt)


async def _nest(batch: Batch, streams: bool) -> None:
    """Run a batch inside a call, bounded by its own limiter or by one that it is given."""
    most, running = batch.pick.randint(1, 3), 0
    bounds: dict[str, Any] = {"max_concurrent": most}
    if batch.pick.random() < 0.5:
        bounds = {"max_concurrent": 3, "limiter": anyio.CapacityLimiter(most)}

    async def double(prompt: int) -> int:
        nonlocal running
        running += 1
        batch.record.over_limit += running > most
        try:
            await checkpoint()
        finally:
            running -= 1
        return 2 * prompt

    inner: list[Outcome[int, int]] = []
    if streams:
        async with stream(double, range(4), ordered=True, **bounds) as outcomes:
            async for outcome in outcomes:
                inner.append(outcome)  # noqa: PERF401 - those before an error count too
    else:
        inner = await collect(double, range(4), **bounds)
    batch.record.short += 4 - len(inner)
    values = [outcome.unwrap() for outcome in inner]
    assert values == [0, 2, 4, 6][: len(values)]


def plan(seed: int, backend: str) -> Batch:
    """Make the random batch of a seed."""
    pick = random.Random(seed)
    size = pick.randint(*pick.choice(SIZES))
    k = pick.choice((1, 2, 3, 5, 8, 20, 64))
    rate = pick.choice((0.0, 0.02, 0.2))
    tokens = pick.choice((None, None, pick.randint(1, k + 3)))
    fates = PORTABLE_FATES if backend == "trio" else FATES
    acts = {"resize": 0.35, "drain": 0.2, "strike": 0.0 if backend == "trio" else 0.3}
    return Batch(
        backend=backend,
        pick=pick,
        size=size,
        max_concurrent=k,
        tokens=tokens,
        resizes=tokens is not None and pick.random() < 0.5,
        ordered=pick.random() < 0.4,
        source=pick.choice(("list", "iterator", "iterator", "async", "endless")),
        longest=pick.choice((0, 0, 1, 3, 7)),
        dirty=pick.choice((0.0, 0.0, 0.3, 1.0)),
        acts=tuple(act for act, share in acts.items() if pick.random() < share),
        fates={index: pick.choice(fates) for index in range(size) if pick.random() < rate},
    )
