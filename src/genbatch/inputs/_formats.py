"""Text: bytes become lines, and lines become rows, the fields of each by name.

1. Lines end at a line feed and nowhere else: ``str.splitlines`` would also split at U+2028, U+0085
   and others that a prompt may contain. The carriage return before it is left to the format.
2. Memory is flat: lines are bounded, and no row is kept.
3. A blank line is not a row. The first row of a table names the fields, unless there is no header.
4. A bad row is yielded as its error, so that one look at a file finds them all. What makes the rest
   unreadable is raised.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import PurePath
from typing import IO, Any, TypeAlias

from pydantic_core import from_json

_MOST_NAMES = 12
_LONGEST = 60  # characters


class InputError(ValueError):
    """An invalid input: "file:line: what was found; what to do", a line for each mistake."""


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
_UNUSED = frozenset(b"\x81\x8d\x8f\x90\x9d")  # bytes that cp1252 does not have


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
        text, error = self._text_of(block)
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

    def text(self, block: bytes) -> str:
        """Return the text of the next block, whose lines may be of any length.

        Raises:
            InputError: If it is not text in this encoding.
        """
        text, error = self._text_of(block)
        if "\0" in text or not _is_encodable(text):
            for line in text.split("\n"):
                self.number += 1
                self._check(line)
        self.number += text.count("\n")
        if error is not None:
            self.number += 1
            raise self._error(error)
        return text

    def _text_of(self, block: bytes) -> tuple[str, str | None]:
        """Return the text of a block, once what may be a mark is complete, and what is wrong."""
        if self._head is not None:
            head = self._head + block
            if block and any(mark.startswith(head) for mark in _MARKS):
                self._head = head
                return "", None
            self._head = None
            self._check_mark(head)
            block = head or block
        return self._decode(block)

    def _check_mark(self, head: bytes) -> None:
        mark = next((mark for mark in _MARKS if head.startswith(mark)), None)
        if mark is not None and self._encoding == "utf-8":  # the default: a mark says more
            self._encoding = _MARKS[mark][0]
            self._decoder = codecs.getincrementaldecoder(self._encoding)()
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
            is_western = self._encoding == "utf-8" and not _UNUSED.intersection(block)
            other = "such as --encoding cp1252" if is_western else "with --encoding"
            error = f"{error}; save the file as UTF-8 or give its encoding, {other}"
        if self._is_first and text:
            self._is_first = False
            text = text.removeprefix("\ufeff")
        return text, error

    def _check(self, line: str) -> None:
        if len(line) > MAX_LINE:
            raise self._error(f"line of more than {MAX_LINE:,} characters")
        if "\0" in line:
            half = "le" if line[1:2] == "\0" else "be"
            is_half = 2 * line.count("\0") >= len(line) - 1 > 2
            wide = f"; it looks like UTF-16 without its mark: --encoding utf-16-{half}"
            message = "NUL character; save the file as text in UTF-8"
            raise self._error(message + (wide if is_half else ""))
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
Row: TypeAlias = tuple[int, Fields | ValueError]  # with the number of its line, from 1
Rows: TypeAlias = Iterator[Row]
Cells: TypeAlias = Iterator[tuple[int, list[str] | ValueError]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How inputs are to be read, where their names and contents do not say.

    Attributes:
        format: Name of a format; that of each input, if it is None.
        encoding: Of text, as check_encoding returns it.
        separator: Line between the prompts of a text, empty for blank lines, or the character
            between the columns of a table.
        comments: Whether lines of a text that begin with ``#`` are none of its prompts.
        header: Whether the first row of a table names its columns; they are numbered otherwise.
        sheet: Name or number of a sheet of a workbook, the first one if it is None.
        path: Names of the fields that lead to a list in JSON, with dots between them.
        markdown: Which parts of Markdown are prompts: ``"lists"`` or ``"blocks"``.
    """

    format: str | None = None
    encoding: str = "utf-8"
    separator: str | None = None
    comments: bool = False
    header: bool = True
    sheet: str | None = None
    path: str | None = None
    markdown: str = "lists"


