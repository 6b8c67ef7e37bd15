"""Rows to be taken away: what the journal has of each image, in the shape of a table.

1. Rows are kept in a temporary file, not in memory, and read from it as often as needed: the
   journal is read once, and soon.
2. A column has values of one kind, as in genbatch.results.
3. A cell of CSV that a spreadsheet would calculate begins with an apostrophe.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeAlias
from weakref import finalize

from genbatch._store import Choice, Shape, choices, export, flat_row, shaped, widened

Row: TypeAlias = dict[str, Any]

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
                self.shape[name] = widened(self.shape.get(name), value)
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
        return {name: shaped(self.shape[name], value) for name, value in row.items()}


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
