"""Published prices: a data file with a date and a source for each model.

Prices change faster than releases: GENBATCH_PRICES may name a newer file of the same form, whose
rows replace those of the same service and model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

_MILLION = 1_000_000
_MOST = 1_000_000_000  # a larger number is a mistake
_EXPECTED = {
    "str": "a text",
    "int": "a whole number of at least 0",
    "float": "a number of at least 0",
    "Mapping[str, int]": "an object of whole numbers of at least 0",
    "Mapping[str, float]": "an object of numbers of at least 0",
}


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model costs.

    Attributes:
        service: Whose model it is, such as ``"gemini"``.
        model: Full id.
        date: When the prices were looked up, as ``"2026-11-27"``.
        source: Where, as a URL.
        input: US dollars per million tokens of prompt and input images.
        text: US dollars per million tokens of text and thoughts in the answer.
        image: US dollars per million tokens of images in the answer.
        image_tokens: Tokens billed per image, by size, or for one of 1,024 by 1,024 pixels by
            quality.
        input_image_tokens: Tokens billed per input image.
        thought_tokens: Most tokens of thoughts that an answer is expected to need.
        search: US dollars per search query.
        tiers: Factors of all prices, by service tier.
        input_image: US dollars per million tokens of input images, where it is not that of the
            prompt. The row may leave it out.
    """

    service: str
    model: str
    date: str
    source: str
    input: float
    text: float
    image: float
    image_tokens: Mapping[str, int]
    input_image_tokens: int
    thought_tokens: int
    search: float
    tiers: Mapping[str, float]
    input_image: float | None = None

    def cost(
        self,
        *,
        prompt_tokens: int = 0,
        input_image_tokens: int = 0,
        text_tokens: int = 0,
        image_tokens: int = 0,
    ) -> float:
        """Return the price in US dollars of an answer's tokens; thoughts are text.

        Input images are among the prompt's tokens, or have their own where they cost differently.
        """
        tokens = prompt_tokens * self.input + text_tokens * self.text + image_tokens * self.image
        shown = self.input if self.input_image is None else self.input_image
        return (tokens + input_image_tokens * shown) / _MILLION


def model_price(service: str, *names: str) -> ModelPrice | None:
    """Return the price of the first of a model's names that has one, None where none is known.

    Raises:
        ValueError: If the file that GENBATCH_PRICES names is not one of prices.
    """
    prices = _prices(os.environ.get("GENBATCH_PRICES") or None)
    for name in names:
        if (price := prices.get((service, name))) is not None:
            return price
    return None


def models_of(service: str) -> list[ModelPrice]:
    """Return the prices of all models of a service.

    Raises:
        ValueError: As model_price.
    """
    prices = _prices(os.environ.get("GENBATCH_PRICES") or None)
    return [each for each in prices.values() if each.service == service]


def load_prices(newer: str | os.PathLike[str] | None = None) -> None:
    """Read the prices, which blocks, so that model_price does not.

    Args:
        newer: A file of newer prices; the one that GENBATCH_PRICES names where None.

    Raises:
        ValueError: If it cannot be read or is malformed; the message names file, row and field.
    """
    _prices(os.fspath(newer) if newer else os.environ.get("GENBATCH_PRICES") or None)


@cache
def _prices(newer: str | None) -> Mapping[tuple[str, str], ModelPrice]:
    published = _read(files("genbatch._money").joinpath("prices.json").read_text("utf-8"))
    if newer is None:
        return published
    try:
        return {**published, **_read(Path(newer).read_text("utf-8-sig"))}
    except (OSError, ValueError, RecursionError) as exc:
        raise ValueError(f"{newer}: cannot be read as prices: {_why(exc)}") from exc


def _why(error: Exception) -> str:
    """Return why a file cannot be read, not in the words of a parser."""
    if isinstance(error, OSError):
        return (error.strerror or "it is out of reach").lower()
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    place = re.search(r" at line \d+ column \d+", str(error))
    return str(error) if place is None else f"it is not JSON{place[0]}"


def _read(text: str) -> dict[tuple[str, str], ModelPrice]:
    document = json.loads(text)
    rows = document.get("prices") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ValueError('it must be an object with a list "prices"')
    prices: dict[tuple[str, str], ModelPrice] = {}
    for number, row in enumerate(rows, 1):
        price = _price(row, number)
        if (price.service, price.model) in prices:
            raise ValueError(f"row {number}: model {price.model!r} has a row already")
        prices[price.service, price.model] = price
    return prices


def _price(row: Any, number: int) -> ModelPrice:
    """Return the price that a row gives.

    Raises:
        ValueError: If a field is missing, unknown, of the wrong type or below zero.
    """
    if not isinstance(row, dict):
        raise ValueError(f"row {number}: it must be an object, got {row!r:.50}")
    names = {field.name for field in fields(ModelPrice)}
    for name in sorted((names ^ row.keys()) - {"input_image"}):
        raise ValueError(f"row {number}: {name!r} is {'missing' if name in names else 'unknown'}")
    for field in fields(ModelPrice):
        value, kind = row.get(field.name), str(field.type).removesuffix(" | None")
        if (field.name in row or kind == field.type) and not _fits(value, kind):
            expected = _EXPECTED[kind]
            raise ValueError(f"row {number}: {field.name} must be {expected}, got {value!r:.50}")
    try:
        date.fromisoformat(row["date"])
    except ValueError:
        message = f"row {number}: date must be like 2026-11-27, got {row['date']!r:.50}"
        raise ValueError(message) from None
    if not row["image_tokens"]:
        raise ValueError(f"row {number}: image_tokens must name at least one size")
    if not row["image"] or not all(row["image_tokens"].values()):
        raise ValueError(f"row {number}: image and image_tokens must be above 0: an image costs")
    if row["service"] != row["service"].lower():
        raise ValueError(f"row {number}: service must be in lower case, got {row['service']!r:.50}")
    return ModelPrice(**row)


def _fits(value: object, kind: str) -> bool:
    match kind:
        case "str":
            return isinstance(value, str) and value != ""
        case "int" | "float":
            kinds = int if kind == "int" else (int, float)
            return isinstance(value, kinds) and type(value) is not bool and 0 <= value <= _MOST
        case _:
            inner = kind.partition(", ")[2].rstrip("]")
            return isinstance(value, dict) and all(_fits(each, inner) for each in value.values())
