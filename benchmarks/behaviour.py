"""What contenders do when the reader is slow, leaves, or one call fails: counts, not times."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter

import anyio

from .backends import bare_sleep, run, tasks_alive
from .contenders import each
from .entrants import Contender, entrants
from .measures import Cell, progress

K = 5


@dataclass
class Calls:
    """Counts the calls made, those running and those cancelled; one of them may fail."""

    sleep: Callable[[float], Awaitable[None]]
    failing: int = -1
    made: int = 0
    running: int = 0
    cancelled: int = 0

    async def generate(self, prompt: int) -> int:
        self.made += 1
        self.running += 1
        try:
            await self.sleep(self._duration(prompt))
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if prompt == self.failing:
            raise ValueError(prompt)
        return prompt

    def _duration(self, prompt: int) -> float:
        """Return seconds, such that the failing call's siblings are in flight when it fails."""
        if prompt == self.failing:
            return 0.001
        return 0.003 if self.failing < 0 or prompt >= K else 0.03


def readahead(quick: bool) -> list[Cell]:
    """How many calls run ahead of a reader that is slower than they are."""
    reads = 40 if quick else 200
    cells = []
    for backend in ("asyncio", "trio"):
        progress(f"readahead: {backend}")
        for contender in entrants(backend):
            cell = {"backend": backend, "contender": contender.name, "k": K}
            if note := contender.note(backend):
                cells.append({**cell, "note": note})
                continue
            ahead = run(backend, _read_slowly, contender, backend, reads)
            cells.append({**cell, "n": 2 * reads, "unread": ahead})
    return cells


async def _read_slowly(contender: Contender, backend: str, reads: int) -> int:
    calls = Calls(bare_sleep(backend))
    read = ahead = 0
    async with contender.open(calls.generate, range(2 * reads), K) as results:
        async for _ in each(results):
            read += 1
            ahead = max(ahead, calls.made - read)
            if read == reads:
                break
            await calls.sleep(0.004)
    return ahead


def hygiene(quick: bool) -> list[Cell]:
    """Calls made and tasks alive once a block was left by break, and after one call failed."""
    n = 200 if quick else 1_000
    cells = []
    for backend in ("asyncio", "trio"):
        progress(f"hygiene: {backend}")
        for event in ("break", "failure"):
            for contender in entrants(backend, "fail_fast" if event == "failure" else ""):
                cell = {"backend": backend, "contender": contender.name, "event": event}
                if note := contender.note(backend):
                    cells.append({**cell, "note": note})
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of coroutines that were never awaited
                    seen = run(backend, _leave, contender, backend, event, n)
                cells.append({**cell, "n": n, "k": K, **seen})
    return cells


async def _leave(contender: Contender, backend: str, event: str, n: int) -> Cell:
    gc.collect()
    calls = Calls(bare_sleep(backend), failing=2 if event == "failure" else -1)
    alive_before = tasks_alive(backend)
    failed, left = "", 0.0
    try:
        async with contender.open(calls.generate, range(n), K) as results:
            async with aclosing(each(results)) as reading:
                async for _ in reading:
                    if event == "break":
                        left = perf_counter()
                        break
    except Exception as exc:  # noqa: BLE001 - whatever a contender makes of it is the finding
        failed = type(exc).__name__
    exit_ms = (perf_counter() - left) * 1e3 if left else 0.0
    seen = {
        "calls_at_exit": calls.made,
        "running_at_exit": calls.running,
        "tasks_alive": tasks_alive(backend) - alive_before,
        "cancelled": calls.cancelled,
    }
    await anyio.sleep(0.05)
    extra = {"raised": failed} if event == "failure" else {"exit_ms": round(exit_ms, 2)}
    return {**seen, "calls_later": calls.made, **extra}
