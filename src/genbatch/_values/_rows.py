"""Rows of tables as prompts: dictionaries, rows of data frames, of Arrow and of data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ._request import Prompt

_SETTINGS = {each.name for each in fields(Prompt)} - {"text", "metadata"}
_TEXTS = _SETTINGS - {"images", "seed"}
_MISSING = ("NAType", "NaTType")  # of pandas, which neither equal nor differ from anything
_MOST_NAMES = 12


def prompt_of_row(row: Any, column: str) -> Prompt:
    """Return the prompt of a row; a missing value of a setting is not given.

    Args:
        row: Values by the names of columns: those that a Prompt has by name are its settings, the
            others its metadata.
        column: That of the prompt.

    Raises:
        TypeError: If it is no such row, or a value is of the wrong type.
        ValueError: If it has no such column, or the prompt is blank.
    """
    if hasattr(row, "_asdict"):  # a named tuple
        row = row._asdict()
    if not isinstance(row, Mapping):
        kind = type(row).__name__
        raise TypeError(
            f"with prompt_column=, each row must be a mapping, such as a dict, got {kind}"
        )
    if column not in row:
        names = [str(name) for name in row]
        shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
        raise ValueError(f"no column named {column}; the columns are: {shown}")
    text = row[column]
    if _is_missing(text):
        raise ValueError(f"the prompt is missing in column {column}")
    others = {str(name): value for name, value in row.items() if name != column}
    given = {name: others.pop(name) for name in _SETTINGS & others.keys()}
    settings = {name: _setting(name, it) for name, it in given.items() if not _is_missing(it)}
    return Prompt(text, **settings, metadata=others)


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ in _MISSING or _is_nan(value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value


def _setting(name: str, value: Any) -> Any:
    """Return a value as a Prompt takes it: tables have integers of their own, and as floats."""
    if name == "images":
        return _images(value)
    if hasattr(value, "item"):  # of numpy
        value = value.item()
    if isinstance(value, float) and value.is_integer():  # a column of integers with gaps
        value = int(value)
    return str(value) if name in _TEXTS and type(value) is int else value


def _images(value: Any) -> tuple[bytes | str | Path, ...]:
    many = value if _is_list(value) else [value]
    return tuple(_image(each) for each in many)


def _is_list(value: Any) -> bool:
    is_one = isinstance(value, str | bytes | os.PathLike | Mapping)
    return isinstance(value, Iterable) and not is_one


def _image(value: Any) -> Any:
    if isinstance(value, Mapping):  # of a data set that does not decode its images
        return value.get("bytes") or value.get("path")
    return value
