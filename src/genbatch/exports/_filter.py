"""Filters: which images of a folder are taken away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ._rows import Row, rows_of

_MOST_NAMES = 12


@dataclass(frozen=True, slots=True)
class Filter:
    """Which images are wanted; without anything, the one that is shown of each prompt.

    Attributes:
        kept: Whether only those that were kept.
        min_rating: Only those with so many stars or more.
        where: Only those whose fields have one of these values.
        all: Whether all takes, and those of removed prompts.
    """

    kept: bool = False
    min_rating: int | None = None
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    all: bool = False

    def rows(self, directory: Path) -> Iterator[Row]:
        """Yield the rows of the images that are wanted.

        A choice is of a take, so takes are looked through where choices are asked for.

        Raises:
            ValueError: If no image has a field that is asked for.
            StoreError: If there is no journal in directory, or it cannot be read.
        """
        is_chosen = self.kept or self.min_rating is not None
        missing, known = dict.fromkeys(self.where), dict[str, None]()
        for row in rows_of(directory, all=self.all or is_chosen):
            known |= dict.fromkeys(row["metadata"])
            missing = {name: None for name in missing if not _has(row, name)}
            if row["file"] is not None and self._wants(row):
                yield row
        for name in missing:
            raise ValueError(_unknown(name, list(known)))

    def _wants(self, row: Row) -> bool:
        if self.kept and row["verdict"] != "keep":
            return False
        if self.min_rating is not None and (row["stars"] or 0) < self.min_rating:
            return False
        return all(_value(row, name) in values for name, values in self.where.items())


def parse_where(pairs: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the values of each field in texts such as ``category=animals``.

    Raises:
        ValueError: If a text is not like that.
    """
    where: dict[str, frozenset[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--where: {pair!r:.50} is not like category=animals")
        name = name.strip()
        where[name] = where.get(name, frozenset()) | {value.strip()}
    return where


def _has(row: Row, name: str) -> bool:
    return any(name in values for values in (row["metadata"], row, row["asked"]))


def _value(row: Row, name: str) -> str | None:
    """Return the value of a field, as text: one of the prompt's own goes before a setting."""
    for values in (row["metadata"], row, row["asked"]):
        if (value := values.get(name)) is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return text.strip()
    return None


def _unknown(name: str, known: list[str]) -> str:
    shown = ", ".join(known[:_MOST_NAMES]) + (", …" if len(known) > _MOST_NAMES else "")
    return f"--where {name}: no prompt has such a field; there are {shown or 'none'}"
