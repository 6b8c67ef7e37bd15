"""What the page is told: prompts with their takes, and the fields they differ in."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from genbatch import Blocked, Prompt
from genbatch.gallery import write_gallery
from support.folders import add_take, fill, picture, told


def written(folder: Path) -> dict[str, Any]:
    write_gallery(folder)
    return told(folder)


def test_a_prompt_is_told_with_its_image(tmp_path: Path) -> None:
    prompt = Prompt("a fox", id="f", aspect_ratio="1:1", seed=0, metadata={"n": 2**70})
    (item,) = written(fill(tmp_path, [prompt]))["items"]
    (take,) = item.pop("takes")
    assert item == {
        "index": 0,
        "id": "f",
        "prompt": "a fox",
        "status": "done",
        "model": "gemini-nano-banana-2.1",
        "asked": {"aspect_ratio": "1:1", "seed": "0"},
        "metadata": {"n": str(2**70)},
        "shown": 0,
    }
    assert (tmp_path / take["file"]).stat().st_size == take["bytes"]
    assert take["size"] == [48, 32]
    assert (take["cost"], take["elapsed"]) == (0.0336, 6.5)


def test_a_failure_is_told_with_its_reason(tmp_path: Path) -> None:
    outcomes = [Blocked("the filter refused it"), None]
    failed, to_do = written(fill(tmp_path, ["a", "b"], outcomes.__getitem__))["items"]
    assert failed["status"] == "failed"
    assert failed["error"] == {"kind": "Blocked", "message": "the filter refused it"}
    assert to_do["status"] == "to do"
    assert "takes" not in to_do


def test_every_take_is_told_and_which_is_picked(tmp_path: Path) -> None:
    fill(tmp_path, ["a fox", "a hen"])
    add_take(tmp_path, 1, picture(7), pick=True, text="a hen at night", seed=3)
    add_take(tmp_path, 1, picture(8))
    fox, hen = written(tmp_path)["items"]
    assert len(fox["takes"]) == 1
    assert [take["take"] for take in hen["takes"]] == [1, 2, 3]
    assert (hen["shown"], hen["prompt"]) == (1, "a hen at night")
    assert [take.get("prompt") for take in hen["takes"]] == ["a hen", None, "a hen"]
    assert [take.get("asked") for take in hen["takes"]] == [{}, None, {}]
    assert hen["asked"] == {"seed": "3"}


def test_what_the_latest_input_has_not_is_superseded(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"])
    fill(tmp_path, ["b"])
    assert [(item["index"], item["prompt"]) for item in written(tmp_path)["items"]] == [
        (1, "b"),
        (None, "a"),
    ]


def test_no_path_of_the_machine_is_told(tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(b"a fox")
    prompt = Prompt("a fox", images=(str(tmp_path / "fox.png"), b"bytes"), filename="fox")
    (item,) = written(fill(tmp_path / "out", [prompt]))["items"]
    assert item["asked"] == {"images": "fox.png, (bytes)"}
    assert str(tmp_path) not in (tmp_path / "out" / "index.html").read_text()


def matrix(*axes: tuple[str, list[Any]], leave_out: int | None = None) -> list[Prompt]:
    names = [name for name, _ in axes]
    rows = itertools.product(*(values for _, values in axes))
    prompts = [Prompt(f"prompt {row}", metadata=dict(zip(names, row, strict=True))) for row in rows]
    if leave_out is not None:
        del prompts[leave_out]
    return prompts


ANIMALS = ("animal", ["cat", "dog", "owl"])
STYLES = ("style", ["ink", "oil"])


def test_the_axes_of_a_matrix_are_fields_and_make_a_table(tmp_path: Path) -> None:
    page = written(fill(tmp_path, matrix(ANIMALS, STYLES), lambda _: None))
    assert page["fields"] == [list(ANIMALS), list(STYLES)]
    assert page["axes"] == [1, 0]  # the fewer values are columns: there is more room downwards
    assert [item["at"] for item in page["items"]] == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [2, 0],
        [2, 1],
    ]


def test_further_axes_of_a_matrix_are_fields(tmp_path: Path) -> None:
    page = written(fill(tmp_path, matrix(STYLES, ANIMALS, ("n", [1, 2.5, None])), lambda _: None))
    assert page["fields"] == [list(STYLES), list(ANIMALS), ["n", ["1", "2.5"]]]
    assert page["axes"] == [0, 1]
    assert {item["at"][2] for item in page["items"]} == {0, 1, -1}


def test_without_all_combinations_there_is_no_table(tmp_path: Path) -> None:
    prompts = matrix(ANIMALS, STYLES, leave_out=3)
    page = written(fill(tmp_path, [*prompts, prompts[0]], lambda _: None))
    assert [name for name, _ in page["fields"]] == ["animal", "style"]
    assert page["axes"] is None


def test_fields_of_more_combinations_than_prompts_make_no_table(tmp_path: Path) -> None:
    prompts = [Prompt(f"prompt {n}", metadata={"a": n % 4, "b": n % 3}) for n in range(8)]
    page = written(fill(tmp_path, prompts, lambda _: None))
    assert (len(page["fields"]), page["axes"]) == (2, None)


def test_where_some_prompts_have_no_value_there_is_a_table_too(tmp_path: Path) -> None:
    page = written(fill(tmp_path, [*matrix(ANIMALS, STYLES), "another"], lambda _: None))
    assert page["axes"] == [1, 0]
    assert page["items"][-1]["at"] == [-1, -1]


def test_superseded_prompts_have_no_say_in_what_the_fields_are(tmp_path: Path) -> None:
    fill(tmp_path, matrix(("animal", ["cat", "bat"]), ("old", [1, 2])), lambda _: None)
    page = written(fill(tmp_path, matrix(ANIMALS, STYLES), lambda _: None))
    assert page["fields"] == [list(ANIMALS), list(STYLES)]
    assert [item["at"] for item in page["items"][6:]] == [[0, -1], [0, -1], [-1, -1], [-1, -1]]


def test_settings_that_differ_are_fields_unless_metadata_have_their_names(tmp_path: Path) -> None:
    prompts = [
        Prompt(f"prompt {n}", seed=n % 2, model="m", aspect_ratio="1:1", metadata={"seed": "odd"})
        if n % 2
        else Prompt(f"prompt {n}", seed=n % 4, model="n", image_size="2K")
        for n in range(12)
    ]
    page = written(fill(tmp_path, prompts, lambda _: None))
    assert page["fields"] == [["model", ["n", "m"]], ["seed", ["0", "odd", "2"]]]


@pytest.mark.parametrize(
    ("values", "is_field"),
    [
        (["only"] * 9, False),
        ([f"each {n}" for n in range(9)], False),
        (["a", "b"], True),
        (["a", "b", "c", "b"], False),
        (["a", "b", "c", "b", "c"], True),
        ([f"{n % 100}" for n in range(200)], True),
        ([f"{n % 101}" for n in range(202)], False),
    ],
)
def test_a_field_has_several_values_and_few(
    tmp_path: Path, values: list[str], is_field: bool
) -> None:
    prompts = [Prompt(f"prompt {n}", metadata={"f": value}) for n, value in enumerate(values)]
    page = written(fill(tmp_path, prompts, lambda _: None))
    assert bool(page["fields"]) == is_field
    assert ("at" in page["items"][0]) == is_field


def test_no_more_than_twelve_fields_are_told(tmp_path: Path) -> None:
    prompts = [Prompt(f"{n}", metadata={f"f{m}": n % 2 for m in range(20)}) for n in range(4)]
    assert len(written(fill(tmp_path, prompts, lambda _: None))["fields"]) == 12


def test_prompts_of_a_demo_can_be_told_apart(tmp_path: Path) -> None:
    fill(tmp_path, ["a"])
    fill(tmp_path, ["a"], namespace="demo")
    page = written(tmp_path)
    assert page["fields"] == [["namespace", ["demo", "none"]]]
    assert [item.get("namespace") for item in page["items"]] == ["demo", None]
