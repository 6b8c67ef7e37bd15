"""Formats: bytes become lines of text, and lines become rows, the fields of each by name.

1. Lines end at a line feed and nowhere else: ``str.splitlines`` would also split at U+2028, U+0085
   and others that a prompt may contain. The carriage return before it is left to the format.
2. Memory is flat: lines are bounded, and no row is kept.
3. A blank line is not a row. In .csv and .tsv the first row names the fields.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain
from typing import Any, TypeAlias

from pydantic_core import from_json

_MOST_NAMES = 12
_LONGEST = 60  # characters


class InputError(ValueError):
    """An invalid input: "file:line: what was found; what to do"."""


def one_line(text: str) -> str:
    """Return text with unprintable characters escaped."""
    return text if text.isprintable() else ascii(text)


def short(text: str) -> str:
    """Return the beginning of text on one line."""
    text = one_line(text[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def listed(names: Iterable[str]) -> str:
    """Return the first names of many."""
    shown = [short(name) for name in names]
    more = ["…"] if len(shown) > _MOST_NAMES else []
    return ", ".join([*shown[:_MOST_NAMES], *more]) or "none"


def found(value: object) -> str:
    """Return a value of a field as messages show it."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return short(json.dumps(value, ensure_ascii=False))


# Lines

MAX_LINE = 1_000_000  # characters
BLOCK = 1 << 16  # bytes read at once

# Byte order marks, and the encodings they stand for. That of UTF-32 comes before that of UTF-16,
# with which it begins.
_MARKS = {
    codecs.BOM_UTF8: ("utf-8",),
    codecs.BOM_UTF32_LE: ("utf-32", "utf-32-le"),
    codecs.BOM_UTF32_BE: ("utf-32", "utf-32-be"),
    codecs.BOM_UTF16_LE: ("utf-16", "utf-16-le"),
    codecs.BOM_UTF16_BE: ("utf-16", "utf-16-be"),
}


def check_encoding(encoding: str) -> str:
    """Return Python's name for an encoding of text.

    Raises:
        ValueError: If Python has no such encoding.
    """
    try:
        name = codecs.lookup(encoding).name.removesuffix("-sig")
        codecs.getincrementaldecoder(name)
        b"x".decode(name)
    except UnicodeError:
        pass  # an encoding that has no such text
    except (LookupError, ValueError):  # unknown, or one of bytes, such as hex
        example = "such as utf-8, cp1252 or utf-16"
        raise ValueError(f"unknown text encoding: {encoding!r}; give one {example}") from None
    return name


