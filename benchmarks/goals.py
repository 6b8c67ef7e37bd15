"""The goals of the core, judged by the results at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Results = dict[str, dict[str, Any]]
NOISE = 0.99  # a contender's own timers may round
UNWANTED = {"httpx", "google.genai", "sqlite3", "rich"}


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: what was to be measured, its bound, what came out."""

    text: str
    bound: str
    measured: str
    met: bool


def judge(results: Results) -> list[Goal]:
    """Return the goals that the results say something about."""
    judges: dict[str, Callable[[list[dict[str, Any]]], Iterator[Goal]]] = {
        "overhead": _overhead,
        "memory": _memory,
        "first": _first,
        "makespan": _makespan,
        "hygiene": _hygiene,
        "imports": _imports,
        "deadline": _deadline,
    }
    return [
        goal
        for name, one in judges.items()
        if name in results
        for goal in one([cell for cell in results[name]["cells"] if "note" not in cell])
    ]


def _overhead(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    bounds = (
        ("asyncio", "checkpoint", 10_000, 0.36),
        ("asyncio", "checkpoint", 100_000, 0.21),
        ("asyncio", "contextvar", 10_000, 0.42),
        ("asyncio", "noop", 10_000, 1.0),
        ("trio", "checkpoint", 10_000, 0.65),
    )
    for backend, work, n, bound in bounds:
        ratios = {
            cell["contender"].removeprefix("genbatch."): cell["ratio"]
            for cell in cells
            if (cell["backend"], cell["workload"], cell["n"], cell["k"]) == (backend, work, n, 50)
            and cell["contender"] in ("genbatch.stream", "genbatch.collect")
        }
        if ratios:
            text = f"{backend}, {work}, n={n:,} k=50: time by the baseline's"
            measured = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            yield Goal(text, f"≤ {bound}", measured, ratios["stream"] <= bound)
    for cell in cells:
        if cell["contender"] == "genbatch.stream, 500 readers":
            text = f"{cell['backend']}: 500 readers of one stream, time by one reader's"
            yield Goal(text, "≤ 4", f"{cell['ratio']:.2f}", cell["ratio"] <= 4)


def _memory(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    found = {(cell["backend"], cell["contender"], cell["n"]): cell for cell in cells}
    for backend in ("asyncio", "trio"):
        ours = found.get((backend, "genbatch.stream", 1_000_000))
        theirs = found.get((backend, "aiometer.amap", 1_000_000))
        if ours:
            growth = ours["growth_kib"] / 1024
            text = f"{backend}: growth from 1k to 1M prompts"
            yield Goal(text, "≤ 1 MB", f"{growth:.2f} MB", growth <= 1)
        if ours and theirs:
            ratio = ours["seconds"] / theirs["seconds"]
            text = f"{backend}: 1M prompts, time by aiometer's"
            yield Goal(text, "≤ 0.15", f"{ratio:.3f}", ratio <= 0.15)


def _first(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    for cell in cells:
        if cell["contender"] == "genbatch.stream":
            took = cell["milliseconds"]
            text = f"{cell['backend']}: first outcome of 100k prompts"
            yield Goal(text, "≤ 3 ms", f"{took:.2f} ms", took <= 3)


def _makespan(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    for backend in ("asyncio", "trio"):
        for latencies in ("even", "skewed"):
            here = {
                cell["contender"]: cell["scheduled"]
                for cell in cells
                if (cell["backend"], cell["latencies"]) == (backend, latencies)
            }
            if not here:
                continue
            ours = here["genbatch.stream"]
            peer, best = max(
                ((name, value) for name, value in here.items() if "genbatch" not in name),
                key=lambda pair: pair[1],
            )
            text = f"{backend}, {latencies} latencies: makespan efficiency, beside the best peer's"
            measured = f"{ours:.3f}, {peer} {best:.3f}"
            yield Goal(text, f"≥ {NOISE} of it", measured, ours >= NOISE * best)


def _hygiene(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    for cell in cells:
        after = f"{cell['calls_later']} calls, {cell['tasks_alive']} tasks"
        quiet = not cell["tasks_alive"] and cell["calls_later"] == cell["calls_at_exit"]
        if (cell["contender"], cell["event"]) == ("genbatch.stream", "break"):
            bound = 1 + 2 * cell["k"]
            met = quiet and cell["calls_later"] <= bound
            yield Goal(f"{cell['backend']}: after break", f"≤ {bound} calls, 0 tasks", after, met)
        if cell["contender"].endswith("fail_fast"):
            text = f"{cell['backend']}: {cell['contender']}, after a failure"
            met = quiet and cell["cancelled"] > 0
            yield Goal(text, "siblings cancelled, 0 tasks", after, met)


def _imports(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    cell = cells[0]
    unwanted = sorted(UNWANTED.intersection(cell["heavy_modules"]))
    text = "import genbatch, by its imports from anyio"
    yield Goal(text, "≤ 1.3", f"{cell['ratio']:.2f}", cell["ratio"] <= 1.3)
    text = "import genbatch loads neither of " + ", ".join(sorted(UNWANTED))
    yield Goal(text, "none", ", ".join(unwanted) or "none", not unwanted)


def _deadline(cells: list[dict[str, Any]]) -> Iterator[Goal]:
    for cell in cells:
        if cell["contender"].startswith("genbatch."):
            text = f"{cell['backend']}: {cell['contender']}, 0.05 s deadline, endless no-op source"
            took = cell["seconds"]
            yield Goal(text, "≤ 0.06 s", f"{took:.4f} s", took <= 0.06)
