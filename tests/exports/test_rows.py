"""Rows as tables: what others read from JSON Lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from genbatch import Blocked, Prompt
from genbatch._store import Choice, choose, export
from genbatch.exports import (
    KeptRows,
    flat_rows,
    rows_of,
    write_csv,
    write_json_lines,
    write_parquet,
)
from support.folders import fill, picture

# Fields that are nested, empty, of several kinds, or have the names of columns.
MESSY: list[dict[str, Any]] = [
    {"category": "animals", "n": 1, "tags": ["a", "b"], "file": "own", "x": {}, "wide": 1 << 70},
    {"category": "plants", "n": "two", "tags": [], "deep": {"a": {"b": [1, {}]}}, "wide": 2},
    {"n": 2.5, "tags": None, "deep": {"a": {"c": "=1"}}, "prompt": "mine", "mixed": [1, "a", None]},
    {"category": None, "deep": {"a": 3}, "metadata": {"": 1}, "usage.prompt_tokens": 7},
]
TEXTS = ["a fox", "=cmd|' /C calc'!A0", "-5", 'two\nlines, "quoted"\r\nand more\x07']


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    prompts = [
        Prompt(text, id=f"row-{n}", metadata=own)
        for n, (text, own) in enumerate(zip(TEXTS, MESSY, strict=True))
    ]
    return fill(tmp_path / "out", prompts, lambda n: Blocked("no") if n == 1 else picture(n))


def json_lines(folder: Path) -> str:
    stream = io.StringIO()
    write_json_lines(KeptRows(rows_of(folder)), stream, json.dumps)
    return stream.getvalue()


def csv_of(folder: Path, encoding: str = "utf-8") -> bytes:
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding=encoding, errors="backslashreplace", newline="")
    write_csv(flat_rows(rows_of(folder)), stream)
    stream.flush()
    return file.getvalue()


def parquet_of(folder: Path) -> Path:
    path = folder.parent / "rows.parquet"
    write_parquet(flat_rows(rows_of(folder)), path)
    return path


def test_json_lines_become_parquet_by_pandas_as_they_are(messy: Path) -> None:
    frame = pd.read_json(io.StringIO(json_lines(messy)), lines=True)
    frame.to_parquet(messy.parent / "pandas.parquet")
    read = pd.read_parquet(messy.parent / "pandas.parquet")
    assert list(read["prompt"]) == TEXTS
    assert [row["category"] for row in read["metadata"]] == ["animals", "plants", None, None]
    assert [row["n"] for row in read["metadata"]] == ["1", "two", "2.5", None]
    assert read["metadata"][0]["wide"] == str(1 << 70)


@pytest.mark.parametrize("metadata", [{}, {"a": {}}, {"a": []}, {"a": None}, {"a": [{}, None]}])
def test_what_is_empty_in_all_rows_is_a_column_too(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    fill(tmp_path / "out", [Prompt("a fox", metadata=metadata)], lambda _: None)
    frame = pd.read_json(io.StringIO(json_lines(tmp_path / "out")), lines=True)
    frame.to_parquet(tmp_path / "pandas.parquet")
    assert len(pl.read_ndjson(io.StringIO(json_lines(tmp_path / "out")))) == 1
    assert pq.read_table(parquet_of(tmp_path / "out")).num_rows == 1


def test_values_of_one_kind_stay_as_they_are(tmp_path: Path) -> None:
    metadata = {"author": "Ann", "n": 3, "deep": {"tags": ["a"], "on": True}}
    fill(tmp_path / "out", [Prompt("a fox", metadata=metadata)])
    (line,) = json_lines(tmp_path / "out").splitlines()
    row = json.loads(line)
    assert row["metadata"] == metadata
    (known,) = export(tmp_path / "out")
    assert {name: row[name] for name in known if name != "asked"} == {
        name: value for name, value in known.items() if name != "asked"
    }


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    fill(tmp_path / "out", [Prompt("a fox", metadata={"a": float("nan"), "b": float("inf")})])
    row = json.loads(json_lines(tmp_path / "out"), parse_constant=pytest.fail)
    assert row["metadata"] == {"a": None, "b": None}


def test_csv_has_a_column_for_each_field_of_the_prompts(messy: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_of(messy).decode("utf-8-sig"), newline="")))
    assert [row["metadata.category"] for row in rows] == ["animals", "plants", "", ""]
    assert [row["metadata.n"] for row in rows] == ["1", "two", "2.5", ""]
    assert rows[0]["metadata.file"] == "own"
    assert rows[0]["file"].endswith(".png")
    assert rows[2]["metadata.prompt"] == "mine"
    assert json.loads(rows[1]["metadata.deep"]) == {"a": {"b": [1, {}]}}
    assert rows[1]["error.kind"] == "Blocked"


def test_csv_is_read_by_pandas_polars_and_excel(messy: Path) -> None:
    data = csv_of(messy)
    assert data.startswith(b"\xef\xbb\xbf")  # without which Excel guesses
    frame = pd.read_csv(io.BytesIO(data))
    assert next(iter(frame.columns)) == "index"
    assert list(frame["prompt"]) == [
        "a fox",
        "'=cmd|' /C calc'!A0",
        "-5",
        'two\nlines, "quoted"\r\nand more\N{REPLACEMENT CHARACTER}',
    ]
    assert pl.read_csv(io.BytesIO(data))["index"].to_list() == [0, 1, 2, 3]
    frame.to_excel(messy.parent / "rows.xlsx", index=False)
    sheet = openpyxl.load_workbook(messy.parent / "rows.xlsx").active
    assert sheet is not None
    kinds = {cell.data_type for row in sheet.iter_rows() for cell in row}
    assert "f" not in kinds  # no formula


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff20"])
def test_what_a_spreadsheet_would_calculate_is_text(tmp_path: Path, start: str) -> None:
    text = f"{start}1+cmd()"
    metadata = {"own": text, "list": [text]}
    fill(tmp_path / "out", [Prompt(f"x{text}", id=text, metadata=metadata)])
    (row,) = csv.DictReader(
        io.StringIO(csv_of(tmp_path / "out").decode("utf-8-sig"), newline=""), strict=True
    )
    assert (row["id"], row["metadata.own"]) == (f"'{text}", f"'{text}")
    assert not any(str(value).startswith(start) for value in row.values())


def test_other_encodings_have_no_mark(messy: Path) -> None:
    assert csv_of(messy, "cp1252").startswith(b"index,")


def test_parquet_has_the_columns_of_results(messy: Path) -> None:
    table = pq.read_table(parquet_of(messy))
    assert table["prompt"].to_pylist() == TEXTS
    assert table["metadata.n"].to_pylist() == ["1", "two", "2.5", None]
    assert table["metadata.tags"].to_pylist() == [["a", "b"], [], None, None]
    assert table["metadata.file"].to_pylist() == ["own", None, None, None]
    kinds = {name: str(table.schema.field(name).type) for name in ("index", "width", "cost")}
    assert kinds == {"index": "int64", "width": "int64", "cost": "double"}
    assert pl.read_parquet(parquet_of(messy)).height == 4
    assert len(pd.read_parquet(parquet_of(messy))) == 4


def test_our_parquet_is_replaced_and_no_other(messy: Path) -> None:
    path = parquet_of(messy)
    assert parquet_of(messy) == path
    others: list[Callable[[], object]] = [
        lambda: path.write_text("mine"),
        lambda: pd.DataFrame({"a": [1]}).to_parquet(path),
        lambda: (path.unlink(), path.symlink_to(messy / "elsewhere")),
        lambda: (path.unlink(), path.mkdir()),
    ]
    for write in others:
        write()
        with pytest.raises(ValueError, match=r"rows\.parquet (was not|is a)"):
            parquet_of(messy)
    assert not (messy / "elsewhere").exists()
    assert [each.name for each in messy.parent.glob(".*.part")] == []


def test_rows_have_what_was_chosen(tmp_path: Path) -> None:
    fill(tmp_path, ["a fox", "an owl"])
    first, second = (row["file"] for row in export(tmp_path))
    choose(tmp_path, {second: Choice("keep", 4, "the best")})
    rows = list(rows_of(tmp_path))
    assert [(row["verdict"], row["stars"], row["note"]) for row in rows] == [
        (None, None, ""),
        ("keep", 4, "the best"),
    ]
    assert first == rows[0]["file"]


def test_rows_have_the_id_of_the_row_and_the_number_of_the_image(tmp_path: Path) -> None:
    fill(
        tmp_path, [*Prompt("a fox", id="fox-1").variants(2), Prompt("an owl", id="owl-1"), "a cat"]
    )
    found = [(row["id"], row["base_id"], row["variant"]) for row in export(tmp_path)]
    assert found == [
        ("fox-1-1", "fox-1", 1),
        ("fox-1-2", "fox-1", 2),
        ("owl-1", "owl-1", None),
        (None, None, None),
    ]
