"""Measure genbatch beside its peers: ``python -m benchmarks [--quick] [--only NAME ...]``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

from . import behaviour, fresh, measures, plots, report
from .machine import facts
from .makespan import makespan

MEASURES = {
    "overhead": fresh.overhead,
    "makespan": makespan,
    "readahead": behaviour.readahead,
    "hygiene": behaviour.hygiene,
    "memory": fresh.memory,
    "first": fresh.first,
    "deadline": fresh.deadline,
    "imports": fresh.imports,
}


HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def main() -> None:
    """Take the measures asked for, then write tables and plots of all there are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a subset, within two minutes")
    parser.add_argument("--only", nargs="+", choices=MEASURES, metavar="NAME", default=[*MEASURES],
                        help=f"some of: {', '.join(MEASURES)}")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="else benchmarks/results and docs")  # fmt: skip
    options = parser.parse_args()

    output = options.output or HERE / "results"
    output.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        began = perf_counter()
        cells = MEASURES[name](options.quick)
        result = {"measure": name, "quick": options.quick, "machine": facts(), "cells": cells}
        (output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        measures.progress(f"{name}: took {perf_counter() - began:.0f} s")
    publish(output, options.output is None)


def publish(output: Path, to_docs: bool) -> None:
    """Write tables and plots of all results in a folder to the docs, or beside them."""
    results = report.load(output)
    if to_docs:
        report.embed(results, DOCS / "benchmarks.md")
    else:
        (output / "README.md").write_text(report.markdown(results))
    measures.progress(plots.draw(results, DOCS / "benchmarks" if to_docs else output))


if __name__ == "__main__":
    main()
