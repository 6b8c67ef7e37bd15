"""The table of models, and which of them a key can use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from genbatch import GeminiClient
from genbatch.gemini import MODELS, Model, price

from ._console import QuietConsole, plain
from ._launch import run

_NOTE = "Prices are US dollars an image, as published in autumn 2026; what is billed may differ."


def available_models(client: GeminiClient, backend: str) -> list[str]:
    """Return the ids of the models that the client's key can make images with."""

    async def ask() -> list[str]:
        async with client:
            return await client.models()

    return run(ask, backend)


def show_models(available: Sequence[str] | None, as_json: bool) -> int:
    """Print a line for each model, those that are not in the table last.

    Args:
        available: Ids that the key can use, None where nobody has asked.
        as_json: Whether each line is a JSON object.
    """
    out = QuietConsole()
    rows = list(_rows(available))
    if as_json:
        for row in rows:
            out.data(json.dumps(row))
        return 0
    cells = [_cells(row, available is not None) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        out.say("  ".join(map(str.ljust, line, widths)).rstrip())
    out.say((_NOTE, "dim"))
    return 0


def _rows(available: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    for model in MODELS:
        yield _row(model) | {"available": None if available is None else model.id in available}
    known = {model.id for model in MODELS}
    for other in available or ():
        if other not in known:
            yield _row(Model(plain(other), "", (), (), ())) | {"available": True}


def _row(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "alias": model.alias or None,
        "prices": {size: price(model.id, size) for size in model.image_sizes},
        "aspect_ratios": list(model.aspect_ratios),
        "thinking": list(model.thinking),
    }


def _cells(row: dict[str, Any], is_asked: bool) -> list[str]:
    prices: Iterable[tuple[str, float | None]] = row["prices"].items()
    sizes = [size if usd is None else f"{size} ${usd:.3f}" for size, usd in prices]
    told = ", ".join(sizes) or "sizes and prices unknown"
    if sizes and not any(row["prices"].values()):
        told += " (price unknown)"
    cells = [row["alias"] or "", row["id"], told]
    return [*cells, "available" if row["available"] else "not available"] if is_asked else cells
