"""Random batches for the fuzz, and the record of what became of each prompt."""

from __future__ import annotations

import contextvars
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from genbatch import Failure, Outcome, Success, collect

setting: contextvars.ContextVar[object] = contextvars.ContextVar("setting")

SIZES = ((0, 3), (4, 40), (41, 250), (251, 1500))
FATES = ("fails", "cancels itself", "nests")  # what a call may do besides returning


@dataclass
class Record:
    """Counts of what must not happen, and of the prompts watched."""

    prompts: int = 0
    lost: int = 0
    duplicated: int = 0
    over_limit: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing that must not happen has happened."""
        return not (self.lost or self.duplicated or self.over_limit)

    def add(self, other: Record) -> None:
        """Add the counts of another record."""
        self.prompts += other.prompts
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.over_limit += other.over_limit


@dataclass
class Batch:
    """One random batch: made by plan from its seed alone, so that a seed reproduces it."""

    backend: str
    pick: random.Random
    size: int
    max_concurrent: int
    tokens: int | None
    resizes: bool
    ordered: bool
    source: str  # "list", "iterator", "async" or "endless"
    longest: int  # of a call, in units of time
    dirty: float  # share of calls that set a context variable
    fates: dict[int, str]

    limiter: anyio.CapacityLimiter | None = None
    ceiling: int = 0  # most calls that may be running now
    running: int = 0
    pulled: int = 0
    reads: bool = True  # outcomes are read one by one, so that the window can be watched
    left: bool = False
    seen: dict[int, int] = field(default_factory=dict)  # times that an index was handed over
    handed_over: int = 0
    record: Record = field(default_factory=Record)

    def open(self) -> dict[str, Any]:
        """Return the arguments for stream or collect; call it inside the event loop."""
        if self.tokens is not None:
            self.limiter = anyio.CapacityLimiter(self.tokens)
        self._lower_ceiling()
        sources = {
            "list": lambda: range(self.size),
            "iterator": self._pull,
            "endless": self._pull,
            "async": self._pull_async,
        }
        return {
            "prompts": sources[self.source](),
            "max_concurrent": self.max_concurrent,
            "limiter": self.limiter,
        }

    def _pull(self) -> Iterator[int]:
        while self.source == "endless" or self.pulled < self.size:
            self.pulled += 1
            if self.reads and self.pulled - self.handed_over > 2 * self.max_concurrent:
                self.record.over_limit += 1
            yield self.pulled - 1

    async def _pull_async(self) -> AsyncIterator[int]:
        async with anyio.create_task_group():  # breaks if several tasks iterate
            for prompt in self._pull():
                if self.pick.random() < 0.2:
                    await self.pause(self.pick.randrange(3))
                yield prompt

    async def pause(self, units: int) -> None:
        """Let time pass; on uvloop, whose clock is real, a few checkpoints."""
        if self.backend == "uvloop":
            for _ in range(2 * units):
                await checkpoint()
        else:
            await anyio.sleep(units)

    def _lower_ceiling(self) -> None:
        """Lower the ceiling to the limit: after a resize only once no more are borrowed."""
        limit = self.max_concurrent
        if self.limiter is not None:
            limit = min(limit, int(self.limiter.total_tokens))
            if self.limiter.borrowed_tokens > self.limiter.total_tokens:
                return
        self.ceiling = limit

    def resize(self, tokens: int) -> None:
        """Change the limiter while the batch runs."""
        assert self.limiter is not None
        self._lower_ceiling()
        self.ceiling = max(self.ceiling, min(tokens, self.max_concurrent))
        self.limiter.total_tokens = tokens

    async def generate(self, prompt: int) -> int:
        """Take some time, then meet the fate planned for this prompt."""
        self.running += 1
        self._lower_ceiling()
        if self.left or self.running > self.ceiling:
            self.record.over_limit += 1
        if setting.get(None) is not None:
            self.record.lost += 1  # it sees another's context: its own outcome is spoilt
        if self.pick.random() < self.dirty:
            setting.set(self)
        try:
            if units := self.pick.randrange(self.longest + 1):
                await self.pause(units)
            if fate := self.fates.get(prompt):
                await _meet(fate, prompt)
        finally:
            self.running -= 1
        return -prompt

    def take(self, outcome: Outcome[int, int]) -> None:
        """Record an outcome in the very step in which a read returns it."""
        index = outcome.index
        self.handed_over += 1
        self.seen[index] = times = self.seen.get(index, 0) + 1
        if times > 1:
            self.record.duplicated += 1
        in_turn = not self.ordered or index == self.handed_over - 1
        if outcome.prompt != index or not in_turn or not self._is_right(outcome):
            self.record.lost += 1  # something else came in its place

    def _is_right(self, outcome: Outcome[int, int]) -> bool:
        fate = self.fates.get(outcome.index, "nests")
        if isinstance(outcome, Success):
            return fate == "nests" and outcome.value == -outcome.index
        assert isinstance(outcome, Failure)
        if fate == "fails":
            return isinstance(outcome.error, ValueError) and outcome.error.args == (outcome.index,)
        return fate == "cancels itself"

    def finish(self, ended: bool) -> Record:
        """Return the record; ended says that a reader was told that this was all."""
        self.record.prompts = len(self.seen)
        if ended:
            self.record.lost += self.source == "endless" or self.size - len(self.seen)
        self.record.over_limit += self.running
        return self.record


async def _meet(fate: str, prompt: int) -> None:
    if fate == "fails":
        raise ValueError(prompt)
    if fate == "nests":
        inner = await collect(_double, range(3), max_concurrent=2)
        assert [outcome.unwrap() for outcome in inner] == [0, 2, 4]
        return
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except anyio.get_cancelled_exc_class() as exc:
            stolen = exc
    raise stolen  # a cancellation that nobody asked for


async def _double(prompt: int) -> int:
    await checkpoint()
    return 2 * prompt


def plan(seed: int, backend: str) -> Batch:
    """Make the random batch of a seed."""
    pick = random.Random(seed)
    size = pick.randint(*pick.choice(SIZES))
    k = pick.choice((1, 2, 3, 5, 8, 20, 64))
    rate = pick.choice((0.0, 0.02, 0.2))
    tokens = pick.choice((None, None, pick.randint(1, k + 3)))
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
        dirty=pick.choice((0.0, 0.0, 0.3)),
        fates={index: pick.choice(FATES) for index in range(size) if pick.random() < rate},
    )