class Lines:
    """Cuts what it is fed, block by block, into lines of text.

    Args:
        name: Name of the input in error messages.
        encoding: As check_encoding returns it. A byte order mark at the very start is dropped.
    """

    def __init__(self, name: str, encoding: str) -> None:
        self._name = name
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._head: bytes | None = b""  # until what may be a mark is complete
        self._rest = ""
        self._is_first = True
        self.number = 0  # of the line yielded last, from 1

    def feed(self, block: bytes) -> Iterator[str]:
        """Yield the complete lines, without line feeds; an empty block ends the last one.

        Raises:
            InputError: At a line that is too long, or not text in this encoding.
        """
        if self._head is not None:
            head = self._head + block
            if block and any(mark.startswith(head) for mark in _MARKS):
                self._head = head
                return
            self._head = None
            self._check_mark(head)
            block = head or block
        text, error = self._decode(block)
        text = self._rest + text
        is_plain = text.isascii() or _is_encodable(text)
        lines = text.split("\n")
        self._rest = lines.pop()
        if not block and self._rest and error is None:
            lines.append(self._rest)
        is_plain = is_plain and "\0" not in text and len(text) - len(self._rest) <= MAX_LINE
        for line in lines:
            self.number += 1
            if not is_plain:
                self._check(line)
            yield line
        if len(self._rest) > MAX_LINE:
            self.number += 1
            self._check(self._rest)
        if error is not None:
            self.number += 1
            raise self._error(error)

    def _check_mark(self, head: bytes) -> None:
        mark = next((mark for mark in _MARKS if head.startswith(mark)), None)
        if mark is None:
            if head and self._encoding in ("utf-16", "utf-32"):
                raise self._error(f"no byte order mark; give --encoding {self._encoding}-le or -be")
        elif self._encoding not in _MARKS[mark]:
            name = _MARKS[mark][0]
            raise self._error(f"is {name.upper()}; save it as UTF-8 or give --encoding {name}")

    def _decode(self, block: bytes) -> tuple[str, str | None]:
        """Return the text of a block, up to what is wrong with it."""
        pending = len(self._decoder.getstate()[0])
        text, error = "", None
        try:
            text = self._decoder.decode(block, not block)
        except UnicodeDecodeError as exc:
            error = f"byte 0x{exc.object[exc.start]:02x} is not {self._encoding.upper()}"
            with suppress(UnicodeError):
                text = self._decoder.decode(block[: max(0, exc.start - pending)])
        except UnicodeError:  # of encodings that are not of files, such as idna
            error = f"not {self._encoding.upper()}"
        if error is not None:
            other = "such as --encoding cp1252" if self._encoding == "utf-8" else "with --encoding"
            error = f"{error}; save the file as UTF-8 or give its encoding, {other}"
        if self._is_first and text:
            self._is_first = False
            text = text.removeprefix("\ufeff")
        return text, error

    def _check(self, line: str) -> None:
        if len(line) > MAX_LINE:
            raise self._error(f"line of more than {MAX_LINE:,} characters")
        if "\0" in line:
            raise self._error("NUL character; save the file as text in UTF-8")
        if not _is_encodable(line):
            raise self._error("half a surrogate pair; save the file as UTF-8")

    def _error(self, message: str) -> InputError:
        return InputError(f"{self._name}:{max(self.number, 1)}: {message}")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# Rows

Fields: TypeAlias = dict[str, Any]
Rows: TypeAlias = Iterator[tuple[int, Fields]]
CheckNames: TypeAlias = Callable[[Sequence[str]], object]
Split: TypeAlias = Callable[[Iterable[str], str], Iterator[tuple[int, list[str]]]]
Format: TypeAlias = Callable[[Iterable[str], str, CheckNames], Rows]

# The known fields except n: in a spreadsheet, a column N numbers the rows.
_KNOWN = ("prompt", "id", "filename", "model", "aspect_ratio", "image_size", "images", "seed")
_NAMES = {name.replace("_", ""): name for name in _KNOWN}


def canonical(name: str) -> str:
    """Return the name of a field: "Aspect Ratio" and "aspectRatio" are aspect_ratio."""
    return _NAMES.get(re.sub(r"[\s_-]", "", name).lower(), name)


def read_text(line: str) -> Fields | None:
    """Return the one field of a line of text, None for a blank one.

    Raises:
        ValueError: If there is a carriage return inside it: that is never meant as one prompt.
    """
    line = line.removesuffix("\r")
    if "\r" in line:
        raise ValueError("a carriage return inside the line; save the file with line feeds")
    return {"prompt": line} if line.strip() else None


def read_object(line: str) -> Fields | None:
    """Return the fields of a JSON object on a line, None for a blank one.

    Raises:
        ValueError: If it is not a JSON object, or names a field twice.
    """
    try:
        value = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        if not line.strip():
            return None
        reason = str(error).replace("line 1 column", "column")
        raise ValueError(_no_object(f"not JSON: {reason}", line)) from None
    if type(value) is not dict:
        raise ValueError(_no_object("JSON, but not an object", line))
    # Each name is followed by these two characters. If there are more of them, or if whitespace may
    # separate them, look closer.
    if line.count('":') != len(value) or " :" in line or "\t" in line or "\r:" in line:
        json.loads(line, object_pairs_hook=_unique)
    names = _renamed(tuple(value))
    return value if names is None else dict(zip(names, value.values(), strict=True))