@dataclass(frozen=True, slots=True)
class Source:
    """An open input.

    Attributes:
        name: For messages.
        blocks: Its bytes; an empty block ends them.
        opened: The file itself, None if its bytes come once only.
        layout: How to read them.
        needed: The fields that each row must have.
        check_names: Called with the names of the columns of a table; refuses what lacks one.
        note: Called with what the user should know of it, as one line.
        leave_out: Called with the names of columns that have bytes, and are not read.
    """

    name: str
    blocks: Iterator[bytes]
    opened: IO[bytes] | None
    layout: Layout
    needed: Sequence[str]
    check_names: Callable[[Sequence[str]], object]
    note: Callable[[str], object]
    leave_out: Callable[[str], object]

    def lines(self) -> Iterator[str]:
        """Yield its lines, without line feeds."""
        lines = Lines(self.name, self.layout.encoding)
        for block in self.blocks:
            yield from lines.feed(block)

    def texts(self) -> Iterator[str]:
        """Yield its text, piece by piece."""
        return map(Lines(self.name, self.layout.encoding).text, self.blocks)

    @contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        """Open it as a file, for formats that are not read in order."""
        if self.opened is not None:
            self.opened.seek(0)
            yield self.opened
            return
        from tempfile import TemporaryFile  # slow to import, and rarely needed

        with TemporaryFile() as file:
            file.writelines(self.blocks)
            file.seek(0)
            yield file

    def error(self, message: object, number: int | None = None) -> InputError:
        """Return an error of this input, and of one of its lines where a number is given."""
        place = "" if number is None else f":{number}"
        return InputError(f"{self.name}{place}: {message}")


# The known fields except n: in a spreadsheet, a column N numbers the rows.
_KNOWN = ("prompt", "id", "filename", "model", "aspect_ratio", "image_size", "images", "seed")
_NAMES = {name.replace("_", ""): name for name in _KNOWN}


def canonical(name: str) -> str:
    """Return the name of a field: "Aspect Ratio" and "aspectRatio" are aspect_ratio."""
    return _NAMES.get(re.sub(r"[\s_-]", "", name).lower(), name)


# Blanks, and the marks without a width that web pages and word processors leave.
_INVISIBLE = "".join(map(chr, (*range(0x21), *range(0x2000, 0x2010), *range(0x2028, 0x2030))))
_INVISIBLE += "\x85\xa0\xad\u205f\u2060\u3000\ufeff"


def read_text(line: str) -> Fields | None:
    """Return the one field of a line of text, None for a blank one.

    Raises:
        ValueError: If there is a carriage return inside it: that is never meant as one prompt.
    """
    line = line.removesuffix("\r")
    if "\r" in line:
        raise ValueError("a carriage return inside the line; save the file with line feeds")
    return None if is_blank(line) else {"prompt": line}


def is_blank(text: str) -> bool:
    """Return whether nothing of a text is seen: it has blanks alone, or marks without a width."""
    return not text.strip(_INVISIBLE)


def read_object(line: str) -> Fields | None:
    """Return the fields of a JSON object on a line, None for a blank one.

    Raises:
        ValueError: If it is not a JSON object, or names a field twice.
    """
    try:
        value = from_json(line, cache_strings="keys")
    except ValueError as error:
        if not line.strip():
            return None
        raise ValueError(_no_object(_reason(str(error)), line)) from None
    if type(value) is not dict:
        raise ValueError(_no_object("JSON, but not an object", line))
    if "NaN" in line:  # what pandas and Python write where nothing is
        value = {name: None if each != each else each for name, each in value.items()}
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


def field_names(names: Sequence[str]) -> list[str]:
    """Return the canonical names of the columns of a table.

    Raises:
        ValueError: If two are the same.
    """
    return list(_renamed(tuple(names)) or names)


def _reason(error: str) -> str:
    """Return what is wrong with JSON, where the words of its parser say little."""
    _, _, column = error.rpartition("column ")
    what = next((text for words, text in _REASONS.items() if error.startswith(words)), "")
    return f"not JSON at column {column}{what}"


_REASONS = {
    "EOF": ": it is cut off, or goes on in the next line",
    "trailing characters": ": something follows the object",
    "recursion": ": nested too deeply",
    "number out of range": ": a number is too large",
    "unexpected end of hex": ": half a surrogate pair",
    "lone": ": half a surrogate pair",
}


def _no_object(reason: str, line: str) -> str:
    if line.lstrip().startswith("["):
        hint = "jq -c '.[]' FILE converts it, --format json reads it"
        return f"a JSON array; .jsonl has one object per line: {hint}"
    return f'{reason}; each line is one object, such as {{"prompt": "a red fox"}}'


