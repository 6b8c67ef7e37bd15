"""The measures taken in fresh processes: memory, first outcome, imports, deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from .backends import BASELINES
from .entrants import CONTENDERS, Contender, entrants
from .measures import Cell, progress

ROOT = Path(__file__).parent.parent
QUICK_NAMES = {"genbatch.stream", "genbatch.collect", "aiometer.amap", *BASELINES.values()}


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
