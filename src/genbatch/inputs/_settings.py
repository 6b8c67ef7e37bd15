"""Settings: the fields of a row that say how its images are made, checked and converted."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic_core import from_json

from ._messages import found, one_line, short

MOST_IMAGES = 1000  # of one row: a slip of the finger should not cost a fortune

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_SEEDS = range(-(2**31), 2**31)  # what the service takes

Parse: TypeAlias = Callable[[Any, Path], object]


def parse_settings(
    parsers: Iterable[tuple[str, Parse]], fields: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return the settings that are given, as a Prompt has them, and n.

    Args:
        parsers: Names of settings, and their parsers.
        fields: Their values, text or what JSON has; a blank one is not given.
        folder: That paths of input images are relative to.

    Raises:
        ValueError: If a value is not what it should be.
    """
    settings = {}
    name = ""
    try:
        for name, parse in parsers:
            value = fields[name]
            if type(value) is str and not (value := value.strip()):
                continue
            if value is not None:
                settings[name] = parse(value, folder)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return settings


def check_text(value: object) -> str:
    """Return a value if it is text.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{found(value)} is not text")
    if "\0" in value:
        raise ValueError("a NUL character is in it; take it out")
    return value


def check_prompt(name: str, value: object) -> None:
    """Refuse what cannot be the text of a prompt.

    Raises:
        ValueError: If the field of this name is not text, or blank.
    """
    if type(value) is not str or "\0" in value:
        try:
            check_text(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    elif not value.strip():
        raise ValueError("the prompt is blank; fill it in or remove the row")


def check_images(paths: Iterable[Path]) -> None:
    """Look for the input images of a row, which blocks.

    Raises:
        ValueError: If one is no file, or cannot be read.
    """
    for path in paths:
        shown = one_line(str(path))
        if not os.path.isfile(path):
            raise ValueError(f"images: there is no file {shown}")
        if not os.access(path, os.R_OK):
            raise ValueError(f"images: the file {shown} cannot be read")


def check_finite(name: str, value: object) -> None:
    """Refuse numbers that JSON cannot write, wherever they are in a value.

    Raises:
        ValueError: If there is one.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{short(name)}: a number is too large")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            check_finite(name, each)


def _text(value: Any, folder: Path) -> str:
    return value if type(value) is str and "\0" not in value else check_text(value)


def _text_or_number(value: Any, folder: Path) -> str:
    return str(value) if type(value) is int else _text(value, folder)


def _whole(value: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if type(value) is not int:
        raise ValueError(f"{found(value)} is not a whole number")
    return value


def _seed(value: Any, folder: Path) -> int:
    if (seed := _whole(value)) not in _SEEDS:
        raise ValueError(f"{found(seed)} has more than 32 bits")
    return seed


def _n(value: Any, folder: Path) -> int:
    if not 1 <= (n := _whole(value)) <= MOST_IMAGES:
        raise ValueError(f"{found(n)} is not 1 to {MOST_IMAGES:,}")
    return n


def _images(value: Any, folder: Path) -> tuple[Path, ...]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = from_json(value)
        except ValueError:
            raise ValueError(f"{found(value)} is no list in JSON") from None
    if isinstance(value, str):
        value = [path.strip() for path in value.split(";") if path.strip()]
    if not isinstance(value, list):
        raise ValueError(f"{found(value)} is not a path, nor a list of them")
    return tuple(folder / _text(path, folder) for path in value)


PARSERS: dict[str, Parse] = {
    "id": _text_or_number,
    "filename": _text_or_number,
    "model": _text,
    "aspect_ratio": _text,
    "image_size": _text,
    "images": _images,
    "n": _n,
    "seed": _seed,
}
