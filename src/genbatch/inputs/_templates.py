"""Templates and grids: the text of a prompt from fields, and the product of lists of values.

A template puts a field in place of ``{name}`` and a brace in place of ``{{``, and does no more:
nothing that is written in a template or in a field is looked up or evaluated.
"""

from __future__ import annotations

import csv
import math
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ._formats import canonical
from ._messages import found, short
from ._settings import PARSERS, check_images, check_text

_NOT_PLAIN = frozenset(".[]{}!:")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with fields in it.

    Attributes:
        parts: Literal text, and the name of the field after it, None where none is.
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Return the template that text is.

        Raises:
            ValueError: If it is malformed, has no field or asks for more than plain ones.
        """
        try:
            parsed = list(string.Formatter().parse(_argument(text)))
        except ValueError as error:
            raise ValueError(f"--template: {error}; write {{{{ or }}}} for a brace") from None
        for _, name, spec, conversion in parsed:
            if name is not None and (spec or conversion or not _is_plain(name)):
                plain = "a field is a plain name, without . [ ] ! or :"
                raise ValueError(f"--template: {{{short(name)}}}: {plain}")
        parts = tuple((before, name and canonical(name.strip())) for before, name, _, _ in parsed)
        if all(name is None for _, name in parts):
            raise ValueError("--template: there is no {field} in it")
        return cls(parts)

    @property
    def names(self) -> list[str]:
        """The fields that it asks for."""
        return [name for _, name in self.parts if name is not None]

    def fill(self, fields: Mapping[str, object]) -> str:
        """Return the text with the values of fields.

        Raises:
            ValueError: If one is blank, or neither text nor a number.
        """
        pieces = ((before, "" if name is None else _value(name, fields[name]))
                  for before, name in self.parts)  # fmt: skip
        return "".join(piece for pair in pieces for piece in pair)


def _is_plain(name: str) -> bool:
    return bool(name.strip()) and _NOT_PLAIN.isdisjoint(name)


def _value(name: str, value: object) -> str:
    if type(value) in (int, float):
        return str(value)
    try:
        text = check_text(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not text.strip():
        raise ValueError(f"the field {name} is blank; fill it in or remove the row")
    return text


@dataclass(frozen=True, slots=True)
class Point:
    """A combination of the values of a grid.

    Attributes:
        values: By the name of their axis.
        settings: Those that are settings of a Prompt, as it has them.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grid:
    """Lists of values, and the full product of them; without an axis it has one point.

    Attributes:
        axes: Names, and their values in order: each as a Prompt has it, if it is a setting.
    """

    axes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, axes: Iterable[str]) -> Grid:
        """Return the grid of axes such as ``style=ink,"oil, thick"``.

        Raises:
            ValueError: If one is malformed, or there twice.
        """
        parsed: dict[str, Mapping[str, Any]] = {}
        for axis in axes:
            given, equals, values = _argument(axis).partition("=")
            name = canonical(given.strip())
            if not equals or not _is_plain(name):
                raise ValueError(f"--matrix: {short(axis)} is not like style=ink,oil")
            if name in parsed:
                raise ValueError(f"--matrix {name}: is there twice; put its values in one list")
            try:
                parsed[name] = _values(name, values)
            except ValueError as error:
                raise ValueError(f"--matrix {name}: {error}") from None
        for paths in parsed.get("images", {}).values():
            check_images(paths)
        return cls(parsed)

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(map(len, self.axes.values()))

    def points(self) -> Iterator[Point]:
        """Yield the points, the last axis changing fastest."""
        return self.part(self.axes) if self.axes else iter(_ORIGIN)

    def part(self, names: Iterable[str]) -> Iterator[Point]:
        """Yield the points of a grid that has no other axes than these."""
        axes = {name: self.axes[name] for name in names if name in self.axes}
        for values in product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            settings = {name: axes[name][point[name]] for name in axes if name in PARSERS}
            yield Point(point, settings)


_ORIGIN = (Point(),)


def _values(name: str, text: str) -> dict[str, object]:
    try:
        (values,) = csv.reader([text], skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise ValueError(f"{str(error).partition(' - ')[0]}; check the quotes") from None
    values = [value.strip() for value in values]
    if not values or not all(values):
        raise ValueError("a value is blank")
    if len(set(values)) < len(values):
        raise ValueError(f"a value is there twice: {found(text)}")
    if name not in PARSERS:
        return dict.fromkeys(values)
    return {value: PARSERS[name](value, Path()) for value in values}


def _argument(text: str) -> str:
    """Return an argument of the command line if it is text, which its bytes may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("an argument is not text in the encoding of this machine") from None
    return text
