"""Makespan efficiency: the ideal time of a batch over its actual time.

Twice: on the wall clock, where costs and the machine's other load count, and under virtual time,
where nothing counts but who starts which call when.
"""

from __future__ import annotations

import itertools
import random
from functools import partial
from statistics import median
from time import perf_counter

import anyio

from . import virtual
from .backends import bare_sleep
from .entrants import Contender, entrants
from .measures import Cell, interleave, progress, timed

MEAN = 0.02  # seconds that a call takes
SKEW = (1.0,) * 19 + (20.0,)  # one call in twenty takes twenty times as long


def makespan(quick: bool) -> list[Cell]:
    """Ideal time over actual time, for even and for skewed latencies."""
    n, k, rounds = (100, 10, 1) if quick else (400, 20, 5)
    cells = []
    for backend in ("asyncio", "trio"):
        for latencies in ("even", "skewed"):
            progress(f"makespan: {backend}, {latencies} latencies")
            cells += _cells(backend, latencies, n, k, rounds)
    return cells


def draw_delays(latencies: str, n: int) -> list[float]:
    """Return the seconds of n calls, in the order in which they start."""
    pick = random.Random(n)
    if latencies == "even":
        return [MEAN * pick.uniform(0.5, 1.5) for _ in range(n)]
    return [MEAN * pick.choice(SKEW) / (sum(SKEW) / len(SKEW)) for _ in range(n)]


def _cells(backend: str, latencies: str, n: int, k: int, rounds: int) -> list[Cell]:
    delays = draw_delays(latencies, n)
    ideal = max(sum(delays) / k, max(delays))
    sleep = bare_sleep(backend)

    starts = itertools.count()

    async def generate(prompt: int) -> int:
        # By start, not by prompt: some start in the order of a set, and would have other luck.
        await sleep(delays[next(starts) % n])
        return prompt

    def scheduled(contender: Contender) -> float:
        main = partial(timed, contender, generate, n, k, anyio.current_time)
        return ideal / virtual.run(backend, main)

    contenders = entrants(backend, "ordered")
    running = [contender for contender in contenders if not contender.note(backend)]
    seconds = interleave(running, backend, rounds, generate, n, k, perf_counter)
    fields = {"backend": backend, "latencies": latencies, "n": n, "k": k}
    return [
        {**fields, "contender": c.name, "note": c.note(backend)}
        if c.note(backend)
        else {
            **fields,
            "contender": c.name,
            "ordered": c.ordered,
            "efficiency": round(ideal / median(seconds[c.name]), 3),
            "scheduled": round(scheduled(c), 3),
        }
        for c in contenders
    ]