def _unique(pairs: list[tuple[str, Any]]) -> Fields:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"two fields have one name; the fields are: {listed(n for n, _ in pairs)}")
    return fields


def read_lines(source: Source) -> Rows:
    """Yield a row for each line of a text, or for what separators part."""
    lines: Iterator[str] = source.lines()
    if source.layout.separator is not None:
        yield from _parts(source, lines)
        return
    comments = source.layout.comments
    for number, line in enumerate(lines, 1):
        if comments and line.lstrip().startswith("#"):
            continue
        try:
            fields = read_text(line)
        except ValueError as error:
            yield number, error
            continue
        if fields is not None:
            yield number, fields


def _parts(source: Source, lines: Iterable[str]) -> Iterator[tuple[int, Fields]]:
    """Yield a row for each part of a text between lines that are its separator."""
    part: list[str] = []
    start, size, separator = 1, 0, (source.layout.separator or "").strip()
    for number, line in enumerate(chain(lines, [separator]), 1):
        text = line.removesuffix("\r")
        if source.layout.comments and text.lstrip().startswith("#"):
            continue
        if text.strip() == separator:
            if part:
                yield start, {"prompt": "\n".join(part).rstrip()}
            part, size = [], 0
        elif part or not is_blank(text):
            start = start if part else number
            part.append(text)
            size += len(text) + 1
        if size > MAX_LINE:
            raise source.error(f"a prompt of more than {MAX_LINE:,} characters", start)


def read_whole(source: Source) -> Rows:
    """Yield the one row of a text that is one prompt, whose name is its id."""
    layout = replace(source.layout, separator="\0")  # which no text has
    is_empty = True
    for number, fields in _parts(replace(source, layout=layout), source.lines()):
        is_empty = False
        yield number, fields | {"id": PurePath(source.name).stem}
    if is_empty:
        yield 1, ValueError("the prompt is blank; fill it in or remove the file")


def read_objects(source: Source) -> Rows:
    """Yield a row for each line of JSON.

    Raises:
        InputError: If it begins with an array: each further line would be wrong too.
    """
    is_first = True
    for number, line in enumerate(source.lines(), 1):
        try:
            fields = read_object(line)
        except ValueError as error:
            if is_first and line.lstrip().startswith("["):
                raise source.error(error, number) from None
            yield number, error
            continue
        if fields is not None:
            is_first = False
            yield number, fields


# Tables

# As Excel has it, in quotes or not, and with the separators of empty cells behind it.
SEP = re.compile(r"\ufeff?\"?sep=([^\w ])\"?\1*\s*", re.IGNORECASE)  # letters are words
_MOST_TITLES = 10  # rows above the header of a table, such as the title of a sheet
_MOST_OF_A_CELL = f"a field of more than {csv.field_size_limit():,} characters"
_CSV_WORDS = {
    "field larger": f"{_MOST_OF_A_CELL}; check the quotes of this row",
    "unexpected end": "a quote is left open; check the quotes of this row",
    "new-line": "a carriage return outside quotes; save the file with line feeds",
}


def read_csv(source: Source) -> Rows:
    """Yield the rows of a table whose quotes are those of a spreadsheet."""
    first, lines, delimiter = _delimited(source, ",;\t|")
    return rows_of_cells(source, _csv_cells(lines, delimiter, first))


def read_tsv(source: Source) -> Rows:
    """Yield the rows of a table with tabs, whose quotes may be text; see _tsv_cells."""
    first, lines, delimiter = _delimited(source, "\t,;|")
    split = _tsv_cells(lines) if delimiter == "\t" else _csv_cells(lines, delimiter, first)
    return rows_of_cells(source, split)


def _delimited(source: Source, delimiters: str) -> tuple[int, Iterator[str], str]:
    """Return the number of the first line, the lines from there on, and what separates columns.

    That is what a line ``sep=;`` or an option says, or else what makes the header have the most
    columns that are known, or the most at all.
    """
    lines = source.lines()
    ahead: list[str] = []
    for line in lines:
        ahead.append(line)
        if line.strip():
            break
    header = "".join(ahead[-1:])
    given = source.layout.separator
    if marked := SEP.fullmatch(header):
        return len(ahead) + 1, lines, given or marked[1]
    if given is not None and len(given) != 1:
        message = f"--separator {short(given)}: a table has one character between its columns"
        raise source.error(message)
    known = {*_KNOWN, *source.needed}
    delimiter = given or max(delimiters, key=partial(_columns, header, known))
    return 1, chain(ahead, lines), delimiter


