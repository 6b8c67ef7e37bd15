"""Lines: bytes become lines of text, whatever their encoding, in flat memory.

Lines end at a line feed and nowhere else: ``str.splitlines`` would also split at U+2028, U+0085 and
others that a prompt may contain. A carriage return before it is left to who reads the line.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import suppress

from ._messages import InputError

MAX_LINE = 1_000_000  # characters
BLOCK = 1 << 16  # bytes read at once

# What a file of Unicode may begin with, and the encodings it stands for. That of UTF-32 comes
# first: it begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: ("utf-8",),
    codecs.BOM_UTF32_LE: ("utf-32", "utf-32-le"),
    codecs.BOM_UTF32_BE: ("utf-32", "utf-32-be"),
    codecs.BOM_UTF16_LE: ("utf-16", "utf-16-le"),
    codecs.BOM_UTF16_BE: ("utf-16", "utf-16-be"),
}


def check_encoding(encoding: str) -> str:
    """Return the name that Python has for an encoding of text.

    Raises:
        ValueError: If it has none.
    """
    try:
        name = codecs.lookup(encoding).name.removesuffix("-sig")
        codecs.getincrementaldecoder(name)
        b"x".decode(name)
    except UnicodeError:
        pass  # an encoding that has no such text
    except (LookupError, ValueError):  # unknown, or one of bytes, such as hex
        example = "such as utf-8, cp1252 or utf-16"
        raise ValueError(f"no encoding of text: {encoding!r}; give one {example}") from None
    return name


class Lines:
    """Cuts what it is fed, block by block, into lines of text.

    Args:
        name: What errors call the input.
        encoding: As check_encoding returns it. A byte order mark at the very start is dropped.
    """

    def __init__(self, name: str, encoding: str) -> None:
        self._name = name
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._head: bytes | None = b""  # until what may be a mark is whole
        self._rest = ""
        self._is_first = True
        self.number = 0  # of the line given away last, from 1

    def feed(self, block: bytes) -> Iterator[str]:
        """Yield the lines that are complete, without line feeds; an empty block ends the last one.

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
