"""How a batch fares where a service says "too many": ``python -m benchmarks.storm [--docs]``.

Services are modelled under virtual time: one that runs so many calls at once, one that lets so many
start in any 60 seconds or ten minutes, one that counts anew each full minute. A throttled batch,
which is told nothing of them, is set beside batches of fixed concurrency, in which each rejected
call waits by itself, for the delay if it is told one, else 1, 2, 4, ... up to 60 seconds with
jitter, and is made again. Each cell has the time of the batch over the ideal one, and the
rejections after the first 20 calls.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import random

import anyio

from genbatch import RateLimited, Success, Throttle, stream, throttled

from . import virtual

DOCS = Path(__file__).parent.parent / "docs" / "throttle.md"
MARKS = ("<!-- storm -->\n", "<!-- end -->\n")


@dataclass
class Service:
    """Answers calls, after so many seconds, and rejects those that are too many at once.

    Attributes:
        takes: Seconds that a call takes.
        tells: Whether a rejection says how long to wait.
        late: Rejections after the first 20 calls.
    """

    takes: float
    tells: bool = False
    running: int = 0
    calls: int = 0
    rejected: int = 0
    late: int = 0

    async def generate(self, prompt: int) -> int:
        """Answer, or raise RateLimited."""
        now = anyio.current_time()
        self.calls += 1
        if (wait := self.wait(now)) > 0:
            self.rejected += 1
            self.late += self.calls > 20
            raise RateLimited("too many calls", retry_after=wait if self.tells else None)
        self.running += 1
        try:
            await anyio.sleep(self.takes)
        finally:
            self.running -= 1
        return prompt

    def wait(self, now: float) -> float:
        """Return seconds until there is room for one more; 0 lets one in."""
        raise NotImplementedError


@dataclass
class Crowd(Service):
    """Runs so many calls at once; may fall to fewer once it has let a number of calls in."""

    room: int = 40
    falls_to: int | None = None
    falls_after: int = 0
    let_in: int = 0

    def wait(self, now: float) -> float:
        room = self.room
        if self.falls_to is not None and self.let_in >= self.falls_after:
            room = self.falls_to
        if self.running >= room:
            return self.takes / room
        self.let_in += 1
        return 0.0


@dataclass
class Rolling(Service):
    """Lets so many calls start in any window of seconds."""

    quota: int = 60
    window: float = 60.0
    kept: deque[float] = field(default_factory=deque)

    def wait(self, now: float) -> float:
        while self.kept and self.kept[0] <= now - self.window:
            self.kept.popleft()
        if len(self.kept) >= self.quota:
            return self.kept[-self.quota] + self.window - now
        self.kept.append(now)
        return 0.0


@dataclass
class Minutes(Service):
    """Lets so many calls start in each minute of the clock, the first of which has begun."""

    quota: int = 60
    window: float = 60.0
    into: float = 37.0  # seconds of the first minute that are over
    began: float | None = None
    minute: int = -1
    used: int = 0

    def wait(self, now: float) -> float:
        if self.began is None:
            self.began = now - self.into
        into = now - self.began
        if int(into // self.window) != self.minute:
            self.minute, self.used = int(into // self.window), 0
        if self.used >= self.quota:
            return (self.minute + 1) * self.window - into
        self.used += 1
        return 0.0


async def run(generate: Callable[[int], Awaitable[int]], n: int, k: int) -> tuple[int, float]:
    """Run a batch; return its successes and its seconds."""
    began = anyio.current_time()
    async with stream(generate, range(n), max_concurrent=k) as outcomes:
        succeeded = [outcome async for outcome in outcomes if isinstance(outcome, Success)]
    return len(succeeded), anyio.current_time() - began


def throttle_run(
    service: Service, n: int, k: int, backend: str = "asyncio", seed: int | None = None
) -> tuple[int, float]:
    """Run a batch through a throttle of its own; return its successes and its seconds."""
    generate = throttled(service.generate, Throttle(patience=1e5))
    return virtual.run(backend, partial(run, generate, n, k), seed)


def fixed_run(service: Service, n: int, k: int) -> tuple[int, float]:
    """Run a batch in which each call retries by itself; return its successes and its seconds."""

    async def persist(prompt: int) -> int:
        pause = 1.0
        while True:
            try:
                return await service.generate(prompt)
            except RateLimited as exc:
                await anyio.sleep(exc.retry_after or pause * random())
                pause = min(60.0, 2 * pause)

    return virtual.run("asyncio", partial(run, persist, n, k))


@dataclass
class Storm:
    """A batch, the service that it meets, and the least seconds that it can take there."""

    name: str
    make: Callable[[], Service]
    n: int
    k: int
    ideal: float
    others: tuple[int, ...]  # fixed concurrencies to set beside


def storms() -> list[Storm]:
    """Return all batches of the table."""
    crowds = [
        Storm("40 at once", partial(Crowd, 8, room=40), 1500, 100, 300, (100, 40)),
        Storm("40, later 10 at once", partial(Crowd, 8, room=40, falls_to=10, falls_after=750),
              1500, 100, 750, (100, 10)),
        Storm("1,000 at once", partial(Crowd, 8, room=1000), 1500, 100, 120, (100, 10)),
    ]  # fmt: skip
    told, untold = ", tells the delay", ", tells nothing"
    timed = [
        Storm(f"{quota} in any minute{told if tells else untold}",
              partial(Rolling, takes, tells, quota=quota), 300, 50, 300 / quota * 60, (50, 1))
        for quota, tells in ((60, True), (60, False), (5, True), (5, False))
        for takes in (0.2, 3, 8, 20)
    ]  # fmt: skip
    minutes = [
        Storm(f"{quota} in each minute{told if tells else untold}",
              partial(Minutes, 8, tells, quota=quota), 300, 50, 300 / quota * 60, (50, 1))
        for quota, tells in ((60, True), (60, False), (5, True), (5, False))
    ]  # fmt: skip
    spending = [
        Storm(f"74 in any ten minutes{told if tells else untold}",
              partial(Rolling, 20, tells, quota=74, window=600), 300, 50, 300 / 74 * 600, (50, 1))
        for tells in (True, False)
    ]  # fmt: skip
    return crowds + timed + minutes + spending


def cell(storm: Storm, run_batch: Callable[[Service, int, int], tuple[int, float]]) -> str:
    """Run one batch; return its time over the ideal one, and how many rejections were late."""
    service = storm.make()
    succeeded, seconds = run_batch(service, storm.n, storm.k)
    if succeeded != storm.n:
        raise RuntimeError(f"{storm.name}: {succeeded} of {storm.n} succeeded")
    return f"{seconds / storm.ideal:.2f}, {service.late:,}"


def table() -> str:
    """Run all storms; return the table as Markdown."""
    lines = [
        "| the service allows | a call takes | prompts | ideal | throttled | many at once | few |",
        "|---|---|---|---|---|---|---|",
    ]
    for storm in storms():
        cells = [
            storm.name,
            f"{storm.make().takes:g} s",
            f"{storm.n:,}",
            f"{storm.ideal:,.0f} s",
            f"k={storm.k}: **{cell(storm, throttle_run)}**",
        ]
        for k in storm.others:
            fixed = partial(lambda service, n, _, k: fixed_run(service, n, k), k=k)
            cells.append(f"k={k}: {cell(storm, fixed)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table; with --docs, write it into its page too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--docs", action="store_true", help=f"write docs/{DOCS.name} too")
    options = parser.parse_args()
    text = table()
    print(text, end="")
    if options.docs:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        DOCS.write_text(before + MARKS[0] + text + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
