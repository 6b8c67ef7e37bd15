"""Prompt files: .txt, .tsv, .csv and standard input become Prompts.

1. A file is checked whole before its first prompt is given away, then read again lazily, so a
   mistake in the last row costs nothing and memory stays flat however long the file is.
2. Lines end at a line feed, with or without a carriage return before it, and nowhere else:
   ``str.splitlines`` would also split at U+2028, U+0085 and others that a prompt may contain.
3. Every error is one ValueError, "file:line: what was found; what to do".
"""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from ._prompt import Prompt

MAX_LINE_BYTES = 1_000_000
SUPPORTED = ".txt (a prompt a line), .tsv or .csv (a column named prompt), or - for standard input"

_SETTINGS = ("id", "filename", "model", "aspect_ratio", "image_size", "seed")

Row = tuple[int, list[str]]
Parser = Callable[[Iterable[str], str], Iterator[Prompt]]


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The prompts of a file that was found valid; each iteration reads it anew.

    Attributes:
        path: The file.
        count: How many prompts it has.

    Raises:
        ValueError: While iterating, if the file changed since it was checked.
    """

    path: Path
    count: int
    _checked: tuple[int, ...]
    _parse: Parser

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        with self.path.open("rb") as file:
            if _stamp(file) != self._checked:
                raise ValueError(f"{self.path}: changed since it was checked; run again")
            yield from islice(self._parse(_lines(file, str(self.path)), str(self.path)), self.count)


def read_prompts(path: str | Path, *, limit: int | None = None) -> PromptFile | list[Prompt]:
    """Check a prompt file and return its prompts.

    A .txt file and standard input have a prompt a line. A .tsv or .csv file has a header with a
    column ``prompt``; the columns id, filename, model, aspect_ratio, image_size and seed set what
    they name, all others go to ``Prompt.metadata``. Text is UTF-8, blank lines are skipped.

    Args:
        path: A file, or ``"-"`` for standard input, which is read to its end into memory.
        limit: Most prompts to return; the rest of the file is checked all the same.

    Returns:
        The prompts in their order: sized, and iterable as often as you like.

    Raises:
        ValueError: If the extension is unknown or a line is not what it should be.
        OSError: If the file cannot be read.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise ValueError("stdin: is closed; pipe prompts into it or name a file")
        return list(_parse_txt(_lines(sys.stdin.buffer, "stdin"), "stdin"))[:limit]
    path = Path(path)
    parse = _parser_of(path)
    with path.open("rb") as file:
        prompts = parse(_lines(file, str(path)), str(path))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return list(prompts)[:limit]  # a named pipe gives its content once only
        checked = _stamp(file)
        count = sum(1 for _ in prompts)
    return PromptFile(path, count if limit is None else min(limit, count), checked, parse)


def _parser_of(path: Path) -> Parser:
    parsers: dict[str, Parser] = {".txt": _parse_txt, ".tsv": _parse_tsv, ".csv": _parse_csv}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        found = f"unknown extension {path.suffix!r}" if path.suffix else "no extension"
        raise ValueError(f"{path}: {found}; supported are {SUPPORTED}")
    return parse


def _stamp(file: IO[bytes]) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Yield the lines of file as text, their ends included."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise ValueError(f"{name}:{number}: line of more than {MAX_LINE_BYTES:,} bytes")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
            raise ValueError(f"{name}:{number}: {found}; save the file as UTF-8") from None
        if "\0" in line:
            raise ValueError(f"{name}:{number}: NUL character; save the file as UTF-8 text")
        yield line


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _parse_txt(lines: Iterable[str], name: str) -> Iterator[Prompt]:
    return (Prompt(_without_end(line)) for line in lines if line.strip())


def _parse_tsv(lines: Iterable[str], name: str) -> Iterator[Prompt]:
    return _prompts(_tsv_rows(lines, name), name)


def _parse_csv(lines: Iterable[str], name: str) -> Iterator[Prompt]:
    return _prompts(_csv_rows(lines, name), name)


def _csv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    # strict: the lenient reader silently drops the quotes of «"Hi" on a wall» and, where one is
    # left open, swallows the rows that follow.
    reader = csv.reader(lines, strict=True)
    start = 1
    try:
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}:{start}: {error}; check the quotes of this row") from None


def _tsv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Split each line at its tabs.

    Spreadsheets quote fields in a .tsv, other programs write them as they are. A row whose quotes
    are those of a spreadsheet is unquoted, any other is literal, such as «"Hi" on a wall».
    """
    for number, line in enumerate(lines, start=1):
        text = _without_end(line)
        try:
            cells = next(csv.reader([text], delimiter="\t", strict=True), [])
        except csv.Error:
            cells = text.split("\t")
            if any(cell.startswith('"') and cell.count('"') % 2 for cell in cells):
                hint = "a row is one line here: use .csv for prompts with line breaks"
                raise ValueError(f"{name}:{number}: quotes left open; {hint}") from None
        yield number, cells


def _prompts(rows: Iterator[Row], name: str) -> Iterator[Prompt]:
    header: list[str] | None = None
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        try:
            prompt = _prompt(header, cells) if header else None
            header = header or _header(cells)
        except ValueError as error:
            raise ValueError(f"{name}:{number}: {error}") from None
        if prompt:
            yield prompt


def _header(cells: list[str]) -> list[str]:
    """Return the column names, those with a meaning in lower case."""
    known = {"prompt", *_SETTINGS}
    names = [cell.strip() for cell in cells]
    names = [name.lower() if name.lower() in known else name for name in names]
    named = [name for name in names if name]
    if "prompt" not in named:
        raise ValueError(f"no column named prompt; the columns are: {', '.join(named)}")
    if len(set(named)) < len(named):
        raise ValueError(f"two columns have one name; the columns are: {', '.join(named)}")
    return names


def _prompt(header: list[str], cells: list[str]) -> Prompt:
    if any(cell.strip() for cell in cells[len(header) :]):
        found = f"{len(cells)} fields where the header has {len(header)}"
        raise ValueError(f"{found}; put quotes around a field that contains the separator")
    row = dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
    row.pop("", None)  # spreadsheets leave columns without a name behind
    text = row.pop("prompt")
    if not text.strip():
        raise ValueError("the prompt is blank; fill it in or remove the row")
    settings = {name: row.pop(name, "").strip() or None for name in _SETTINGS}
    seed = settings["seed"]
    if seed and not seed.removeprefix("-").isdecimal():
        raise ValueError(f"seed {seed!r} is not a whole number")
    return Prompt(
        text,
        id=settings["id"],
        filename=settings["filename"],
        model=settings["model"],
        aspect_ratio=settings["aspect_ratio"],
        image_size=settings["image_size"],
        seed=int(seed) if seed else None,
        metadata=row,
    )
