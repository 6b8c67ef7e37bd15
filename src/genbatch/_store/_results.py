"""results: what a directory contains as rows of a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._reports import export

_NESTED = ("error", "asked", "usage", "metadata")


def results(directory: str | os.PathLike[str], *, all: bool = False) -> list[dict[str, Any]]:
    """Return a row for each prompt of the latest input, in its order; this blocks.

    All rows have the same columns: those of results.jsonl; ``path``, the image's; and in place of
    a field with fields of its own, such as ``usage``, a column for each, such as
    ``usage.prompt_tokens`` or ``metadata.author``. A value that a row does not have is None.

    Args:
        directory: That a Store has written; a run may be going on in it.
        all: Whether to return every take, and after them what the latest input does not ask for any
            more; its index is None.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    path = Path(directory).absolute()
    rows = [flat_row(row, path) for row in export(directory, all=all)]
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    return [{name: row.get(name) for name in columns} for row in rows]


def flat_row(row: Mapping[str, Any], directory: Path | None = None) -> dict[str, Any]:
    """Return a row with a column for each value that has a name in a field of it.

    Args:
        row: As export yields it.
        directory: Of the image, whose path is a column then.
    """
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _NESTED:
            flat[name] = value
        elif value is not None:
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        if name == "file" and directory is not None:
            flat["path"] = None if value is None else str(directory / value)
    return flat
