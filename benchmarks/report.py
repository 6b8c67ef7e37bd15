"""The tables: results as Markdown, with the goals first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .goals import Results, judge

Cell = dict[str, Any]
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def load(folder: Path) -> Results:
    """Read the results of all measures taken so far."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: result for name, result in found.items() if "cells" in result}


def markdown(results: Results) -> str:
    """Return all tables, with absolute times and what they depend on."""
    return "\n\n".join(["# Results", _machine(results), *_sections(results, absolute=True)]) + "\n"


def embed(results: Results, page: Path) -> None:
    """Put the tables, with ratios in place of times, between the marks of a page."""
    text = page.read_text()
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    if found:
        tables = "\n\n".join(_sections(results, absolute=False))
        page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")


def _sections(results: Results, absolute: bool) -> list[str]:
    tables = {
        "overhead": partial(_overhead, absolute=absolute),
        "makespan": _makespan,
        "memory": _memory,
        "first": _first,
        "readahead": _readahead,
        "hygiene": _hygiene,
        "deadline": _deadline,
        "imports": _imports,
    }
    parts = [table(results[name]["cells"]) for name, table in tables.items() if name in results]
    return [_goals(results), *parts]


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def unique(cells: list[Cell], *names: str) -> list[Any]:
    """Return the values, or tuples of them, that occur, each once and in order."""
    picked = [tuple(cell[name] for name in names) for cell in cells]
    found = list(dict.fromkeys(picked))
    return [one[0] for one in found] if len(names) == 1 else found


def _machine(results: Results) -> str:
    machine = next(iter(results.values()))["machine"]
    quick = sorted(name for name, result in results.items() if result["quick"])
    versions = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    subset = f" Measured with `--quick`: {', '.join(quick)}." if quick else ""
    return f"{machine['cpus']} processors, {machine['python']}, {versions}.{subset}"


def _goals(results: Results) -> str:
    rows = [
        (goal.text, goal.bound, goal.measured, "yes" if goal.met else "**no**")
        for goal in judge(results)
    ]
    return "## Goals\n\n" + table(("goal", "bound", "measured", "met"), rows)


def _overhead(cells: list[Cell], absolute: bool) -> str:
    unit = "Microseconds per prompt, and in parentheses their ratio" if absolute else "The ratio"
    parts = [
        f"## Overhead per prompt\n\n{unit} to gather + Semaphore, on trio to native channel "
        "workers, each timed in turn with its contender, in a process of their own. Less is "
        "better. In processor time, but on the wall clock where calls sleep."
    ]
    for backend in unique(cells, "backend"):
        here = [cell for cell in cells if cell["backend"] == backend]
        for work in unique(here, "workload"):
            chosen = [cell for cell in here if cell["workload"] == work]
            parts.append(f"### {backend}, {WORK[work]}\n\n{_overhead_table(chosen, absolute)}")
    return "\n\n".join(parts)


WORK = {
    "noop": "a call that does nothing",
    "checkpoint": "one checkpoint",
    "contextvar": "a ContextVar set and left set, one checkpoint",
    "readers": "one checkpoint, read by many tasks at once: the ratio is to one reader's time",
    "sleep": "1 ms sleep",
}


def _overhead_table(cells: list[Cell], absolute: bool) -> str:
    def text(cell: Cell | None) -> str:
        if cell is None:
            return "-"
        form = "{us_per_prompt:.1f} ({ratio:.2f})" if absolute else "{ratio:.2f}"
        return cell.get("note") or form.format(**cell)

    sizes = unique(cells, "n", "k")
    found = {(cell["contender"], cell["n"], cell["k"]): cell for cell in cells}
    rows = [
        [name, *(text(found.get((name, n, k))) for n, k in sizes)]
        for name in unique(cells, "contender")
    ]
    return table(["", *(f"n={n:,} k={k:,}" for n, k in sizes)], rows)