def split_header(header: str, delimiter: str) -> list[str]:
    """Return the canonical names of the columns of a header, none if its quotes are wrong."""
    try:
        cells = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # reported where the header is read
        return []
    return [canonical(cell.strip()) for cell in cells]


def _columns(header: str, known: Collection[str], delimiter: str) -> tuple[int, int]:
    """Return how many known columns a header has with this delimiter, and how many at all."""
    names = split_header(header, delimiter)
    return sum(name in known for name in names), len(names)


def _csv_cells(lines: Iterable[str], delimiter: str, start: int) -> Cells:
    whole = (f"{line}\n" for line in lines)
    # strict: the lenient reader silently drops the quotes of «"Hi" on a wall» and, where one is
    # left open, swallows the rows that follow.
    reader = csv.reader(whole, delimiter=delimiter, strict=True)
    before = start - 1
    while True:
        try:
            for cells in reader:
                yield start, cells
                start = before + reader.line_num + 1
            return
        except csv.Error as error:
            known = (text for words, text in _CSV_WORDS.items() if words in str(error))
            what = "text beside the quotes of a field; double the quotes that are inside it"
            yield start, ValueError(next(known, what))
            start = before + reader.line_num + 1


def _tsv_cells(lines: Iterable[str]) -> Cells:
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
            message = "a carriage return inside the line; quote the field"
            yield number, ValueError(message)
        elif any(cell.startswith('"') and cell.count('"') % 2 for cell in cells):
            hint = "a row is one line here: use .csv for prompts with line breaks, or --format csv"
            yield number, ValueError(f"quotes left open; {hint}")
        else:
            yield number, cells


def rows_of_cells(source: Source, rows: Cells) -> Rows:
    """Yield the rows of a table, the first of which names the columns.

    Rows above the one that has the columns that are needed are its title, and left out.

    Raises:
        InputError: If there is no such row.
    """
    header, ahead = _below_titles(source, rows)
    for number, cells in chain(ahead, rows):
        if isinstance(cells, ValueError):
            yield number, cells
            continue
        if not "".join(cells).strip():
            continue
        try:
            fields = _fields(header, cells)
        except ValueError as error:
            yield number, error
        else:
            yield number, fields


def _below_titles(source: Source, rows: Cells) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and what was read of the rows with values."""
    refused: list[InputError] = []
    for number, cells in rows:
        if isinstance(cells, ValueError):
            raise source.error(cells, number)
        if not "".join(cells).strip():
            continue
        try:
            header = _header_of(source, cells)
        except ValueError as error:
            refused.append(source.error(error, number))
            if not source.layout.header or len(refused) > _MOST_TITLES:
                break
            continue
        if refused:
            what = f"the header is row {number}; what is above it is ignored"
            source.note(f"{source.name}: {what}")
        return header, ([] if source.layout.header else [(number, cells)])
    if refused:
        raise refused[0]
    return [], []


def _header_of(source: Source, cells: list[str]) -> list[str]:
    """Return the names of the columns, which the user can count where there is no header."""
    if not source.layout.header:
        header = [str(number) for number in range(1, len(cells) + 1)]
    else:
        header = header_names(cells)
        if _is_data(cells, source.needed):
            hint = "first row looks like data: --no-header --column 1"
            raise ValueError(f"no column named {source.needed[0]}; {hint}")
        if not header[0] and len(header) > 1:
            source.note(f"{source.name}: the first column has no name and is ignored")
    source.check_names([each for each in header if each])
    return header


def _is_data(cells: list[str], needed: Sequence[str]) -> bool:
    """Return whether what should name the columns looks like the first row of data."""
    if len(needed) != 1 or any(canonical(cell.strip()) in (*_KNOWN, *needed) for cell in cells):
        return False
    return any(_NUMBER.fullmatch(cell.strip()) or len(cell.split()) > 3 for cell in cells)


_NUMBER = re.compile(r"[-+]?[0-9]+([.,][0-9]+)?")
# What pandas calls the column of its index once that was read back.
_UNNAMED = re.compile(r"Unnamed: [0-9]+|__index_level_[0-9]+__")


def header_names(cells: list[str]) -> list[str]:
    names = [canonical(cell.strip()) for cell in cells]
    names = ["" if _UNNAMED.fullmatch(name) else name for name in names]
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
