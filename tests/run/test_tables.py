"""Prompts that are rows of tables, and results as rows: of pandas, polars, Arrow and data sets."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import anyio
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import genbatch
from genbatch import Failure, GeminiClient, Prompt, StoreError, Success, estimate, generate_images
from genbatch._values import prompt_of_row
from genbatch.testing import FakeGemini

pytestmark = pytest.mark.anyio

GIF = b"GIF89a" + bytes(7) + b";"
TABLE = {
    "caption": ["a cup", "a mug", "a jug"],
    "id": [1, 2, 3],
    "seed": [7, None, 9],
    "author": ["Ann", None, "Eve"],
}
FRAME = pd.DataFrame(TABLE)
POLARS = pl.DataFrame(TABLE)
ARROW = pa.table(TABLE)
ROWS = [dict(zip(TABLE, values, strict=True)) for values in zip(*TABLE.values(), strict=True)]


class Dataset:
    """A data set in the manner of torch: a length and items, and no error past its end."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Any:
        return ROWS[index % len(ROWS)]


async def generate(prompt: str | Prompt) -> bytes:
    return GIF


async def run(prompts: Any, **options: Any) -> list[Any]:
    async with generate_images(generate, prompts, ordered=True, **options) as outcomes:
        return [outcome async for outcome in outcomes]


TABLES: dict[str, Any] = {
    "dicts": lambda: ROWS,
    "pandas": lambda: FRAME.to_dict("records"),
    "named-tuples": lambda: FRAME.itertuples(index=False),
    "polars": lambda: POLARS.iter_rows(named=True),
    "arrow": lambda: ARROW.to_pylist(),
    "data-set": Dataset,
}


@pytest.mark.parametrize("rows_of", TABLES.values(), ids=TABLES)
async def test_rows_become_prompts_with_settings_and_metadata(rows_of: Any) -> None:
    asked: list[Prompt] = []

    async def note(prompt: Prompt) -> bytes:
        asked.append(prompt)
        return GIF

    rows = rows_of()
    async with generate_images(note, rows, prompt_column="caption", max_concurrent=1) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert all(isinstance(each, Success) for each in found)
    assert [(each.text, each.id, each.seed) for each in asked] == [
        ("a cup", "1", 7),
        ("a mug", "2", None),
        ("a jug", "3", 9),
    ]
    assert [set(each.metadata) for each in asked] == [{"author"}] * 3
    assert asked[0].metadata == {"author": "Ann"}


async def test_the_outcome_has_the_row_as_it_was_and_a_second_run_resumes(tmp_path: Path) -> None:
    for is_resumed in (False, True):
        found = await run(ROWS, prompt_column="caption", save_dir=tmp_path)
        assert [each.prompt for each in found] == ROWS
        assert [each.unwrap().resumed for each in found] == [is_resumed] * 3


async def test_a_row_that_is_no_prompt_fails_alone() -> None:
    rows = [
        {"caption": "a cup"},
        {"capton": "a mug"},
        {"caption": math.nan},
        "a jug",
        {"caption": "a jar", "seed": 1.5},
        {"caption": " "},
    ]
    found = await run(rows, prompt_column="caption")
    assert [str(each.error) if isinstance(each, Failure) else None for each in found] == [
        None,
        "no column named caption; the columns are: capton",
        "the prompt is missing in column caption",
        "with prompt_column=, each row must be a mapping, such as a dict, got str",
        "seed must be an int, got float",
        "a prompt must not be blank",
    ]


async def test_a_row_without_its_column_named_says_what_to_give() -> None:
    (found,) = await run(ROWS[:1])
    assert str(found.error) == (
        "a prompt must be a str or Prompt, got dict: give prompt_column=, the name of its column"
    )


async def test_a_column_of_arrow_says_what_to_pass() -> None:
    found = await run(ARROW["caption"])
    assert "got StringScalar: pass the column's to_pylist()" in str(found[0].error)
    assert len(await run(ARROW["caption"].to_pylist())) == 3


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (FRAME, 'got a DataFrame, .* such as frame["prompt"], .* frame.to_dict("records")'),
        (POLARS, 'got a DataFrame, .* such as frame["prompt"], .* frame.iter_rows(named=True)'),
        (ARROW, 'got a Table, .* such as table["prompt"].to_pylist(), .* table.to_pylist()'),
        (POLARS.lazy(), "got a LazyFrame, .* frame.collect().iter_rows(named=True)"),
        (TABLE, "got a mapping, which iterates its keys"),
    ],
)
@pytest.mark.parametrize("column", [None, "caption"])
def test_a_bare_table_is_refused_with_what_to_pass(
    table: Any, rows: str, column: str | None
) -> None:
    message = rows.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")
    with pytest.raises(TypeError, match=message):
        generate_images(generate, table, prompt_column=column)
    with pytest.raises(TypeError, match=message):
        estimate(table, prompt_column=column)


