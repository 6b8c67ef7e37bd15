"""The fields of a row become a Prompt, or one error that names the field."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from genbatch import Prompt
from genbatch.inputs import Recipe, read_prompts

PNG = b"\x89PNG\r\n\x1a\n"


def rows(folder: Path, *fields: object, recipe: Recipe | None = None) -> list[Prompt]:
    """Return the prompts of rows of a .jsonl file."""
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in fields))
    return list(read_prompts([path], recipe))


def refused(folder: Path, **fields: object) -> str:
    """Return why a row with these fields is refused, behind file and line."""
    with pytest.raises(ValueError, match=r"^[^\n]+\.jsonl:2: [^\n]+$") as caught:
        rows(folder, {"prompt": "a"}, {"prompt": "a", **fields})
    return str(caught.value).partition(":2: ")[2]


def test_known_fields_are_settings_and_others_metadata(tmp_path: Path) -> None:
    header = "ID,Prompt,File Name,MODEL,aspectRatio,Image-Size,Seed,Lens\n"
    (tmp_path / "a.csv").write_text(header + "7,a fox, fox ,pro,16:9,2K,-3,35 mm\n,an owl,,,,,,\n")
    fox, owl = read_prompts([tmp_path / "a.csv"])
    assert fox == Prompt("a fox", "7", "fox", "pro", "16:9", "2K", (), -3, {"Lens": "35 mm"})
    assert owl == Prompt("an owl", metadata={"Lens": ""})


def test_json_has_settings_of_its_own_types(tmp_path: Path) -> None:
    given = {"id": 7, "filename": 8, "seed": 3, "model": None, "image_size": " ", "Deep": {"x": []}}
    (prompt,) = rows(tmp_path, {"prompt": " a fox ", **given})
    assert prompt == Prompt(" a fox ", "7", "8", seed=3, metadata={"Deep": {"x": []}})
    (again,) = rows(tmp_path, {"Prompt": "a", "seed": "-4", "aspectRatio": "1:1"})
    assert again == Prompt("a", seed=-4, aspect_ratio="1:1")


def test_a_column_in_capitals_that_numbers_rows_asks_for_no_images(tmp_path: Path) -> None:
    (prompt,) = rows(tmp_path, {"N": 900, "prompt": "a fox"})
    assert prompt.metadata == {"N": 900}


def test_n_makes_so_many_of_a_row(tmp_path: Path) -> None:
    prompts = rows(tmp_path, {"prompt": "a", "n": 2, "id": "x", "seed": 5}, {"prompt": "b", "n": 1})
    assert prompts == [*Prompt("a", "x", seed=5).variants(2), Prompt("b")]


def test_another_column_may_be_the_prompt(tmp_path: Path) -> None:
    row = {"prompt": "old", "Caption": "a fox", "id": "7"}
    (prompt,) = rows(tmp_path, row, recipe=Recipe(column="Caption"))
    assert prompt == Prompt("a fox", "7", metadata={"prompt": "old"})
    (prompt,) = rows(tmp_path, row, recipe=Recipe(column="id"))
    assert prompt == Prompt("7", metadata={"prompt": "old", "Caption": "a fox"})
    with pytest.raises(
        ValueError, match="no field named text; the fields are: prompt, Caption, id"
    ):
        rows(tmp_path, row, recipe=Recipe(column="text"))
    (tmp_path / "a.txt").write_text("a fox\n")  # has no columns
    assert list(read_prompts([tmp_path / "a.txt"], Recipe(column="Caption"))) == [Prompt("a fox")]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id", 1.5, "id: 1.5 is not text"),
        ("id", True, "id: true is not text"),
        ("filename", ["a"], "filename: a list is not text"),
        ("model", 5, "model: 5 is not text"),
        ("model", "a\0", "model: a NUL character is in it; take it out"),
        ("aspect_ratio", {}, "aspect_ratio: an object is not text"),
        ("image_size", 2, "image_size: 2 is not text"),
        ("seed", 1.5, "seed: 1.5 is not a whole number"),
        ("seed", False, "seed: false is not a whole number"),
        ("seed", "x1", 'seed: "x1" is not a whole number'),
        ("seed", "९", 'seed: "९" is not a whole number'),
        ("seed", "9" * 5000, f'seed: "{"9" * 58}… is not a whole number'),
        ("seed", 2**31, "seed: 2147483648 has more than 32 bits"),
        ("seed", -(2**31) - 1, "seed: -2147483649 has more than 32 bits"),
        ("n", "x", 'n: "x" is not a whole number'),
        ("n", 0, "n: 0 is not 1 to 1,000"),
        ("n", 1001, "n: 1001 is not 1 to 1,000"),
        ("n", int("9" * 4000), f"n: {'9' * 59}… is not 1 to 1,000"),
        ("images", 5, "images: 5 is not a path, nor a list of them"),
        ("images", [5], "images: 5 is not text"),
        ("images", "[a.png", 'images: "[a.png" is not a JSON list'),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    assert refused(tmp_path, **{name: value}) == message


def test_seeds_of_32_bits_are_taken(tmp_path: Path) -> None:
    seeds = [2**31 - 1, -(2**31), 0]
    prompts = rows(tmp_path, *({"prompt": "a", "seed": seed} for seed in seeds))
    assert [prompt.seed for prompt in prompts] == seeds


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a.png", ["a.png"]),
        ("a.png; b c.png;", ["a.png", "b c.png"]),
        (["a.png", "b c.png"], ["a.png", "b c.png"]),
        (["d;e.png"], ["d;e.png"]),
        ('["d;e.png", "a.png"]', ["d;e.png", "a.png"]),
        ([], []),
        (None, []),
    ],
)
def test_input_images_stand_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, names: list[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b c.png", "d;e.png"):
        (folder / name).write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    (prompt,) = rows(Path("set"), {"prompt": "a", "images": value})
    assert prompt.images == tuple(Path("set") / name for name in names)


def test_input_images_of_a_csv_are_separated_by_semicolons(tmp_path: Path) -> None:
    for name in ("a.png", "b,c.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "a.csv").write_text(f'prompt,images\na fox,"a.png; {tmp_path}/b,c.png"\n')
    (prompt,) = read_prompts([tmp_path / "a.csv"])
    assert prompt.images == (tmp_path / "a.png", tmp_path / "b,c.png")


@pytest.mark.parametrize("name", ["no.png", "..", "x" * 5000, "a\nb.png"])
def test_an_input_image_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    shown = path if path.isprintable() else ascii(path)
    assert refused(tmp_path, images=[name]) == f"images: there is no file {shown}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_url_is_not_fetched_by_the_library(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://example.com/a.png"
    expected = f"images: {url} cannot be fetched here: give a file"
    assert refused(tmp_path, images=[url]) == expected


def test_an_input_image_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "isfile", lambda path: True)  # but is a directory
    (tmp_path / "a.png").mkdir()
    message = f"images: the file {tmp_path / 'a.png'} cannot be read"
    assert refused(tmp_path, images="a.png") == message


@pytest.mark.parametrize("content", [b"", b"a fox\n", b"GIF89a"])
def test_an_input_image_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    message = f"images: {tmp_path / 'a.png'} is not a PNG, JPEG, WebP, HEIC or HEIF image"
    assert refused(tmp_path, images="a.png") == message


def test_what_a_model_cannot_do_is_refused_at_its_line(tmp_path: Path) -> None:
    asked: list[tuple[str | None, ...]] = []

    def check(*settings: str | None) -> None:
        asked.append(settings)
        if "8K" in settings:
            raise ValueError("it makes 4K at most")

    fine = [{"prompt": "a"}, {"prompt": "b", "model": "pro", "aspect_ratio": "1:1"}] * 3
    with pytest.raises(ValueError, match=r"a\.jsonl:7: it makes 4K at most$"):
        rows(tmp_path, *fine, {"prompt": "c", "image_size": "8K"}, recipe=Recipe(check=check))
    assert asked == [(None, None, None), ("pro", "1:1", None), (None, None, "8K")]
