"""Tables of other programs: workbooks, Parquet and Arrow, read by the libraries of the extra data.

1. Parquet and Arrow are read a few rows at a time. A sheet is in memory, as its reader has it.
2. A row has the number that a spreadsheet shows; of Parquet and Arrow, its place from 1.
3. The value of a formula is the one that was saved with it: nothing is computed, and what was not
   saved is an error of its row.
4. Errors are ours: the words of those libraries are for programmers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import date, time
from importlib import import_module
from itertools import count, islice
from pathlib import PurePosixPath
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

from ._formats import Cells, Fields, InputError, Rows, Source, field_names, listed, rows_of_cells

_AT_ONCE = 1000  # rows
_BUFFER = 1 << 18  # bytes of each column

# In the XML of a workbook, whose names may have a prefix.
_SHEET = re.compile(rb'<(?:\w+:)?sheet\s[^>]*?\w+:id="([^"]+)"')
_PART = re.compile(rb"<(?:\w+:)?Relationship\s[^>]*>")
_CELL = re.compile(
    rb'<(?:\w+:)?c\s(?P<is>[^>]*?\br="(?P<place>[A-Z]+[0-9]+)"[^>]*?)(?<!/)>(?P<has>.*?)</(?:\w+:)?c>',
    re.DOTALL,
)
_VALUE = re.compile(rb"<(?:\w+:)?v[^>]*>([^<]+)<")
_FORMULA = re.compile(rb"<(?:\w+:)?f[ />]")


def _library(name: str, package: str, source: Source) -> Any:
    """Return a library of the extra data.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        hint = "python -m pip install 'genbatch[data]'"
        raise source.error(f"reading it needs {package}: {hint}") from None


def read_workbook(source: Source) -> Rows:
    """Yield the rows of a sheet, as the cells of a table.

    Raises:
        InputError: If it is not a workbook, or has no such sheet.
    """
    calamine = _library("python_calamine", "python-calamine", source)
    with source.file() as file:
        try:
            workbook = calamine.load_workbook(file)
            names = workbook.sheet_names
            shown = [str(each.visible).endswith(".Visible") for each in workbook.sheets_metadata]
            place = _sheet(source, names, shown)
            sheet = workbook.get_sheet_by_index(place)
        except (calamine.CalamineError, OSError):
            raise source.error("not an Excel workbook, or a damaged or encrypted one") from None
        lost = _without_value(file, place)
    others = ""
    if len(names) > 1 and source.layout.sheet is None:
        others = f"; --sheet reads another: {listed(n for n in names if n != names[place])}"
        source.note(f"{source.name}: reading the first sheet, {names[place]}{others}")
    try:
        yield from rows_of_cells(source, _cells(sheet, lost))
    except InputError as error:  # of the header, and so of all rows
        raise InputError(f"{error}{others}") from None


def _sheet(source: Source, names: list[str], shown: list[bool]) -> int:
    """Return the place of the sheet that is asked for by name, or by number from 1.

    Without either that is the first one that is not hidden.
    """
    asked = source.layout.sheet
    if asked is None:
        return shown.index(True) if True in shown else 0
    if asked in names:
        return names.index(asked)
    if asked.isdecimal() and 1 <= int(asked) <= len(names):
        return int(asked) - 1
    raise source.error(f"--sheet {asked}: the sheets are: {listed(names)}")


def _without_value(file: IO[bytes], place: int) -> dict[bytes, str]:
    """Return the cells of a sheet that its reader takes for empty: errors, and empty for others.

    Those are of formulas that a program has written which computes none.
    """
    try:
        with ZipFile(file) as archive:
            parts = _PART.findall(archive.read("xl/_rels/workbook.xml.rels"))
            sheets = _SHEET.findall(archive.read("xl/workbook.xml"))
            (part,) = (each for each in parts if b'Id="%s"' % sheets[place] in each)
            (target,) = re.findall(rb'Target="([^"]+)"', part)
            content = archive.read(str(PurePosixPath("/xl", target.decode())).lstrip("/"))
    except (BadZipFile, KeyError, ValueError, IndexError):
        return {}  # a workbook of another kind
    found: dict[bytes, str] = {}
    if not (b't="e"' in content or _FORMULA.search(content)):
        return found
    for cell in _CELL.finditer(content):
        value = _VALUE.search(cell["has"])
        if b't="e"' in cell["is"] and value:
            found[cell["place"]] = value[1].decode()
        elif not value and b't="str"' not in cell["is"] and _FORMULA.search(cell["has"]):
            found[cell["place"]] = ""
    return found


