"""Recipe: how a row becomes prompts, and what all of them together ask for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from genbatch._values import Prompt

from ._messages import listed
from ._settings import PARSERS, Parse, check_finite, check_prompt, parse_settings
from ._templates import Grid, Point, Template

_NAMES = frozenset({"id", "filename"})
_COUNTED = ("model", "aspect_ratio", "image_size", "n")  # what an axis may change in an estimate

# The model, aspect_ratio and image_size of a prompt, None where it leaves them to the run.
Asked: TypeAlias = tuple[str | None, str | None, str | None]
Fields: TypeAlias = Mapping[str, Any]
Parsers: TypeAlias = tuple[tuple[str, Parse], ...]


def _anything(model: str | None, aspect_ratio: str | None, image_size: str | None) -> None:
    """Check nothing."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How rows become prompts.

    Attributes:
        column: The field that is the prompt, where there is no template.
        template: Makes the prompt of the fields of a row.
        grid: Of each row there is a prompt for each of its points; their values count as fields.
        check: Called with a model, an aspect_ratio and an image_size, each None where a prompt
            leaves it to the run; raises a ValueError where the model cannot do that.

    Raises:
        ValueError: If an axis of the grid would only make equal prompts.
    """

    column: str = "prompt"
    template: Template | None = None
    grid: Grid = field(default_factory=Grid)
    check: Callable[[str | None, str | None, str | None], object] = _anything

    def __post_init__(self) -> None:
        used = [] if self.template is None else self.template.names
        for name in self.grid.axes:
            if name not in used and name not in PARSERS:
                raise ValueError(f"--matrix {name}: --template has to have {{{name}}} in it")

    def check_names(self, names: Collection[str], kind: str = "column") -> None:
        """Refuse a row, or a table, that lacks a field.

        Args:
            names: Of the fields that it has.
            kind: What a message calls them.

        Raises:
            ValueError: If one is missing, or an axis of the grid has its name.
        """
        needed, hint = [self.column], "; --column names yours"
        if self.template is not None:
            needed, hint = [each for each in self.template.names if each not in self.grid.axes], ""
        for name in needed:
            if name not in names:
                shown = f"the {kind}s are: {listed(names)}"
                raise ValueError(f"no {kind} named {name}; {shown}{hint}")
        for name in self.grid.axes:
            if name in names:
                raise ValueError(f"the {kind} {name} is in --matrix too; leave out one of them")

    def read(self, fields: Fields, folder: Path) -> dict[str, Any]:
        """Check a row, but for what its model can do, and return its settings.

        Args:
            fields: Of the row, by name.
            folder: That paths of input images are relative to.

        Returns:
            Those given, as a Prompt has them, and n.

        Raises:
            ValueError: If a field is missing or not what it should be.
        """
        if self.template is not None or self.grid.axes or self.column not in fields:
            self.check_names(fields, "field")
        parsers, others = self._parted(fields)
        for name in others:
            if type(fields[name]) is not str:
                check_finite(name, fields[name])
        settings = parse_settings(parsers, fields, folder) if parsers else {}
        if self.template is None:
            check_prompt(self.column, fields[self.column])
        else:
            self._text(fields, next(self.grid.points()))
        return settings

    def prompts(self, fields: Fields, settings: Mapping[str, Any]) -> Iterator[Prompt]:
        """Yield the prompts of a row that was read: n for each point of the grid."""
        others = {name: fields[name] for name in self._parted(fields)[1]}
        for point in self.grid.points():
            own = {**settings, **point.settings}
            n = own.pop("n", 1)
            for name in _NAMES & settings.keys() if point.values else ():
                # By value, not by number: a longer grid leaves the names it had as they were.
                own[name] = "-".join([settings[name], *point.values.values()])
            metadata = {**others, **point.values}
            yield from Prompt(self._text(fields, point), **own, metadata=metadata).variants(n)

    def kinds(self, settings: Mapping[str, Any]) -> Sequence[tuple[Asked, int]]:
        """Return what the prompts of a row ask for, and how many ask for it."""
        if not self.grid.axes:  # mostly
            return ((_asked(settings), settings.get("n", 1)),) if settings else _ONE
        points = list(self.grid.part(_COUNTED))
        each = self.grid.size // len(points)
        rows = [{**settings, **point.settings} for point in points]
        return [(_asked(row), row.get("n", 1) * each) for row in rows]

    def _parted(self, fields: Fields) -> tuple[Parsers, tuple[str, ...]]:
        """Return the parsers of the fields that are settings, and the names of the others."""
        return _parted(tuple(fields), self.column if self.template is None else None)

    def _text(self, fields: Fields, point: Point) -> str:
        if self.template is None:
            return str(fields[self.column])
        return self.template.fill({**fields, **point.values})


_ONE: Sequence[tuple[Asked, int]] = [((None, None, None), 1)]


def _asked(settings: Mapping[str, Any]) -> Asked:
    return settings.get("model"), settings.get("aspect_ratio"), settings.get("image_size")


@lru_cache(maxsize=256)
def _parted(names: tuple[str, ...], prompt: str | None) -> tuple[Parsers, tuple[str, ...]]:
    others = [name for name in names if name != prompt]
    parsers = tuple((name, PARSERS[name]) for name in others if name in PARSERS)
    return parsers, tuple(name for name in others if name not in PARSERS)


class Tally:
    """Counts prompts row by row, and checks what they ask for.

    Args:
        limit: Most prompts to count; those beyond are checked all the same.

    Attributes:
        asked: What those counted ask for, and how many ask for it.
        count: All of them.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.asked: dict[Asked, int] = {}
        self.count = 0
        self._limit = sys.maxsize if limit is None else limit

    def add(self, recipe: Recipe, fields: Fields, folder: Path) -> tuple[dict[str, Any], int]:
        """Read a row and count its prompts.

        Args:
            recipe: How it becomes prompts.
            fields: Of the row, by name.
            folder: That paths of input images are relative to.

        Returns:
            The settings of the row, and how many of its prompts are within the limit.

        Raises:
            ValueError: If a field is not what it should be, or a model cannot do what is asked.
        """
        settings = recipe.read(fields, folder)
        before = self.count
        for asked, number in recipe.kinds(settings):
            if (counted := self.asked.get(asked)) is None:
                recipe.check(*asked)
                counted = 0
            self.asked[asked] = counted + number
            self.count += number
        if self.count > self._limit:
            self.count = self._limit
            for asked, number in recipe.kinds(settings):
                self.asked[asked] -= number
            for each in islice(recipe.prompts(fields, settings), self._limit - before):
                self.asked[each.model, each.aspect_ratio, each.image_size] += 1
        return settings, self.count - before
