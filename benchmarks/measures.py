"""Overhead per prompt, in interleaved rounds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter, process_time
from typing import Any

from .backends import BASELINES, Generate, available, run, workload
from .contenders import drain
from .entrants import Contender, entrants

Cell = dict[str, Any]

# workload, prompts, max_concurrent
QUICK_GRID = (("checkpoint", 1_000, 50), ("noop", 10_000, 50), ("checkpoint", 10_000, 50))
SIZES, BOUNDS = (1_000, 10_000, 100_000), (5, 50, 1_000)
FULL_GRID = (
    *((work, n, k) for work in ("checkpoint", "noop") for n in SIZES for k in BOUNDS),
    # Beyond 200 rounds it would be the sleeping that is measured.
    *(("sleep", n, k) for n in SIZES for k in BOUNDS if n <= 200 * k),
)
QUICK_BIG = ("checkpoint", 100_000, 50)  # only genbatch and the baseline


def progress(text: str) -> None:
    """Say on stderr what is being measured."""
    print(text, file=sys.stderr, flush=True)


async def timed(
    contender: Contender, generate: Generate, n: int, k: int, clock: Callable[[], float]
) -> float:
    """Run n prompts and return what a clock says that they took."""
    began = clock()
    async with contender.open(generate, range(n), k) as results:
        await drain(results)
    return clock() - began


def interleave(
    contenders: Iterable[Contender], backend: str, rounds: int, *arguments: Any
) -> dict[str, list[float]]:
    """Time contenders A B C A B C, so that what else the machine does falls on all alike.

    The arguments are those of timed behind the contender.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            gc.collect()
            seconds[contender.name].append(run(backend, timed, contender, *arguments))
    return seconds


def overhead(quick: bool) -> list[Cell]:
    """Time per prompt of calls that take next to none, and its ratio to the baseline."""
    cells: list[Cell] = []
    for backend in available():
        slowest: dict[str, float] = {}  # seconds a prompt, to foresee what would take too long
        for work, n, k in QUICK_GRID if quick else FULL_GRID:
            progress(f"overhead: {backend}, {work}, n={n}, k={k}")
            fields = {"backend": backend, "workload": work, "n": n, "k": k}
            cells += _overhead_cells(fields, entrants(backend), slowest, quick)
        if quick and backend == "asyncio":
            work, n, k = QUICK_BIG
            progress(f"overhead: {backend}, {work}, n={n}, k={k}")
            fields = {"backend": backend, "workload": work, "n": n, "k": k}
            few = [c for c in entrants(backend) if _is_never_skipped(c, backend)]
            cells += _overhead_cells(fields, few, slowest, quick)
    return cells


def _is_never_skipped(contender: Contender, backend: str) -> bool:
    return contender.name.startswith("genbatch.") or contender.name == BASELINES[backend]


def _overhead_cells(
    fields: Cell, contenders: list[Contender], slowest: dict[str, float], quick: bool
) -> list[Cell]:
    backend, n, k = fields["backend"], fields["n"], fields["k"]
    budget, rounds = (0.3, 3) if quick else (2.5, 5 if n <= 1_000 else 3)
    notes = {contender.name: contender.note(backend) for contender in contenders}
    for contender in contenders:
        slow = slowest.get(contender.name, 0.0) * n > budget
        if slow and not _is_never_skipped(contender, backend):
            notes[contender.name] = f"left out: more than {budget} s"
    running = [contender for contender in contenders if not notes[contender.name]]
    generate = workload(fields["workload"], backend)
    # What never sleeps is timed by the processor: other programs' load is not in it.
    clock = perf_counter if fields["workload"] == "sleep" else process_time
    seconds = interleave(running, backend, rounds, generate, n, k, clock)
    baseline = median(seconds[BASELINES[backend]])
    for name, times in seconds.items():
        if fields["workload"] != "sleep":
            slowest[name] = max(slowest.get(name, 0.0), median(times) / n)
    return [
        {**fields, "contender": name, "note": notes[name]}
        if notes[name]
        else {
            **fields,
            "contender": name,
            "seconds": [round(value, 6) for value in seconds[name]],
            "us_per_prompt": round(median(seconds[name]) / n * 1e6, 3),
            "ratio": round(median(seconds[name]) / baseline, 3),
        }
        for name in notes
    ]
