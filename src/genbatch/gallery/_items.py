"""Items: what the page is told of each prompt, from the rows of export.

An item is a prompt with all its takes, as JSON values; what is empty is left out, for a page may
have a hundred thousand of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import PurePath
from typing import Any, TypeAlias

Item: TypeAlias = dict[str, Any]

_OF_A_TAKE = ("take", "file", "sha256", "bytes", "cost", "elapsed", "text", "extras", "made")


def items_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    """Yield an item for each prompt; the index of a superseded one is None.

    Args:
        rows: Of export, every take; those of one prompt follow one another.
    """
    for _, takes in groupby(rows, itemgetter("key")):
        yield _item(list(takes))


def _item(rows: list[Mapping[str, Any]]) -> Item:
    made = [row for row in rows if row["take"] is not None]
    shown = next((number for number, row in enumerate(made) if row["picked"]), 0)
    row = made[shown] if made else rows[0]
    item = {
        "id": row["id"],
        "prompt": row["prompt"],
        "status": row["status"],
        "error": row["error"],
        "model": row["model"],
        "asked": _asked(row),
        "metadata": _labelled(row["metadata"]),
        "namespace": row["namespace"],
        "shown": shown,
    }
    takes = [_take(each, item) for each in made]
    return {"index": row["index"], **_given(item | {"takes": takes})}


def _take(row: Mapping[str, Any], item: Item) -> Item:
    """Return what there is of a take; what it has in common with its item stands there."""
    own = {"prompt": row["prompt"], "model": row["model"], "asked": _asked(row)}
    different = {name: value for name, value in own.items() if value != item[name]}
    return _given({name: row[name] for name in _OF_A_TAKE}) | different


def _asked(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a request; of input images the names only, no paths of a machine."""
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
