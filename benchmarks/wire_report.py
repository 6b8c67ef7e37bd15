"""The tables of the wire benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import BEGIN, END, table, unique

Cell = dict[str, Any]


def markdown(result: dict[str, Any], *, absolute: bool) -> str:
    """Return the tables; absolute adds times, which depend on the machine, to the ratios."""
    parts = [
        "## An image\n\nProcessor time for one image, by size, as its ratio to the floor.\n\n"
        + _pivot(result["images"], "size", "{:,} bytes", absolute),
        "## Calls at once\n\nProcessor time for a call of 20 KB that takes 50 ms, k at once, as "
        "its ratio to that at k=10.\n\n" + _pivot(result["calls"], "k", "k={:,}", absolute),
        "## Stall\n\nThe longest time for which nothing else in the event loop runs while eight "
        "images of 6 MB arrive at once, in milliseconds on the clock, and of processor time.\n\n"
        + table(
            ("", "clock", "processor"),
            [(cell["client"], cell["ms"], cell["busy_ms"]) for cell in result["stall"]],
        ),
        "## One client, or one for each prompt\n\nProcessor time for a call of 20 KB over a client "
        "of its own, as its ratio to one over a client that is shared.\n\n"
        + table(
            ("", "ratio", *(("shared, ms", "own, ms") if absolute else ())),
            [
                (c["client"], c["ratio"], *((c["shared_ms"], c["each_ms"]) if absolute else ()))
                for c in result["clients"]
            ],
        ),
    ]
    if "goals" in result:  # results of before have none
        parts.append(
            "## Over TLS, and on trio\n\nBeside the SDK over httpx: processor time for an image of "
            "1.5 MB, and the longest stall of eight of 6 MB, as ratios to its; and a small call at "
            "k=1,000 as its ratio to k=10.\n\n"
            + table(
                ("", "image", "stall", "k=1,000"),
                [
                    (
                        f"{c['scheme']} on {c['backend']}",
                        *(_ratio(c[name], absolute) for name in ("image", "stall", "calls")),
                    )
                    for c in result["goals"]
                ],
            )
        )
    if result["quick"]:
        parts.insert(0, "Measured with `--quick`.")
    return "\n\n".join(parts)


def _ratio(found: list[float], absolute: bool) -> str:
    ratio, ours, theirs = found
    return f"{ratio:.2f} ({ours:.2f} to {theirs:.2f} ms)" if absolute else f"{ratio:.2f}"


def embed(result: dict[str, Any], page: Path) -> None:
    """Put the tables between the marks of a page."""
    before, found, rest = page.read_text().partition(BEGIN)
    if found:
        after = rest.partition(END)[2]
        tables = markdown(result, absolute=False)
        page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")


def _pivot(cells: list[Cell], column: str, head: str, absolute: bool) -> str:
    def text(cell: Cell | None) -> str:
        if cell is None:
            return "-"
        form = "{ratio:.2f} ({ms:.2f} ms)" if absolute else "{ratio:.2f}"
        return cell.get("note") or form.format(**cell)

    values = unique(cells, column)
    found = {(cell["client"], cell[column]): cell for cell in cells}
    rows = [
        [name, *(text(found.get((name, value))) for value in values)]
        for name in unique(cells, "client")
    ]
    return table(["", *(head.format(value) for value in values)], rows)
