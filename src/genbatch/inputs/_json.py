"""JSON: an array of texts or objects, read one by one, or an object that has such a list.

1. Only one value of an array is in memory. An object is read whole, to know its only list.
2. A row has the number of the line where its value begins.
3. Tables that are written by columns, by names of rows or with their names apart, as pandas writes
   them, are read as their rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ._formats import MAX_LINE, Fields, Rows, Source, canonical, found, listed, read_object

_DECODER = json.JSONDecoder()
_MOST_WHOLE = 50_000_000  # characters of an object
_SPACE = re.compile(r"[ \t\r\n]*")


class _Text:
    """The text of a document, which is kept from the place on that reading has come to."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._texts = source.texts()
        self._text = ""
        self._at = 0
        self.line = 1

    def fill(self) -> bool:
        """Return whether there was more to read; what was passed over is let go of."""
        more = next(filter(None, self._texts), "")
        if more:
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def next(self) -> str:
        """Return the character after whitespace, empty at the end."""
        while True:
            self._move(_SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self.fill():
                return ""

    def take(self, character: str) -> bool:
        """Pass over a character if it is the next one, and return whether it was."""
        is_next = self.next() == character
        self._move(self._at + is_next)
        return is_next

    def expect(self, characters: str) -> str:
        """Pass over the next character, which must be one of these."""
        if (character := self.next()) in characters and character:
            self._move(self._at + 1)
            return character
        what = found(character) if character else "the end"
        wanted = " or ".join(characters)
        raise self._source.error(f"not JSON: {what} in the place of {wanted}", self.line)

    def value(self) -> tuple[str, Any]:
        """Return the next value, and its text."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or not self.fill():
                    break
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > MAX_LINE or not self.fill():
                    raise self._error(error) from None
        text = self._text[self._at : end]
        self._move(end)
        return text, value

    def _error(self, error: ValueError | RecursionError) -> Exception:
        at = getattr(error, "pos", self._at)
        line = self.line + self._text.count("\n", self._at, at)
        what = "a value is malformed"
        if "Unterminated" in str(error) or not self._text[at:].strip():
            what = "it ends too early, or a quote is left open"
        # From Python 3.13 on the error is at the comma, and says so.
        elif "trailing comma" in str(error) or (
            self._text[:at].rstrip().endswith(",") and self._text[at] in "]}"
        ):
            what = "a comma before the closing bracket"
        return self._source.error(f"not JSON: {what}", line)

    def rest(self) -> Any:
        """Return the value of the whole document, without passing over it."""
        self.next()
        texts = [self._text[self._at :]]
        size = len(texts[0])
        for text in self._texts:
            texts.append(text)
            size += len(text)
            if size > _MOST_WHOLE:
                hint = "an array of objects, or .jsonl, may have any length"
                raise self._source.error(
                    f"an object of more than {_MOST_WHOLE:,} characters; {hint}"
                )
        self._text, self._at = "".join(texts), 0
        line, (_, value) = self.line, self.value()
        if self.next():
            raise self._source.error("something follows the JSON value", self.line)
        self._at, self.line = 0, line
        return value

    def enter(self, path: tuple[str, ...]) -> None:
        """Go to the value at a path that exists."""
        for name in path:
            self.expect("{")
            while self.value()[1] != name:
                self.expect(":")
                self.value()
                self.expect(",")
            self.expect(":")

    def _move(self, at: int) -> None:
        self.line += self._text.count("\n", self._at, at)
        self._at = at


def read_json(source: Source) -> Rows:
    """Yield a row for each value of a list.

    Raises:
        InputError: If it is not JSON, or which list is meant is unclear.
    """
    text = _Text(source)
    if text.next() == "[" and source.layout.path is None:
        yield from _elements(text)
        if text.next():
            raise source.error("something follows the JSON array", text.line)
        return
    if not text.next():
        return  # an empty file has no prompts
    value = text.rest()
    if source.layout.path is None and isinstance(value, dict):
        if rows := _rows_in(value, source):
            yield from rows
            return
    try:
        path = _path_to_list(value, source.layout.path)
    except ValueError as error:
        raise source.error(error, text.line) from None
    text.enter(path)
    yield from _elements(text)


def _elements(text: _Text) -> Rows:
    """Yield a row for each element of the array that comes next."""
    text.expect("[")
    if text.take("]"):
        return
    while text.next():
        line = text.line
        yield line, _row(*text.value())
        if text.expect(",]") == "]":
            return
    text.expect("]")


def _row(raw: str, value: object) -> Fields | ValueError:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return ValueError("half a surrogate pair; write the character itself")
        return {"prompt": value}
    if not isinstance(value, dict):
        return ValueError(f"{found(value)} in the list is neither a text nor an object")
    try:
        return read_object(raw) or {}
    except ValueError as error:
        return error


def _rows_in(value: dict[str, Any], source: Source) -> Rows | None:
    """Return the rows of an object that is one row, or a table of pandas, else None."""
    fields = {canonical(name): each for name, each in value.items()}
    columns = [fields.get(name) for name in source.needed]
    if columns and all(isinstance(column, str) for column in columns):
        return iter([(1, fields)])
    if columns and all(isinstance(column, dict | list) for column in columns):
        cells = [_cells(column) for column in fields.values()]
        if len({tuple(each) for each in cells}) == 1:
            return _by_column(fields, cells)
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _split(value["columns"], value["data"])
    rows = {name: _renamed(each) for name, each in value.items()}
    if columns and all(isinstance(r.get(n), str) for r in rows.values() for n in source.needed):
        return _named(rows)
    return None


def _renamed(value: object) -> Fields:
    if not isinstance(value, dict):
        return {}
    return {canonical(name): each for name, each in value.items()}


def _split(columns: list[Any], rows: list[Any]) -> Iterator[tuple[int, Fields | ValueError]]:
    """Yield the rows of a table whose columns are named once."""
    names = [canonical(str(name)) for name in columns]
    for number, row in enumerate(rows, 1):
        if isinstance(row, list) and len(row) == len(names):
            yield number, dict(zip(names, row, strict=True))
        else:
            yield number, ValueError(f"not a list of {len(names)} values, as there are columns")


def _named(rows: Mapping[str, Fields]) -> Iterator[tuple[int, Fields]]:
    """Yield rows that have names, which are ids unless they only number them."""
    for number, (name, fields) in enumerate(rows.items(), 1):
        yield number, fields if name.isdecimal() else {"id": name, **fields}


def _cells(column: object) -> Mapping[Any, object]:
    if isinstance(column, dict):
        return column
    return dict(enumerate(column)) if isinstance(column, list) else {}


def _by_column(fields: Fields, cells: list[Mapping[Any, object]]) -> Iterator[tuple[int, Fields]]:
    for number, values in enumerate(zip(*(each.values() for each in cells), strict=True), 1):
        yield number, dict(zip(fields, values, strict=True))


def _path_to_list(value: Any, path: str | None) -> tuple[str, ...]:
    """Return the names of the fields that lead to the list of rows.

    Raises:
        ValueError: If no list is there, or there are several and no path says which.
    """
    if path is None:
        lists = [name for name, each in value.items() if isinstance(each, list)]
        if len(lists) == 1:
            return (lists[0],)
        if lists:
            raise ValueError(f"several lists: {listed(lists)}; --path names the one to read")
        shown = f"the fields are: {listed(value)}"
        raise ValueError(f"an object without a list; {shown}; --path names.with.dots leads to one")
    names = tuple(name for name in path.removeprefix("$").split(".") if name)
    for name in names:
        if not isinstance(value, dict) or name not in value:
            known = listed(value) if isinstance(value, dict) else "none"
            raise ValueError(f"--path {path}: no field named {name}; the fields are: {known}")
        value = value[name]
    if not isinstance(value, list):
        raise ValueError(f"--path {path}: {found(value)} is not a list")
    return names
