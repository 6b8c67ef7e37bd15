"""Rows to be taken away: what the journal has of each image, in the shape of a table.

1. Rows are kept in a temporary file, not in memory, and read from it as often as needed: the
   journal is read once, and soon.
2. Readers of tables want values of one kind in a column, and in a field of a value with fields. The
   rows tell which kind that is; a value of several kinds becomes text, that of JSON.
3. A cell of CSV that a spreadsheet would calculate begins with an apostrophe.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeAlias
from weakref import finalize

from genbatch._store import Choice, choices, export, flat_row

Row: TypeAlias = dict[str, Any]

# None where there are nulls alone, the name of a kind, or what fields or items are like.
Shape: TypeAlias = "str | dict[str, Shape] | list[Shape] | None"

_MIXED = "mixed"
_DEEPEST = 16  # fields in fields; what is deeper is text
_MOST_NAMES = 200  # of fields in a field of the user's; more are keys of a dictionary
_LARGEST = 1 << 63
_IN_MEMORY = 8_000_000  # bytes


def rows_of(directory: Path, *, all: bool = False) -> Iterator[Row]:
    """Yield the rows of export, with what was chosen: ``verdict``, ``stars`` and ``note``.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    chosen = choices(directory)
    for row in export(directory, all=all):
        yield row | chosen.get(row["file"], Choice())._asdict()


def flat_rows(rows: Iterable[Row]) -> KeptRows:
    """Return rows with a column for each field of the prompts, as genbatch.results names them."""
    return KeptRows(map(flat_row, rows))


class KeptRows:
    """Rows in a temporary file, in order, and the shape that they have together.

    One reader at a time goes through them.

    Args:
        rows: JSON values by name; read to the end at once.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.shape: dict[str, Shape] = {}
        self.count = 0
        self._file = SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="ascii")
        finalize(self, self._file.close)
        for row in rows:
            for name, value in row.items():
                self.shape[name] = _widened(self.shape.get(name), value)
            self._file.write(f"{json.dumps(row)}\n")
            self.count += 1

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows as they came."""
        self._file.seek(0)
        yield from map(json.loads, self._file)

    def shaped(self) -> Iterator[Row]:
        """Return the rows with their values in the shape that they have together."""
        return map(self.in_shape, self)

    def in_shape(self, row: Row) -> Row:
        """Return a row, or one like these, with its values in the shape that they have together."""
        return {name: _shaped(self.shape[name], value) for name, value in row.items()}


def _widened(shape: Shape, value: Any, depth: int = 0) -> Shape:
    """Return the shape of value and of those that have the given one."""
    if value is None or (shape == "str" and type(value) is str):  # most of them: it is faster
        return shape
    if shape == _MIXED or _is_no_number(value):
        return shape
    if depth < _DEEPEST:
        if isinstance(value, dict) and isinstance(shape, dict | None):
            inner = shape or {}
            for name, each in value.items():
                inner[name] = _widened(inner.get(name), each, depth + 1)
            return _MIXED if depth and len(inner) > _MOST_NAMES else inner
        if isinstance(value, list) and isinstance(shape, list | None):
            of_items = shape[0] if shape else None
            for each in value:
                of_items = _widened(of_items, each, depth + 1)
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


def _shaped(shape: Shape, value: Any) -> Any:
    """Return value in a shape; what is empty in all rows has none, and is None."""
    if value is None or (shape == "str" and value.isascii()):
        return value
    if _is_no_number(value):
        return None
    match shape:
        case dict():
            return {name: _shaped(shape[name], each) for name, each in value.items()} or (
                {} if shape else None
            )
        case [inner]:
            return [_shaped(inner, each) for each in value]
        case "float":
            return float(value)
        case "str" | "mixed":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return text.encode("utf-8", "replace").decode()  # no halves of characters
    return value


# Text

_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # some are wide
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*([eE][+-]?\d+)?%?")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # that no sheet can have


def write_json_lines(rows: KeptRows, stream: IO[str], dump: Callable[[object], str]) -> None:
    """Write a line of JSON for each row."""
    stream.writelines(f"{dump(row)}\n" for row in rows.shaped())


def write_csv(rows: KeptRows, stream: IO[str]) -> None:
    """Write flat rows as a table."""
    if not len(rows):
        return
    if codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name == "utf-8":
        stream.write("\ufeff")  # without which Excel takes UTF-8 for something else
    writer = csv.DictWriter(stream, list(map(_cell, rows.shape)))
    writer.writeheader()
    for row in rows:
        writer.writerow({_cell(name): _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        return value
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