@lru_cache(maxsize=256)
def _renamed(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the canonical names for names, None where those are the same."""
    renamed = tuple(map(canonical, names))
    if len(set(renamed)) < len(renamed):
        raise ValueError(f"two fields have one name; the fields are: {listed(names)}")
    return None if renamed == names else renamed


def _no_object(reason: str, line: str) -> str:
    if line.lstrip().startswith("["):
        return "a JSON array; .jsonl has one object per line: jq -c '.[]' FILE converts it"
    return f'{reason}; each line is one object, such as {{"prompt": "a red fox"}}'


def _unique(pairs: list[tuple[str, Any]]) -> Fields:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"two fields have one name; the fields are: {listed(n for n, _ in pairs)}")
    return fields


def _rows_of_lines(
    read: Callable[[str], Fields | None], lines: Iterable[str], name: str, check_names: CheckNames
) -> Rows:
    for number, line in enumerate(lines, 1):
        try:
            fields = read(line)
        except ValueError as error:
            raise InputError(f"{name}:{number}: {error}") from None
        if fields is not None:
            yield number, fields


def _csv_cells(lines: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Split a table at its commas, or at semicolons if its header has more columns then."""
    lines = iter(lines)
    ahead: list[str] = []
    for line in lines:
        ahead.append(line)
        if line.strip():
            break
    delimiter = max(",;", key=partial(_columns, "".join(ahead[-1:])))
    whole = (f"{line}\n" for line in chain(ahead, lines))
    # strict: the lenient reader silently drops the quotes of «"Hi" on a wall» and, where one is
    # left open, swallows the rows that follow.
    reader = csv.reader(whole, delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        message = f"{error}; check the quotes of this row"
        if "new-line" in message:  # with advice for programmers
            message = "a carriage return outside quotes; save the file with line feeds"
        raise InputError(f"{name}:{start}: {message}") from None


def _columns(header: str, delimiter: str) -> tuple[int, int]:
    """Return how many known columns a header has with this delimiter, and how many at all."""
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # reported where the header is read
        return 0, 0
    return sum(canonical(cell) in _KNOWN for cell in cells), len(cells)


def _tsv_cells(lines: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Split each line at its tabs.

    Spreadsheets quote fields in a .tsv, other programs write them as they are. A row whose quotes
    are those of a spreadsheet is unquoted, any other is literal, such as «"Hi" on a wall».
    """
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\r")
        if '"' in text:
            try:
                yield number, next(csv.reader([text], delimiter="\t", strict=True), [])
                continue
            except csv.Error:
                pass
        cells = text.split("\t")
        if "\r" in text:
            raise InputError(f"{name}:{number}: a carriage return inside the line; quote the field")
        if any(cell.startswith('"') and cell.count('"') % 2 for cell in cells):
            hint = "a row is one line here: use .csv for prompts with line breaks"
            raise InputError(f"{name}:{number}: quotes left open; {hint}")
        yield number, cells


def _rows_of_cells(split: Split, lines: Iterable[str], name: str, check_names: CheckNames) -> Rows:
    header: list[str] = []
    for number, cells in split(lines, name):
        if not "".join(cells).strip():
            continue
        try:
            if header:
                yield number, _fields(header, cells)
            else:
                header = _header(cells)
                check_names([each for each in header if each])
        except ValueError as error:
            raise InputError(f"{name}:{number}: {error}") from None


def _header(cells: list[str]) -> list[str]:
    names = [canonical(cell.strip()) for cell in cells]
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        raise ValueError(f"two columns have one name; the columns are: {listed(named)}")
    return names


def _fields(header: list[str], cells: list[str]) -> Fields:
    if len(cells) != len(header):
        if any(cell.strip() for cell in cells[len(header) :]):
            found = f"{len(cells)} fields where the header has {len(header)}"
            raise ValueError(f"{found}; put quotes around a field that contains the separator")
        cells = [*cells, *[""] * (len(header) - len(cells))]
    fields = dict(zip(header, cells, strict=False))
    fields.pop("", None)  # spreadsheets leave columns without a name behind
    return fields


_of_json = partial(_rows_of_lines, read_object)
FORMATS: dict[str, Format] = {
    ".txt": partial(_rows_of_lines, read_text),
    ".jsonl": _of_json,
    ".ndjson": _of_json,
    ".csv": partial(_rows_of_cells, _csv_cells),
    ".tsv": partial(_rows_of_cells, _tsv_cells),
}
