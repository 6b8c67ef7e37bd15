"""The plots, as SVG; without matplotlib there are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .goals import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHERS = "#1a73e8", "#b0b7c3"


def draw(results: Results, folder: Path) -> str:
    """Draw what there is into a folder, and say what was done."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "plots: skipped, matplotlib is not installed"
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "genbatch"  # the same results make the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: a twentieth of its outlines
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if "overhead" in results:
        drawn += [_overhead(results["overhead"]["cells"], folder)]
    if "makespan" in results:
        drawn += [_makespan(results["makespan"]["cells"], folder)]
    if "memory" in results:
        drawn += [_memory(results["memory"]["cells"], folder)]
    return f"plots: {', '.join(drawn) or 'none'}"


def _bars(axes: Axes, values: dict[str, float], title: str, label: str) -> None:
    names = sorted(values, key=values.__getitem__, reverse=True)
    colours = [OURS if name.startswith("genbatch") else OTHERS for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    # matplotlib draws to a millionth of a pixel, and gives each step of a path a line.
    text = re.sub(r'="[^"]*"', lambda each: re.sub(r"(\.\d)\d+", r"\1", each[0]), path.read_text())
    path.write_text(re.sub(r">\s+<", "><", re.sub(r"\s+(?=[^<\s])", " ", text)))
    return path.name


def _pick(cells: list[dict[str, Any]], value: str, **wanted: object) -> dict[str, float]:
    return {
        cell["contender"]: cell[value]
        for cell in cells
        if value in cell and all(cell.get(name) == wish for name, wish in wanted.items())
    }


def _overhead(cells: list[dict[str, Any]], folder: Path) -> str:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(11, 6))
    for axes, backend in zip(figure.subplots(1, 2), ("asyncio", "trio"), strict=True):
        grid = {"backend": backend, "workload": "checkpoint", "k": 50}
        values = _pick(cells, "ratio", n=10_000, **grid)
        for name, ratio in _pick(cells, "ratio", n=1_000, **grid).items():
            if name not in values:  # too slow for the larger batch: say so, ratios differ
                values[f"{name} (n=1,000)"] = ratio
        _bars(axes, values, f"{backend}: time, n=10,000 k=50, one checkpoint", "ratio (log)")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.axvline(1, color="black", linewidth=0.8)
    return _save(figure, folder / "overhead.svg")


def _makespan(cells: list[dict[str, Any]], folder: Path) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6))
    for axes, latencies in zip(figure.subplots(1, 2), ("even", "skewed"), strict=True):
        values = _pick(cells, "scheduled", backend="asyncio", latencies=latencies)
        _bars(
            axes,
            values,
            f"asyncio: schedule, {latencies} latencies",
            "ideal / actual, virtual time",
        )
    return _save(figure, folder / "makespan.svg")


def _memory(cells: list[dict[str, Any]], folder: Path) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    here = [cell for cell in cells if cell["backend"] == "asyncio" and "peak_kib" in cell]
    for name in dict.fromkeys(cell["contender"] for cell in here):
        points = [(c["n"], c["peak_kib"] / 1024) for c in here if c["contender"] == name]
        ours = name.startswith("genbatch")
        axes.plot(*zip(*points, strict=True), marker="o", label=name,
                  linewidth=2.5 if ours else 1, zorder=3 if ours else 2)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("prompts")
    axes.set_ylabel("peak of resident memory, MB")
    axes.set_title("asyncio: memory, each point a fresh process", fontsize=10)
    axes.legend(fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, folder / "memory.svg")
