"""Templates, grids and samples: prompts from the fields of rows and lists of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from genbatch import Prompt
from genbatch.inputs import Grid, PromptFiles, Recipe, Selection, Template, read_prompts
from genbatch.inputs._sources import Sample


def made(template: str | None, *axes: str, **fields: object) -> list[Prompt]:
    """Return the prompts that a row with these fields makes."""
    grid = Grid.parse(axes)
    recipe = Recipe(template=None if template is None else Template.parse(template), grid=grid)
    return list(recipe.prompts(fields, recipe.read(fields, Path())))


def texts(template: str, *axes: str, **fields: object) -> list[str]:
    return [prompt.text for prompt in made(template, *axes, **fields)]


# Templates


def test_a_template_takes_the_fields_of_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,animal,Hair colour,prompt\n1,fox,red,old\n")
    recipe = Recipe(template=Template.parse("{{A}} { animal } {ID}: {Hair colour}, {animal}"))
    (prompt,) = read_prompts([tmp_path / "a.csv"], recipe)
    metadata = {"animal": "fox", "Hair colour": "red", "prompt": "old"}
    assert prompt == Prompt("{A} fox 1: red, fox", "1", metadata=metadata)


def test_a_template_takes_the_lines_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox\n{x}\n")
    prompts = read_prompts(
        [tmp_path / "a.txt"], Recipe(template=Template.parse("{prompt}, in oil"))
    )
    assert [prompt.text for prompt in prompts] == ["a fox, in oil", "{x}, in oil"]


def test_numbers_are_text_to_a_template() -> None:
    assert texts("{a} {b}", a=3, b=0.5) == ["3 0.5"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "a: null is not text"),
        (True, "a: true is not text"),
        (["x"], "a: a list is not text"),
        ("\0", "a: a NUL character is in it"),
        (" ", "the field a is blank; fill it in or remove the row"),
    ],
)
def test_what_a_template_cannot_take_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        made("{a}", a=value)


@pytest.mark.parametrize(("name", "kind"), [("a.csv", "column"), ("a.jsonl", "field")])
def test_a_field_that_is_missing_is_named(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text('{"animal": "fox"}\n' if name == "a.jsonl" else "animal\nfox\n")
    message = rf"^{tmp_path / name}:1: no {kind} named style; the {kind}s are: animal$"
    with pytest.raises(ValueError, match=message):
        read_prompts([tmp_path / name], Recipe(template=Template.parse("{animal} {style}")))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a fox", "it contains no {field}"),
        ("", "it contains no {field}"),
        ("{a", "expected '}' before end of string; write {{ or }} for a brace"),
        ("a}", "Single '}' encountered in format string; write {{ or }} for a brace"),
        ("{}", "{}: a field is a plain name, without . [ ] ! or :"),
        ("{a.__class__}", "{a.__class__}: a field is a plain name, without . [ ] ! or :"),
        ("{a[0]}", "{a[0]}: a field is a plain name, without . [ ] ! or :"),
        ("{a!r}", "{a}: a field is a plain name, without . [ ] ! or :"),
        ("{a:>9}", "{a}: a field is a plain name, without . [ ] ! or :"),
        ("{a:{b}}", "{a}: a field is a plain name, without . [ ] ! or :"),
        ("\udcff {a}", "an argument is not text in the encoding of this machine; write {{ or }}"),
    ],
)
def test_a_template_is_checked_before_any_row(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Template.parse(template)
    assert str(caught.value).startswith(f"--template: {message}")


# Grids


def test_a_grid_is_the_full_product_in_order() -> None:
    prompts = made("A {animal} in {style}", "animal=cat, dog", 'style=ink , "oil, thick",a=b')
    assert [prompt.text for prompt in prompts] == [
        "A cat in ink",
        "A cat in oil, thick",
        "A cat in a=b",
        "A dog in ink",
        "A dog in oil, thick",
        "A dog in a=b",
    ]
    assert prompts[1].metadata == {"animal": "cat", "style": "oil, thick"}


def test_a_grid_needs_no_file() -> None:
    recipe = Recipe(
        template=Template.parse("A {animal}"), grid=Grid.parse(["animal=cat,dog", "n=2"])
    )
    prompts = read_prompts([], recipe)
    assert isinstance(prompts, PromptFiles)
    assert (len(prompts), prompts.asked) == (4, {(None, None, None): 4})
    for _ in range(2):
        assert [prompt.text for prompt in prompts] == ["A cat", "A cat", "A dog", "A dog"]


def test_a_row_is_made_at_each_point_and_keeps_its_names_when_a_grid_grows() -> None:
    small = made("{animal} in {style}", "style=ink", animal="fox", id="7", filename="fox")
    large = made("{animal} in {style}", "style=oil,ink", animal="fox", id="7", filename="fox")
    metadata = {"animal": "fox", "style": "ink"}
    assert small == large[1:] == [Prompt("fox in ink", "7-ink", "fox-ink", metadata=metadata)]


def test_an_axis_may_be_a_setting() -> None:
    axes = ("aspect_ratio=1:1,16:9", "seed=1,2")
    prompts = made(None, *axes, prompt="a fox")
    assert [(prompt.aspect_ratio, prompt.seed) for prompt in prompts] == [
        *product(("1:1", "16:9"), (1, 2))
    ]
    assert prompts[1].metadata == {"aspect_ratio": "1:1", "seed": "2"}


def test_what_a_grid_asks_for_is_counted_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a", "n": 2}\n{"prompt": "b", "image_size": "2K"}\n'
    )
    checked: list[tuple[Any, ...]] = []
    recipe = Recipe(
        grid=Grid.parse(["seed=1,2,3", "model=pro,flash"]),
        check=lambda *asked: checked.append(asked),
    )
    for limit in (None, 18, 17, 12, 5, 1):
        prompts = read_prompts([tmp_path / "a.jsonl"], recipe, selection=Selection(limit=limit))
        assert isinstance(prompts, PromptFiles)
        of_each = ((each.model, each.aspect_ratio, each.image_size) for each in prompts)
        assert Counter(prompts.asked) == Counter(of_each)
        assert len(prompts) == sum(prompts.asked.values()) == min(limit or 18, 18)
    assert {each for each in checked if len(each) == 3} == {
        (model, None, size) for model in ("pro", "flash") for size in (None, "2K")
    }
    seeded = {each for each in checked if len(each) == 4}
    assert seeded == {("pro", None, None, 1), ("flash", None, None, 1)}


def test_a_large_grid_is_counted_in_no_time() -> None:
    values = ",".join(map(str, range(1000)))
    names = "abcd"
    grid = Grid.parse(f"{name}={values}" for name in names)
    recipe = Recipe(template=Template.parse("{a}{b}{c}{d}"), grid=grid)
    assert len(read_prompts([], recipe)) == 10**12
    prompts = read_prompts([], recipe, selection=Selection(limit=1001))
    assert [prompt.text for prompt in prompts][-2:] == ["000999", "0010"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["style"], "--matrix: style is not like style=ink,oil"),
        (["=a,b"], "--matrix: =a,b is not like style=ink,oil"),
        (["a.b=c"], "--matrix: a.b=c is not like style=ink,oil"),
        (["style="], "--matrix style: a value is blank"),
        (["style=ink,,oil"], "--matrix style: a value is blank"),
        (["style=ink,ink "], '--matrix style: a value is repeated: "ink,ink "'),
        (
            ["style=ink", "style=oil"],
            "--matrix style: is given twice; put all its values in one list",
        ),
        (['style=ink,"oil'], "--matrix style: unexpected end of data; check the quotes"),
        (["style=ink\noil"], "--matrix style: new-line character seen in unquoted field; check"),
        (["seed=1,x"], '--matrix seed: "x" is not a whole number'),
        (["images=none.png"], "images: there is no file none.png"),
        (["style=\udcff"], "an argument is not text in the encoding of this machine"),
    ],
)
def test_an_axis_that_is_malformed_is_refused(axes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Grid.parse(axes)
    assert str(caught.value).startswith(message)


def test_an_axis_that_would_make_equal_prompts_is_refused() -> None:
    grid = Grid.parse(["animal=cat", "stlye=ink,oil"])
    with pytest.raises(ValueError, match=r"--matrix stlye: --template must contain \{stlye\}"):
        Recipe(template=Template.parse("{animal}"), grid=grid)


@pytest.mark.parametrize(("name", "kind"), [("a.csv", "column"), ("a.jsonl", "field")])
def test_an_axis_that_a_row_has_too_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    row = '{"prompt": "a", "seed": null}\n' if name == "a.jsonl" else "prompt,seed\na,\n"
    (tmp_path / name).write_text(row)
    with pytest.raises(ValueError, match=f":1: the {kind} seed is in --matrix too; leave out one"):
        read_prompts([tmp_path / name], Recipe(grid=Grid.parse(["seed=1,2"])))


def test_an_axis_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=":1: no field named model; the fields are: prompt; --col"):
        read_prompts([tmp_path / "a.jsonl"], Recipe("model", grid=Grid.parse(["model=pro,flash"])))


# Samples


def sampled(path: Path, **selection: int) -> list[str]:
    prompts = read_prompts([path], selection=Selection(**selection))
    assert isinstance(prompts, list)
    return [prompt.text for prompt in prompts]


def test_a_sample_is_the_same_for_the_same_seed_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{number}\n" for number in range(100)))
    first = sampled(path, sample=10)
    assert len(set(first)) == 10
    assert first == sorted(first, key=int) == sampled(path, sample=10, seed=0)
    assert sampled(path, sample=10, seed=1) != first
    assert sampled(path, sample=200) == [str(number) for number in range(100)]
    assert set(map(int, sampled(path, sample=10, limit=20))) <= set(range(20))


def test_a_sample_is_one_of_prompts_not_of_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "n": 50, "seed": 0}\n' * 2)
    prompts = read_prompts([tmp_path / "a.jsonl"], selection=Selection(limit=70, sample=70))
    assert [prompt.seed for prompt in prompts] == [*range(50), *range(20)]


def test_a_sample_of_what_comes_of_no_file() -> None:
    recipe = Recipe(template=Template.parse("{a}"), grid=Grid.parse(["a=1,2,3,4,5"]))
    assert len(read_prompts([], recipe, selection=Selection(sample=2))) == 2


def test_every_item_is_as_likely_to_be_sampled() -> None:
    counts: Counter[int] = Counter()
    for seed in range(3000):
        sample: Sample[int] = Sample(3, seed)
        for first in range(0, 12, 4):
            sample.offer(4, iter(range(first, first + 4)))
        assert sample.items == sorted(set(sample.items))
        counts.update(sample.items)
    # 750 of each are expected; six standard deviations are 142.
    assert sorted(counts) == list(range(12))
    assert all(600 < count < 900 for count in counts.values())


def test_what_is_not_sampled_is_not_made() -> None:
    sample: Sample[int] = Sample(1, 0)
    sample.offer(1, iter([0]))
    asked = []

    def items() -> Iterator[int]:
        asked.append(True)
        yield 1

    for _ in range(1000):
        sample.offer(1, items())
    assert 1 <= len(asked) < 50
