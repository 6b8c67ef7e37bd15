"""Prices are data: the file's form, and a newer file in its place."""

from __future__ import annotations

import json
import os
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from genbatch._money import load_prices, model_price
from genbatch.gemini import MODELS, job_share, price

FLASH = "gemini-nano-banana-2.1"
PUBLISHED = json.loads(files("genbatch._money").joinpath("prices.json").read_text("utf-8"))
ROW = {
    "service": "gemini",
    "model": "gemini-9-image",
    "date": "2027-01-31",
    "source": "https://example.com/prices",
    "input": 1.0,
    "text": 2,
    "image": 10.0,
    "image_tokens": {"1K": 1000, "2K": 3000},
    "input_image_tokens": 500,
    "thought_tokens": 0,
    "search": 0.01,
    "tiers": {"batch": 0.5},
}


def test_every_row_has_a_date_and_a_source() -> None:
    assert PUBLISHED["note"]
    tiers = {"gemini": {"batch": 0.5, "flex": 0.5, "priority": 2.0}, "openai": {"batch": 0.5}}
    for row in PUBLISHED["prices"]:
        assert date.fromisoformat(row["date"]) >= date(2026, 11, 27)
        assert row["source"].startswith("https://")
        assert row["tiers"] == tiers[row["service"]]


def test_every_model_of_the_table_has_a_price_of_every_size_it_makes() -> None:
    rows = [row["model"] for row in PUBLISHED["prices"] if row["service"] == "gemini"]
    assert rows == [model.id for model in MODELS]
    for model in MODELS:
        priced = model_price("gemini", model.id)
        assert priced is not None
        assert tuple(priced.image_tokens) == model.image_sizes
    assert model_price("gemini", "gemini-9-image") is None
    assert model_price("openai", FLASH) is None


def test_a_newer_file_adds_models_and_replaces_those_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = ROW | {"model": FLASH, "image": 20.0, "image_tokens": {"2K": 3000, "1K": 1000}}
    path = tmp_path / "prices.json"
    path.write_text("\ufeff" + json.dumps({"prices": [ROW, newer]}), "utf-8")
    monkeypatch.setenv("GENBATCH_PRICES", str(path))
    load_prices(path)
    assert price("gemini-9-image") == pytest.approx(0.01, rel=0.01)
    assert price("gemini-9-image", "2K") == pytest.approx(0.03, rel=0.01)
    assert price("flash") == pytest.approx(0.02, rel=0.01)  # of its default size, whatever is first
    assert price("pro") == pytest.approx(0.1344, rel=0.01)
    monkeypatch.setenv("GENBATCH_PRICES", "")
    assert price("flash") == pytest.approx(0.0336, rel=0.01)
    assert price("gemini-9-image") is None


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


def test_a_row_may_have_a_model_by_its_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"prices": [ROW | {"model": "flash", "image": 20.0}]}), "utf-8")
    monkeypatch.setenv("GENBATCH_PRICES", str(path))
    assert price(FLASH, "1K") == pytest.approx(0.02, rel=0.01)  # 1,000 tokens at $20 a million


def test_a_file_tells_what_a_job_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prices.json"
    rows = [ROW | {"model": FLASH, "tiers": {"batch": 0.8}}, ROW | {"tiers": {}}]
    path.write_text(json.dumps({"prices": rows}), "utf-8")
    monkeypatch.setenv("GENBATCH_PRICES", str(path))
    assert [job_share(each) for each in (FLASH, "gemini-9-image", "mine")] == [0.8, 0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"\xff\xfe\x00", "it is not UTF-8"),
        (b"{", "Expecting property name"),
        (b"[" * 200_000, "recursion"),
        (b"[]", 'it must be an object with a list "prices"'),
        (b'{"prices": {}}', 'it must be an object with a list "prices"'),
        ([ROW, 7], "row 2: it must be an object, got 7"),
        ([without("search")], "row 1: 'search' is missing"),
        ([ROW | {"currency": "EUR"}], "row 1: 'currency' is unknown"),
        (
            [ROW | {"input_image": None}],
            "row 1: input_image must be a number of at least 0, got None",
        ),
        ([ROW | {"model": ""}], "row 1: model must be a text, got ''"),
        ([ROW | {"date": 20270131}], "row 1: date must be a text, got 20270131"),
        ([ROW | {"date": "soon"}], "row 1: date must be like 2026-11-27, got 'soon'"),
        ([ROW | {"input": "1"}], "row 1: input must be a number of at least 0, got '1'"),
        ([ROW | {"text": True}], "row 1: text must be a number of at least 0, got True"),
        ([ROW | {"image": -1}], "row 1: image must be a number of at least 0, got -1"),
        ([ROW | {"image": float("inf")}], "row 1: image must be a number of at least 0, got inf"),
        ([ROW | {"image": float("nan")}], "row 1: image must be a number of at least 0, got nan"),
        ([ROW | {"image": 10**400}], "row 1: image must be a number of at least 0, got 1000"),
        (
            [ROW | {"thought_tokens": 0.5}],
            "row 1: thought_tokens must be a whole number of at least 0, got 0.5",
        ),
        (
            [ROW | {"image_tokens": {"1K": None}}],
            "row 1: image_tokens must be an object of whole numbers of at least 0, got {'1K'",
        ),
        ([ROW | {"image_tokens": {}}], "row 1: image_tokens must name at least one size"),
        (
            [ROW | {"tiers": [0.5]}],
            "row 1: tiers must be an object of numbers of at least 0, got [0.5]",
        ),
        ([ROW | {"image": 0}], "row 1: image and image_tokens must be above 0"),
        ([ROW | {"image_tokens": {"1K": 0}}], "row 1: image and image_tokens must be above 0"),
        ([ROW | {"service": "Gemini"}], "row 1: service must be in lower case, got 'Gemini'"),
        ([ROW, ROW], "row 2: model 'gemini-9-image' has a row already"),
    ],
)
def test_a_bad_file_is_one_mistake_that_names_file_row_and_field(
    tmp_path: Path, content: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prices.json"
    if isinstance(content, list):
        content = json.dumps({"prices": content}).encode()
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("GENBATCH_PRICES", os.fspath(path))
    for use in (lambda: price("flash"), lambda: load_prices(path)):
        with pytest.raises(ValueError, match="cannot be read as prices") as caught:
            use()
        assert str(caught.value).startswith(f"{path}: cannot be read as prices: ")
        assert message in str(caught.value)
