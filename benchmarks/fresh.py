"""The measures taken in fresh processes: overhead, memory, first outcome, imports, deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from .backends import BASELINES, available
from .entrants import CONTENDERS, Contender, entrants, named
from .measures import Cell, progress

ROOT = Path(__file__).parent.parent
QUICK_NAMES = {"genbatch.stream", "genbatch.collect", "aiometer.amap", *BASELINES.values()}

# workload, prompts, max_concurrent
QUICK_GRID = (
    ("checkpoint", 1_000, 50),
    ("checkpoint", 10_000, 50),
    ("noop", 10_000, 50),
    ("contextvar", 10_000, 50),
    ("checkpoint", 10_000, 1),
    ("readers", 10_000, 50),
)
QUICK_GRIDS = {
    "asyncio": (*QUICK_GRID, ("checkpoint", 100_000, 50)),
    "uvloop": (("checkpoint", 10_000, 50), ("noop", 10_000, 50)),
    "trio": QUICK_GRID,
}
FULL_GRID = (
    *(("checkpoint", n, k) for n in (1_000, 10_000) for k in (1, 5, 50, 1_000)),
    ("checkpoint", 100_000, 50),
    *(("noop", 10_000, k) for k in (5, 50, 1_000)),
    *(("contextvar", n, 50) for n in (10_000, 100_000)),
    ("readers", 10_000, 50),
    # Beyond 200 rounds it would be the sleeping that is measured.
    *(("sleep", n, k) for n, k in ((1_000, 5), (1_000, 50), (10_000, 50), (10_000, 1_000))),
)


def child(*arguments: str, timeout: float) -> dict[str, Any] | None:
    """Run one measure of child.py in a fresh process; None if it took too long."""
    command = [sys.executable, "-m", "benchmarks.child", *arguments]
    # With bytecode, as an installed package has it.
    skipped = "PYTHONDONTWRITEBYTECODE"
    environment = {name: value for name, value in os.environ.items() if name != skipped}
    try:
        pipe = subprocess.PIPE  # stderr stays ours, for what may go wrong
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=pipe, timeout=timeout, check=True
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout)


def overhead(quick: bool) -> list[Cell]:
    """Time per prompt of calls that take next to none, and its ratio to the baseline."""
    cells: list[Cell] = []
    budget = 0.3 if quick else 2.5  # seconds for a batch
    for backend in available():
        slowest: dict[str, float] = {}  # seconds a prompt, to foresee what would take too long
        for work, n, k in QUICK_GRIDS[backend] if quick else FULL_GRID:
            progress(f"overhead: {backend}, {work}, n={n}, k={k}")
            fields = {"backend": backend, "workload": work, "n": n, "k": k}
            for contender in _overhead_contenders(fields, quick):
                note = contender.note(backend)
                slow = slowest.get(contender.name, 0.0) * n > budget
                if slow and not _is_never_skipped(contender, backend):
                    note = f"left out: more than {budget} s"
                found = {"note": note} if note else _overhead(contender, fields, quick)
                if "us_per_prompt" in found and work != "sleep":
                    seconds = found["us_per_prompt"] / 1e6
                    slowest[contender.name] = max(slowest.get(contender.name, 0.0), seconds)
                cells.append({**fields, "contender": contender.name, **found})
    return cells


def _overhead_contenders(fields: Cell, quick: bool) -> Iterator[Contender]:
    """Yield those that belong in a cell; of a quick run, mostly genbatch and the baseline."""
    backend, work, n, k = fields.values()
    if work == "readers":
        yield from (c for c in entrants(backend, work) if c.special == work)
    elif quick and n > 10_000:
        yield named("genbatch.stream")
    else:
        few = quick and ((work, k) != ("checkpoint", 50) or backend == "uvloop")
        for contender in entrants(backend, "limiter" if work == "checkpoint" else ""):
            if not few or _is_never_skipped(contender, backend):
                yield contender


def _is_never_skipped(contender: Contender, backend: str) -> bool:
    return contender.name.startswith("genbatch.") or contender.name == BASELINES[backend]


def _overhead(contender: Contender, fields: Cell, quick: bool) -> Cell:
    """Time a contender in a process of its own, in turn with what it is compared with."""
    backend, work, n, k = fields.values()
    rounds = 9 if not quick and _is_never_skipped(contender, backend) else 3
    calls = "checkpoint" if work == "readers" else work
    arguments = (contender.name, backend, calls, str(n), str(k), str(rounds))
    result = child("overhead", *arguments, timeout=600)
    if result is None:
        return {"note": "took too long"}
    ours, baseline = median(result["seconds"]), median(result["baseline"])
    return {
        "rounds": rounds,
        "us_per_prompt": round(ours / n * 1e6, 3),
        "baseline_us_per_prompt": round(baseline / n * 1e6, 3),
        "ratio": round(ours / baseline, 3),
    }


def memory(quick: bool) -> list[Cell]:
    """Peak of resident memory for 1k, 100k and, where memory is meant to be flat, 1M prompts."""
    cells = []
    for backend in ("asyncio", "trio"):
        names = [c for c in entrants(backend) if not quick or c.name in QUICK_NAMES]
        for contender in names:
            cells += _memory_cells(contender, backend, quick)
    return cells


def _memory_cells(contender: Contender, backend: str, quick: bool) -> list[Cell]:
    fields = {"backend": backend, "contender": contender.name, "k": 50}
    if note := contender.note(backend):
        return [{**fields, "note": note}]
    sizes = [1_000, 100_000]
    if contender.flat and (not quick or contender.name == "genbatch.stream"):
        sizes.append(1_000_000)
    cells: list[Cell] = []
    for n in sizes:
        progress(f"memory: {backend}, {contender.name}, n={n}")
        result = child("memory", contender.name, backend, str(n), timeout=40 if quick else 120)
        if result is None:
            cells.append({**fields, "n": n, "note": "took too long"})
            continue
        base = cells[0]["peak_kib"] if cells else result["peak_kib"]
        cells.append({**fields, "n": n, **result, "growth_kib": result["peak_kib"] - base})
    return cells


def first(quick: bool) -> list[Cell]:
    """Milliseconds to the first outcome of 100k prompts, k=5, 1 ms each."""
    patience, rounds = (2.5, 3) if quick else (10.0, 5)
    cells = []
    for backend in ("asyncio", "trio"):
        contenders = [c for c in entrants(backend) if not c.note(backend)]
        contenders = [c for c in contenders if not quick or c.name in QUICK_NAMES]
        seen: dict[str, list[float]] = {c.name: [] for c in contenders}
        too_long: set[str] = set()
        for _ in range(rounds):
            for name in [c.name for c in contenders if c.name not in too_long]:
                progress(f"first: {backend}, {name}")
                result = child("first", name, backend, "100000", timeout=patience)
                if result is None:
                    too_long.add(name)
                else:
                    seen[name].append(result["milliseconds"])
        fields = {"backend": backend, "n": 100_000, "k": 5}
        cells += [
            {**fields, "contender": name, "note": f"more than {patience} s"}
            if name in too_long
            else {**fields, "contender": name, "milliseconds": round(median(times), 3)}
            for name, times in seen.items()
        ]
    return cells


def deadline(quick: bool) -> list[Cell]:
    """Seconds that a 0.05 s deadline over an endless source takes, nothing ever blocking."""
    cells = []
    names = ["genbatch.stream", "genbatch.collect"]
    names += [c.name for c in CONTENDERS if c.flat and c.name not in (*names, "aiometer.amap")]
    for backend in ("asyncio", "trio"):
        for name in [c.name for c in entrants(backend) if c.name in names and not c.note(backend)]:
            progress(f"deadline: {backend}, {name}")
            runs = [child("deadline", name, backend, timeout=5) for _ in range(1 if quick else 5)]
            cell = {"backend": backend, "contender": name}
            times = [result["seconds"] for result in runs if result]
            note = {} if len(times) == len(runs) else {"note": "did not stop within 5 s"}
            cells.append({**cell, **note} if note else {**cell, "seconds": median(times)})
    return cells


def imports(quick: bool) -> list[Cell]:
    """Time to import genbatch, beside the very statements by which it imports from anyio."""
    progress("imports")
    found = child("genbatch_import", timeout=60)
    assert found is not None
    statements = "\n".join(found["anyio"])
    ours, theirs = [], []
    for _ in range(7 if quick else 25):
        ours.append(child("genbatch_import", timeout=60)["seconds"])  # type: ignore[index]
        theirs.append(child("anyio_import", statements, timeout=60)["seconds"])  # type: ignore[index]
    return [
        {
            "genbatch_ms": round(median(ours) * 1e3, 2),
            "anyio_ms": round(median(theirs) * 1e3, 2),
            "ratio": round(median(ours) / median(theirs), 3),
            "heavy_modules": found["heavy"],
            "anyio_names": found["anyio"],
        }
    ]
