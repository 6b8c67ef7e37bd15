"""What stands in a folder of images: status, export and verify, also while a run goes on."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genbatch._store import Status, export, status, verify

from ._console import QuietConsole, plain


def show_status(folder: Path, as_json: bool) -> int:
    """Print how far a folder has come."""
    found = status(folder)
    out = QuietConsole()
    if as_json:
        runner = found.runner and found.runner._asdict()
        out.data(json.dumps({**asdict(found), "spent": found.spent._asdict(), "runner": runner}))
        return 0
    for line in _lines(found):
        out.say(plain(line))
    return 0


def _lines(found: Status) -> Iterable[str]:
    yield f"{found.done:,} of {found.planned:,} done, ${found.spent.usd:.2f}"
    for name, kinds in (("failed", found.failed), ("will be tried again", found.transient)):
        if kinds:
            each = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
            yield f"{sum(kinds.values()):,} {name}: {each}"
    if found.to_do:
        yield f"{found.to_do:,} to do"
    if found.in_jobs:
        price = f"${found.in_jobs_usd:.2f}"
        yield f"{found.in_jobs:,} in jobs, {price}: run again with --via batch to collect them"
    if calls := found.spent.maybe_images - found.in_jobs:
        dollars = found.spent.maybe_usd - found.in_jobs_usd
        yield f"{calls:,} calls without an image may have been billed, ${dollars:.2f}"
    if found.runner is not None:
        yield f"a run is going on: {found.runner}"


def print_rows(folder: Path, as_csv: bool, everything: bool) -> int:
    """Print a row for each prompt, as JSON Lines or CSV."""
    rows = export(folder, all=everything)
    write = _write_csv if as_csv else _write_json
    try:
        write(rows)
        sys.stdout.flush()
    except BrokenPipeError:
        QuietConsole().on_broken_pipe()
    return 0


def _write_json(rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def _write_csv(rows: Iterable[Mapping[str, Any]]) -> None:
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        flat = {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
            for name, value in row.items()
        }
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(flat))
            writer.writeheader()
        writer.writerow(flat)


def check_folder(folder: Path) -> int:
    """Print what is wrong with a folder; return 1 if anything is."""
    out, problems = QuietConsole(), 0
    for problem in verify(folder):
        problems += 1
        out.say(plain(problem))
    if not problems:
        out.say("all is well")
    return 1 if problems else 0
