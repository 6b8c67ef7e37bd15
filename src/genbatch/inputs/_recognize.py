"""Which format an input has: the table of formats, and how names and first bytes tell them apart.

1. An option wins, then bytes that only one format begins with, then the extension.
2. Text without an extension, on standard input or in a .txt is looked into: a header makes it a
   table, a bracket makes it JSON.
3. What is no text, such as an image, is refused by what it looks like.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import Any

from pydantic_core import from_json

from genbatch._values import sniff_input_type

from ._columns import read_arrow, read_parquet, read_workbook
from ._formats import (
    BLOCK,
    MAX_LINE,
    SEP,
    Rows,
    Source,
    canonical,
    read_csv,
    read_lines,
    read_objects,
    read_tsv,
    read_whole,
    split_header,
)
from ._json import read_json
from ._markdown import read_markdown


@dataclass(frozen=True, slots=True)
class Format:
    """A format of inputs.

    Attributes:
        name: As ``--format`` takes it.
        extensions: Of its files, in lower case.
        read: Yields the rows of an input.
        has_fields: Whether rows have other fields than the prompt.
        magic: Pattern of what its files, and no others, begin with.
    """

    name: str
    extensions: tuple[str, ...]
    read: Callable[[Source], Rows]
    has_fields: bool = True
    magic: bytes = b""


FORMATS = {
    each.name: each
    for each in (
        Format("txt", (".txt",), read_lines, has_fields=False),
        Format("jsonl", (".jsonl", ".ndjson"), read_objects),
        Format("json", (".json",), read_json),
        Format("csv", (".csv",), read_csv),
        Format("tsv", (".tsv", ".tab"), read_tsv),
        Format("md", (".md", ".markdown"), read_markdown),
        Format("xlsx", (".xlsx", ".xlsm"), read_workbook, magic=rb"PK\x03\x04"),
        Format("parquet", (".parquet",), read_parquet, magic=rb"PAR1"),
        Format(
            "arrow",
            (".arrow", ".feather", ".ipc"),
            read_arrow,
            magic=rb"ARROW1|\xff{4}.{3}\0",  # a file, or a stream and the length of its schema
        ),
    )
}
A_PROMPT_A_FILE = Format("", (), read_whole, has_fields=False)  # those of a directory
_BY_EXTENSION = {extension: each for each in FORMATS.values() for extension in each.extensions}
SUPPORTED = f"{', '.join(_BY_EXTENSION)}, directories of .txt, and - for standard input"

# What is taken for text by mistake.
_OTHERS = {
    b"%PDF": "a PDF",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"(\xb5/\xfd": "a zstd archive: unpack it first",
    b"\xd0\xcf\x11\xe0": "an old Office file: save it as .xlsx or .csv",
    b"SQLite format 3": "an SQLite database",
    rb"{\rtf": "an RTF document: save it as plain text",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
    b"FEA1": "a Feather file of version 1: write it again as version 2",
}
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_ARRAY = re.compile(r'\[\s*(?:["{\[\]]|$)')
_OPEN = re.compile(r"\s*[\[{]\s*[\[{]?\s*")  # of JSON over several lines
_VALUE = re.compile(r'\s*["{\[]')
_RULE = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?)?\s*")  # below the header of a table
_WILDCARD = re.compile(r'\{[^{}":]*\|')


def peek(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the beginning of an input, with a first line, and all its blocks again."""
    head, block, most = b"", b"-", BLOCK
    while block and len(head) < most and not _has_line(head):
        block = next(blocks, b"")
        head += block
        most = MAX_LINE if head.startswith(b"{") else BLOCK  # one line, or a document that is one
    return head, chain((head, b"") if not block and head else (head,), blocks)


def _has_line(head: bytes) -> bool:
    return b"\n" in head.lstrip(b"\xef\xbb\xbf\r\n\t ")


def recognize(source: Source, head: bytes, known: Format | None = None) -> Format:
    """Return the format of an input that begins with head: the known one, if that may be.

    Raises:
        InputError: If it has none that can be read.
    """
    if source.layout.format is not None and known is None:
        return FORMATS[source.layout.format]
    for each in FORMATS.values() if known is None else ():
        if each.magic and re.match(each.magic, head, re.DOTALL):
            return each
    if what := _looks_like(head):
        raise source.error(f"byte 1: looks like {what}, not like prompts")
    if known is not None:
        return known
    extension = PurePath(source.name).suffix.lower()
    named = _BY_EXTENSION.get(extension)
    if named is None and extension:
        names = ", ".join(FORMATS)
        raise source.error(
            f"unknown extension {extension!r}; supported are {SUPPORTED}; "
            f"--format says how to read others: {names}"
        )
    if named is not None and named.magic and head:
        raise source.error(f"looks like text, not like {named.name}; --format says what it is")
    first, after = _first_lines(head, source.layout.encoding)
    if named is None or named.name == "json":
        kind = _json_format(first, after, source.needed, named)
        return FORMATS[kind or _text_format(head, first, source, after)]
    return FORMATS[_text_format(head, first, source, after)] if named.name == "txt" else named


def _looks_like(head: bytes) -> str:
    kind = sniff_input_type(head[:64])
    if kind is not None:
        return f"a {kind.removeprefix('image/').upper()} image"
    text = head.removeprefix(codecs.BOM_UTF8)[:64].lstrip().lower()
    known = (w for magic, w in _OTHERS.items() if head.startswith(magic) or text.startswith(magic))
    return next(known, "")


def _first_lines(head: bytes, encoding: str) -> tuple[str, str]:
    """Return the first line that is not blank, and what is known of the lines after it."""
    encoding = _UTF_16.get(head[:2], encoding)
    text = ""
    with suppress(UnicodeError):  # of encodings that are not of files, such as idna
        text = head.decode(encoding, errors="replace").removeprefix("\ufeff").lstrip()
    first, _, after = text.partition("\n")
    return first.rstrip("\r"), after


def _text_format(head: bytes, first: str, source: Source, after: str) -> str:
    """Return the format of text by its first line, and the one after it."""
    if _OPEN.fullmatch(first) and _VALUE.match(after):
        return "json"
    if "|" in first and _RULE.fullmatch(after.partition("\n")[0]):
        return "md"
    if SEP.fullmatch(first) or (head[:2] in _UTF_16 and "\t" in first):
        return "csv"
    for delimiter in "\t,;|":
        names = split_header(first, delimiter)
        is_header = source.needed and set(source.needed) <= set(names)
        if is_header and (len(names) > 1 or list(source.needed) != ["prompt"]):
            return "csv"
    return "txt"


def _json_format(
    first: str, after: str, needed: Collection[str], named: Format | None
) -> str | None:
    """Return which JSON an input is by its beginning, None if it is text."""
    if first.startswith("[") and (named or _ARRAY.match(first)):
        return "json"
    if not first.startswith("{") or (named is None and _WILDCARD.match(first)):
        return None if named is None else "json"
    try:
        value = from_json(first)
    except ValueError:
        is_open = not first.rstrip().endswith("}")
        return "json" if named or (is_open and after[:1] != "{") else "jsonl"
    return "jsonl" if after.strip() or not _has_list_only(value, needed) else "json"


def _has_list_only(value: Any, needed: Collection[str]) -> bool:
    """Return whether an object is no row itself, but has rows."""
    if any(canonical(name) in needed and isinstance(value[name], str) for name in value):
        return False
    return any(isinstance(each, list | dict) for each in value.values())