@pytest.mark.parametrize("prompts", [FRAME["caption"], POLARS["caption"], Dataset()])
async def test_columns_and_data_sets_are_prompts_as_they_are(prompts: Any) -> None:
    async with genbatch.stream(generate, prompts) as outcomes:
        assert outcomes.progress.total == 3
        assert len([each async for each in outcomes]) == 3


def test_a_dry_run_takes_rows_too() -> None:
    assert estimate(ROWS, prompt_column="caption").prompts == 3
    with pytest.raises(TypeError, match="not a single string"):
        estimate("a cup")
    with pytest.raises(TypeError, match="got dict: give prompt_column="):
        estimate(ROWS)


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("cup.png", ("cup.png",)),
        (b"x", (b"x",)),
        (Path("cup.png"), (Path("cup.png"),)),
        (["a.png", b"x"], ("a.png", b"x")),
        (pd.Series(["a.png"]).to_numpy(), ("a.png",)),
        ({"bytes": b"x", "path": None}, (b"x",)),
        ([{"bytes": None, "path": "a.png"}], ("a.png",)),
        (None, ()),
        (pd.NA, ()),
    ],
)
def test_input_images_of_a_row(value: Any, images: tuple[Any, ...]) -> None:
    assert prompt_of_row({"caption": "a cup", "images": value}, "caption").images == images


def test_values_of_tables_that_are_missing_or_have_types_of_their_own() -> None:
    frame = pd.DataFrame({"p": ["a cup"], "id": [1], "seed": [2], "model": [pd.NA]})
    row = frame.iloc[0]  # numpy's integers
    assert prompt_of_row(dict(row), "p") == Prompt("a cup", id="1", seed=2)
    Row = namedtuple("Row", "p")
    assert prompt_of_row(Row("a mug"), "p") == Prompt("a mug")


# Results


async def test_results_are_rows_of_a_table_with_the_same_columns(tmp_path: Path) -> None:
    async def half(prompt: Prompt) -> bytes:
        if prompt.text == "a mug":
            raise genbatch.Rejected("no mugs")
        return GIF

    async with generate_images(
        half, ROWS, prompt_column="caption", save_dir=tmp_path, price=0.5
    ) as outcomes:
        assert len([each async for each in outcomes]) == 3
    rows = await anyio.to_thread.run_sync(genbatch.results, tmp_path)
    columns = list(rows[0])
    assert all(list(row) == columns for row in rows)
    assert [row["prompt"] for row in rows] == ["a cup", "a mug", "a jug"]
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert [row["metadata.author"] for row in rows] == ["Ann", None, "Eve"]
    assert [row["asked.seed"] for row in rows] == [7, None, 9]
    assert [row["error.message"] for row in rows] == [None, "no mugs", None]
    assert Path(rows[0]["path"]).is_absolute()
    assert Path(rows[0]["path"]).name == rows[0]["file"]
    frames = pd.DataFrame(rows), pl.DataFrame(rows, infer_schema_length=None)
    for frame in frames:
        assert frame.shape == (3, len(columns))
        assert frame["cost"].sum() == 1.0
    table = pa.Table.from_pylist(rows)
    assert table.column_names == columns
    assert table["id"].to_pylist() == ["1", "2", "3"]


async def test_results_of_several_kinds_in_a_column_make_a_table(tmp_path: Path) -> None:
    values = [1, "two", [3], {"four": 4}, None]
    rows = [{"caption": f"a cup {n}", "own": each} for n, each in enumerate(values)]
    async with genbatch.generate_images(
        generate, rows, prompt_column="caption", save_dir=tmp_path, ordered=True
    ) as outcomes:
        assert [each.index async for each in outcomes] == [*range(5)]
    found = await anyio.to_thread.run_sync(genbatch.results, tmp_path)
    told = ["1", "two", "[3]", '{"four": 4}', None]
    assert [row["metadata.own"] for row in found] == told
    assert list(pd.DataFrame(found)["metadata.own"])[:4] == told[:4]
    assert list(pl.DataFrame(found, infer_schema_length=None)["metadata.own"]) == told
    assert pa.Table.from_pylist(found)["metadata.own"].to_pylist() == told


def test_a_folder_without_a_run_has_no_results(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no journal"):
        genbatch.results(tmp_path)


def test_tables_import_no_library_of_tables() -> None:
    code = (
        "import sys, genbatch; genbatch.results, genbatch.generate_images;"
        "print({'pandas', 'polars', 'pyarrow', 'numpy', 'opentelemetry'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


async def test_a_client_makes_images_of_rows(tmp_path: Path) -> None:
    async with FakeGemini(image_size=8) as fake, GeminiClient("a-key", base_url=fake.url) as client:
        async with generate_images(
            client, ROWS, prompt_column="caption", save_dir=tmp_path
        ) as outcomes:
            assert all([isinstance(each, Success) async for each in outcomes])
    assert {call.prompt for call in fake.calls} == set(TABLE["caption"])
