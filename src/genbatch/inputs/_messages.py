"""Messages: what was found, short and on one line, as errors show it."""

from __future__ import annotations

import json
from collections.abc import Iterable

_MOST_NAMES = 12
_LONGEST = 60  # characters


class InputError(ValueError):
    """An input is not what it should be: "file:line: what was found; what to do"."""


def one_line(text: str) -> str:
    """Return text with what is not printable escaped."""
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
    """Return a value of a field."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return short(json.dumps(value, ensure_ascii=False))
