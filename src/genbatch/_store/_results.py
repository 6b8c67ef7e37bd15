"""results: what a directory contains as rows of a table.

Readers of tables want values of one kind in a column, and in a field of a value with fields. The
rows tell which kind that is; a value of several kinds becomes text, that of JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ._reports import export

# None where there are nulls alone, the name of a kind, or what fields or items are like.
Shape: TypeAlias = "str | dict[str, Shape] | list[Shape] | None"

_MIXED = "mixed"
_DEEPEST = 16  # fields in fields; what is deeper is text
_MOST_NAMES = 200  # of fields in a field of the user's; more are keys of a dictionary
_LARGEST = 1 << 63
_NESTED = ("error", "asked", "usage", "metadata")


def results(directory: str | os.PathLike[str], *, all: bool = False) -> list[dict[str, Any]]:
    """Return a row for each prompt of the latest input, in its order; this blocks.

    All rows have the same columns: those of results.jsonl; ``path``, the image's; and in place of
    a field with fields of its own, such as ``usage``, a column for each, such as
    ``usage.prompt_tokens`` or ``metadata.author``. A value that a row does not have is None; one of
    another kind than others in its column is text, that of JSON, and so are they.

    Args:
        directory: That a Store has written; a run may be going on in it.
        all: Whether to return every take, and after them what the latest input does not ask for any
            more; its index is None.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    path = Path(directory).absolute()
    rows = [flat_row(row, path) for row in export(directory, all=all)]
    shapes: dict[str, Shape] = {}
    for row in rows:
        for name, value in row.items():
            shapes[name] = widened(shapes.get(name), value)
    return [{name: shaped(each, row.get(name)) for name, each in shapes.items()} for row in rows]


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


def widened(shape: Shape, value: Any, depth: int = 0) -> Shape:
    """Return the shape of value and of those that have the given one."""
    if value is None or (shape == "str" and type(value) is str):  # most of them: it is faster
        return shape
    if shape == _MIXED or _is_no_number(value):
        return shape
    if depth < _DEEPEST:
        if isinstance(value, dict) and isinstance(shape, dict | None):
            inner = shape or {}
            for name, each in value.items():
                inner[name] = widened(inner.get(name), each, depth + 1)
            return _MIXED if depth and len(inner) > _MOST_NAMES else inner
        if isinstance(value, list) and isinstance(shape, list | None):
            of_items = shape[0] if shape else None
            for each in value:
                of_items = widened(of_items, each, depth + 1)
            return [of_items]
    kind = _kind(value)
    if shape is None or shape == kind:
        return kind
    return "float" if {"int", "float"} == {kind, str(shape)} else _MIXED


def _kind(value: object) -> str:
    is_large = isinstance(value, int) and not -_LARGEST <= value < _LARGEST
    is_nested = isinstance(value, dict | list)
    return _MIXED if is_large or is_nested else type(value).__name__


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def shaped(shape: Shape, value: Any) -> Any:
    """Return value in a shape; what is empty in all rows has none, and is None."""
    if value is None or (shape == "str" and value.isascii()):
        return value
    if _is_no_number(value):
        return None
    match shape:
        case dict():
            return {name: shaped(shape[name], each) for name, each in value.items()} or (
                {} if shape else None
            )
        case [inner]:
            return [shaped(inner, each) for each in value]
        case "float":
            return float(value)
        case "str" | "mixed":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return text.encode("utf-8", "replace").decode()  # no halves of characters
    return value