def _pivot(cells: list[Cell], column: str, value: str, form: str = "{}") -> str:
    """Return a table of contenders by what column says, one for all backends."""
    columns = unique(cells, "backend", column) if column else unique(cells, "backend")
    keys = [one if isinstance(one, tuple) else (one,) for one in columns]
    names = ("backend", column) if column else ("backend",)
    found = {(c["contender"], *(c[name] for name in names)): c for c in cells}

    def text(cell: Cell | None) -> str:
        if cell is None:
            return "-"
        return cell.get("note") or form.format(cell[value])

    rows = [
        [name, *(text(found.get((name, *key))) for key in keys)]
        for name in unique(cells, "contender")
    ]
    return table(["", *(" ".join(str(part) for part in key) for key in keys)], rows)


def _makespan(cells: list[Cell]) -> str:
    return (
        "## Makespan efficiency\n\nIdeal time over actual time, 1 is perfect. Skewed: one call in "
        "twenty takes twenty times as long. By the schedule alone, in virtual time:\n\n"
        + _pivot(cells, "latencies", "scheduled")
        + "\n\nOn the wall clock:\n\n"
        + _pivot(cells, "latencies", "efficiency")
    )


def _memory(cells: list[Cell]) -> str:
    rows = [
        (
            cell["backend"],
            cell["contender"],
            f"{cell['n']:,}" if "n" in cell else "",
            cell.get("note") or f"{cell['peak_kib'] / 1024:.1f}",
            "" if "note" in cell else f"{cell['growth_kib'] / 1024:.1f}",
            "" if "note" in cell else f"{cell['seconds']:.2f}",
        )
        for cell in cells
    ]
    heads = ("backend", "", "n", "peak MB", "growth from 1k, MB", "seconds")
    intro = "## Memory\n\nPeak of resident memory, each cell in a fresh process; k=50."
    return f"{intro}\n\n{table(heads, rows)}"


def _first(cells: list[Cell]) -> str:
    intro = "## Time to the first outcome\n\nMilliseconds; 100,000 prompts of 1 ms, k=5."
    return f"{intro}\n\n{_pivot(cells, '', 'milliseconds')}"


def _readahead(cells: list[Cell]) -> str:
    intro = (
        "## Calls ahead of a slow reader\n\nMost calls made and not yet read, k=5, of "
        f"{next(cell['n'] for cell in cells if 'n' in cell)} prompts."
    )
    return f"{intro}\n\n{_pivot(cells, '', 'unread')}"


def _hygiene(cells: list[Cell]) -> str:
    n = next(cell["n"] for cell in cells if "n" in cell)
    parts = [
        f"## Hygiene\n\n{n} prompts of 3 ms, k=5. Calls made when the block was left and 50 ms "
        "later, calls still running and tasks alive right after."
    ]
    heads = {"break": "After `break` at the first outcome", "failure": "After the third call fails"}
    for event in unique(cells, "event"):
        chosen = [cell for cell in cells if cell["event"] == event]
        columns = ("calls_at_exit", "calls_later", "running_at_exit", "tasks_alive", "cancelled")
        last = "exit_ms" if event == "break" else "raised"
        rows = [
            [cell["backend"], cell["contender"], *(cell.get(c, "-") for c in (*columns, last))]
            for cell in chosen
        ]
        names = [column.replace("_", " ") for column in (*columns, last)]
        parts.append(f"### {heads[event]}\n\n{table(['backend', '', *names], rows)}")
    return "\n\n".join(parts)


def _deadline(cells: list[Cell]) -> str:
    intro = (
        "## A 0.05 s deadline over an endless source\n\nSeconds until it stops, where no call "
        "ever yields."
    )
    return f"{intro}\n\n{_pivot(cells, '', 'seconds')}"


def _imports(cells: list[Cell]) -> str:
    cell = cells[0]
    heavy = ", ".join(cell["heavy_modules"]) or "none"
    return (
        f"## Import\n\n`import genbatch` takes {cell['genbatch_ms']} ms, its own imports from "
        f"anyio alone {cell['anyio_ms']} ms: {cell['ratio']}. Heavy modules loaded: {heavy}."
    )
