"""The page: from the rows of a journal to one HTML file.

1. An item is a prompt with all its takes, as JSON values; empty values are left out, since a page
   may have a hundred thousand items.
2. Fields are the values in which prompts differ; they serve as filters and as axes of a table.
   A run over a matrix has a value for each of its axes in the metadata of each prompt, as an input
   file has for each of its further columns. Settings that differ are fields too.
3. Untrusted text (prompts, errors, names) is in the page as JSON only, in which nothing can end
   the element around it; the script shows it as text.
4. The page has its style and script inside, and a policy that admits these by their hashes, images
   from beside the page, and nothing else: no network, no markup made of text, no form.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from itertools import chain, combinations, groupby
from operator import itemgetter
from pathlib import PurePath
from string import Template
from typing import Any, TypeAlias

from genbatch._store import Choice

Item: TypeAlias = dict[str, Any]

_OF_AN_ITEM = ("id", "prompt", "status", "error", "model", "namespace")
_OF_A_TAKE = ("take", "file", "sha256", "bytes", "cost", "elapsed", "text", "extras", "made")


def items_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    """Yield an item for each prompt; the index of a superseded one is None.

    Args:
        rows: From export, every take; those of one prompt follow one another.
    """
    for _, takes in groupby(rows, itemgetter("key")):
        yield _item(list(takes))


def _item(rows: list[Mapping[str, Any]]) -> Item:
    made = [row for row in rows if row["take"] is not None]
    shown = next((number for number, row in enumerate(made) if row["picked"]), 0)
    row = made[shown] if made else rows[0]
    item = {name: row[name] for name in _OF_AN_ITEM}
    item |= {"asked": _asked(row), "metadata": _labelled(row["metadata"]), "shown": shown}
    takes = [_take(each, item) for each in made]
    return {"index": row["index"], **_given(item | {"takes": takes})}


def add_choices(items: Iterable[Item], choices: Mapping[str, Choice]) -> None:
    """Note in each take what the user has chosen."""
    for take in chain.from_iterable(item.get("takes", ()) for item in items):
        if choice := choices.get(take["file"]):
            take |= _given(choice._asdict())


def _take(row: Mapping[str, Any], item: Item) -> Item:
    """Return the values of a take, without those that it shares with its item."""
    own = {"prompt": row["prompt"], "model": row["model"], "asked": _asked(row)}
    different = {name: value for name, value in own.items() if value != item[name]}
    return _given({name: row[name] for name in _OF_A_TAKE}) | different


def _asked(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a request, with the names of its input images but not their paths."""
    asked = {name: value for name, value in row["asked"].items() if name != "filename"}
    asked |= asked.pop("settings", {})
    if "images" in asked:
        names = [PurePath(path).name if path else "(bytes)" for path in asked["images"]]
        asked["images"] = ", ".join(names)
    return _labelled(asked)


def _labelled(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as text, since JavaScript has no large integers and its JSON has no NaN."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
        if value is not None
    }


def _given(values: Item) -> Item:
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


# Fields

_SETTINGS = ("aspect_ratio", "image_size", "seed")
_MOST_VALUES = 100  # of a field; more are of no use as a filter
_MOST_FIELDS = 12

Labels: TypeAlias = dict[str, str]


def fields_of(items: list[Item]) -> dict[str, object]:
    """Return the fields of items, and note in each as ``at`` the numbers of its values, or -1.

    Returns:
        ``fields``, each with its values in the order in which they were met; and ``axes``, the
        numbers of the two that are columns and rows of a table first, None where no two fields
        have all combinations of their values.
    """
    labelled = [(item, _labels(item)) for item in items]
    current = [own for item, own in labelled if item["index"] is not None]
    met: dict[str, Counter[str]] = {}
    for own in current:
        for name, label in own.items():
            met.setdefault(name, Counter())[label] += 1
    kept = [name for name, counts in met.items() if _is_choice(counts)][:_MOST_FIELDS]
    numbers = [(name, {label: number for number, label in enumerate(met[name])}) for name in kept]
    if numbers:
        for item, own in labelled:
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


def _laid_out(values: Mapping[str, list[str]], labels: list[Labels]) -> dict[str, object]:
    names, axes = list(values), next(_products(values, labels), None)
    numbers = axes and [names.index(axis) for axis in axes]
    return {"fields": list(values.items()), "axes": numbers}


def _products(values: Mapping[str, list[str]], labels: list[Labels]) -> Iterator[tuple[str, str]]:
    """Yield each pair of fields whose values occur in all combinations, the smaller field first."""
    for first, second in combinations(values, 2):
        cells = len(values[first]) * len(values[second])
        if cells > len(labels):
            continue
        met = {(own[first], own[second]) for own in labels if first in own and second in own}
        if len(met) == cells:
            yield (first, second) if len(values[first]) < len(values[second]) else (second, first)


# HTML

SCRIPTS = (
    "page.js",
    "grid.js",
    "dialog.js",
    "choices.js",
    "compare.js",
    "bar.js",
)  # one after the other, as one
MARK = b'<meta name="generator" content="genbatch'

# Characters that could end a script element, that older scripts take for line ends, that no file
# may have, or that UTF-8 cannot encode.
_UNSAFE = re.compile("[<>&\u2028\u2029\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_POLICY = (
    "default-src 'none'; img-src 'self' file:; style-src '{}'; script-src '{}'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def page(
    head: dict[str, Any], items: Iterable[str], *, script: str = "", policy: str = ""
) -> Iterator[str]:
    """Yield a page piece by piece.

    Args:
        head: What concerns all items: ``name`` and more.
        items: One for each prompt, as JSON.
        script: What the page runs after its own.
        policy: What its policy admits besides.
    """
    template, style = _resource("page.html"), _resource("page.css")
    script = "\n".join([*map(_resource, SCRIPTS), script])
    before, after = (
        Template(template)
        .substitute(
            policy=_POLICY.format(_hash(style), _hash(script)) + policy,
            name=html.escape(head["name"]),
            style=style,
            script=script,
            page="\0",
        )
        .split("\0")
    )
    yield before
    yield to_json(head).removesuffix("}") + ', "items": ['
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + item
    yield "\n]}" + after


def to_json(value: object) -> str:
    """Return value as JSON that may stand in a script element."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", _encode(value))


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
