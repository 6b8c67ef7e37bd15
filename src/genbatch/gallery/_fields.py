"""Fields: what the prompts of a directory differ in, to filter by and to lay out as a table.

A run over a matrix has a value for each of its axes in the metadata of each prompt, as an input
file has for each of its further columns. Settings that differ from prompt to prompt are fields too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from ._items import Item

_SETTINGS = ("aspect_ratio", "image_size", "seed")
_MOST_VALUES = 100  # of a field: more are no choice
_MOST_FIELDS = 12
_PER_CELL = 16  # prompts, on average, up to which a table is what is seen first

Values: TypeAlias = dict[str, list[str]]
Labels: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a gallery.

    Attributes:
        values: The values of each field, in the order in which they were met.
        axes: The fields that are columns and rows of a table, None where no two fields have all
            combinations of their values.
        is_table: Whether the table is what is seen first.
    """

    values: Values
    axes: tuple[str, str] | None = None
    is_table: bool = False

    def as_json(self) -> dict[str, object]:
        """Return them as the page is told: the axes by their numbers."""
        names = list(self.values)
        axes = self.axes and [names.index(axis) for axis in self.axes]
        return {"fields": list(self.values.items()), "axes": axes, "table": self.is_table}


def fields_of(items: list[Item]) -> Fields:
    """Return the fields of items, and note in each as ``at`` the numbers of its values, or -1."""
    everything = [_labels(item) for item in items]
    current = [
        own for own, item in zip(everything, items, strict=True) if item["index"] is not None
    ]
    met: dict[str, Counter[str]] = {}
    for own in current:
        for name, label in own.items():
            met.setdefault(name, Counter())[label] += 1
    kept = [name for name, counts in met.items() if _is_choice(counts)][:_MOST_FIELDS]
    numbers = [(name, {label: number for number, label in enumerate(met[name])}) for name in kept]
    if numbers:
        for own, item in zip(everything, items, strict=True):
            item["at"] = [of_field.get(own.get(name, ""), -1) for name, of_field in numbers]
    return _laid_out({name: list(met[name]) for name in kept}, current)


def _labels(item: Item) -> Labels:
    """Return the values of an item by field; its metadata go before settings of the same name."""
    settings = {
        "model": item.get("model"),
        **{name: item.get("asked", {}).get(name) for name in _SETTINGS},
        "namespace": item.get("namespace", "none"),
    }
    labels: Labels = item.get("metadata", {})
    others = {name: value for name, value in settings.items() if name not in labels}
    return labels | {name: value for name, value in others.items() if value is not None}


def _is_choice(counts: Counter[str]) -> bool:
    """Return whether a field has several values, few enough for many to be there repeatedly."""
    return 2 <= len(counts) <= max(2, min(_MOST_VALUES, counts.total() * 2 // 3))


def _laid_out(values: Values, labels: list[Labels]) -> Fields:
    axes = next(_products(values, labels), None)
    if axes is None:
        return Fields(values)
    is_everywhere = all(axis in own for own in labels for axis in axes)
    per_cell = len(labels) / len(values[axes[0]]) / len(values[axes[1]])
    return Fields(values, axes, is_everywhere and per_cell <= _PER_CELL)


def _products(values: Values, labels: list[Labels]) -> Iterator[tuple[str, str]]:
    """Yield each pair of fields whose values occur in all combinations, the smaller field first."""
    for first, second in combinations(values, 2):
        cells = len(values[first]) * len(values[second])
        if cells > len(labels):
            continue
        met = {(own[first], own[second]) for own in labels if first in own and second in own}
        if len(met) == cells:
            yield (first, second) if len(values[first]) < len(values[second]) else (second, first)