def _cells(sheet: Any, lost: dict[bytes, str]) -> Cells:
    start = (sheet.start or (0, 0))[1]
    columns = list(islice(_column_names(start), sheet.width if lost else 0))
    for number, cells in enumerate(sheet.iter_rows(), 1):
        texts = [_text(cell) for cell in cells]
        unsaved = None
        for at, column in enumerate(columns):
            place = b"%s%d" % (column, number)
            if place in lost:
                texts[at] = lost[place]
                unsaved = unsaved or (None if lost[place] else place)
        if unsaved is None:
            yield number, texts
        else:
            what = f"{unsaved.decode()} is a formula whose value was not saved"
            yield number, ValueError(f"{what}: open the file in a spreadsheet, and save it")


def _column_names(start: int) -> Iterator[bytes]:
    """Yield the letters of columns, from one on that is counted from 0."""
    for number in count(start):
        name = b""
        while number >= 0:
            name = b"%c%s" % (65 + number % 26, name)
            number = number // 26 - 1
        yield name


def _text(cell: object) -> str:
    """Return a cell as a .csv would have it: 7, not 7.0."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(_plain(cell))


def read_parquet(source: Source) -> Rows:
    """Yield the rows of a Parquet file."""
    parquet = _library("pyarrow.parquet", "pyarrow", source)
    with source.file() as file:
        yield from _rows(source, _parquet_batches(parquet, file, source))


def _parquet_batches(parquet: Any, file: Any, source: Source) -> Iterator[Any]:
    table = parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
    names = _wanted(table.schema_arrow, source)
    yield table.schema_arrow.empty_table().select(names).schema
    yield from table.iter_batches(_AT_ONCE, columns=names, use_threads=False)


def read_arrow(source: Source) -> Rows:
    """Yield the rows of an Arrow or Feather file, or of an Arrow stream."""
    arrow = _library("pyarrow", "pyarrow", source)
    with source.file() as file:
        yield from _rows(source, _arrow_batches(arrow, file, source))


def _arrow_batches(arrow: Any, file: Any, source: Source) -> Iterator[Any]:
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    table = arrow.ipc.open_file(file) if is_file else arrow.ipc.open_stream(file)
    names = _wanted(table.schema, source)
    yield table.schema.empty_table().select(names).schema
    for batch in map(table.get_batch, range(table.num_record_batches)) if is_file else table:
        for start in range(0, batch.num_rows, _AT_ONCE):
            yield batch.slice(start, _AT_ONCE).select(names)


def _wanted(schema: Any, source: Source) -> list[str]:
    """Return the names of the columns to read: no bytes, such as images, and no index."""
    names = []
    for column in schema:
        if "binary" in str(column.type):
            source.leave_out(column.name)
        elif column.name.startswith("__index_level_"):
            source.note(f"{source.name}: the column {column.name} has no name and is ignored")
        else:
            names.append(column.name)
    return names


def _rows(source: Source, batches: Iterator[Any]) -> Rows:
    """Yield the rows of batches, the first of which is the schema."""
    try:
        schema = next(batches)
        given = schema.names
        names = field_names(given)
        source.check_names(names)
        simple = ("string", "large_string", "string_view", "int", "uint", "bool")
        odd = [n for n, each in zip(names, schema, strict=True) if not _is_in(each.type, simple)]
        number = 0
        for batch in batches:
            for row in _dicts(batch, names):
                number += 1
                for name in odd:
                    row[name] = _plain(row[name])
                yield number, row
    except InputError:
        raise
    except ValueError as error:
        if type(error) is ValueError:  # of ours; those of pyarrow are of its own types
            raise source.error(error) from None
        raise source.error("damaged, or not what its name or beginning says") from None
    except (OSError, RuntimeError, NotImplementedError, KeyError):
        raise source.error("damaged, or not what its name or beginning says") from None


def _is_in(kind: object, names: Iterable[str]) -> bool:
    return str(kind).rstrip("0123456789") in names


def _dicts(batch: Any, names: list[str]) -> Iterator[Fields]:
    columns = [column.to_pylist() for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what is no number is nothing."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case date() | time():
            return value.isoformat()
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
    return str(value)
