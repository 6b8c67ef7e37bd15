"""What is doubtful in the rows of inputs, and what a reading makes of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from genbatch import Prompt
from genbatch.inputs import (
    Doubts,
    PromptFiles,
    Reading,
    Recipe,
    Selection,
    parse_map,
    read_prompts,
)
from support.commands import PARTI

PROSE = [
    "a red fox asleep in fresh snow",
    "The Eiffel tower, seen from below; dawn",
    "A sign that says: open (all day) - but nobody is there",
    '"G I G G L E" painted in thick colorful lettering on a wall',
    "7 dogs sitting around a poker table",
    "a fox -- red, of course -- in the snow (word:1.3)",
    "42",
    "Image quality is high",
    "a scene of 3 knights",
    "portrait of a woman, 35 mm, f/1.8, 4k",
]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(
    name: str,
    content: str | None = None,
    reading: Reading | None = None,
    recipe: Recipe | None = None,
) -> tuple[list[Prompt], Doubts]:
    """Return the prompts of a file, read twice as a run does, and its doubts."""
    if content is not None:
        Path(name).write_text(content, encoding="utf-8")
    given = reading or Reading()
    recipe = Recipe(reading=given) if recipe is None else recipe
    doubts = Doubts()
    prompts = read_prompts([name], recipe, doubts=doubts)
    assert isinstance(prompts, PromptFiles)
    assert len(list(prompts)) == len(prompts)
    return list(prompts), doubts


def mended(name: str, *kinds: str) -> Reading:
    """Return what was said by one who had doubts of these kinds mended."""
    return Reading(answers={name: kinds})


def kinds(doubts: Doubts) -> dict[str, int]:
    return {each.kind: each.count for each in doubts}


def texts(prompts: list[Prompt]) -> list[str]:
    return [each.text for each in prompts]


# Lines


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("# foxes", "comments"),
        ("---", "separators"),
        ("* * *", "separators"),
        ("=====", "separators"),
        ("Scene 2 Prompt:", "headings"),
        ("Scene 2", "headings"),
        ("== Foxes ==", "headings"),
        ("[Foxes]", "headings"),
        ("**Foxes**", "headings"),
        ("1. a fox", "numbering"),
        ("001 a fox", "numbering"),
        ("\u2460 a fox", "numbering"),
        ("\u2610 a fox", "numbering"),
        ("(12) a fox", "numbering"),
        ("- a fox", "numbering"),
        ("• a fox", "numbering"),
        ("Prompt 3: a fox", "numbering"),
        ("prompt: a fox", "numbering"),
        ("[", "json"),
        ("},", "json"),
        ('"a fox",', "json"),
        ('["a fox", "an owl"]', "json"),
        ('"prompt": "a fox"', "json"),
        ('{"prompt": "a fox"}', "jsonl"),
        ("```", "markdown"),
        ("| a fox | 1 |", "markdown"),
        ('"a fox, asleep",1', "table"),
        ("a fox\t1", "table"),
        ("a fox,1", "table"),
        ("prompt;id", "table"),
        ('--prompt "a fox" --negative_prompt "blur" --seed 7', "options"),
        ("a fox --ar 16:9 --v 6", "options"),
        ("a {red|blue} fox", "choices"),
        ("an __animal__ in snow", "wildcards"),
        # What programs and chats write around prompts
        ("Negative prompt: blurry, lowres", "options"),
        ("Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 123, Size: 512x512", "options"),
        ("a fox <lora:ink:0.8>", "options"),
        ("// foxes", "comments"),
        ("; foxes", "comments"),
        ("/* foxes */", "comments"),
        ("<!-- foxes -->", "comments"),
        ("/imagine prompt: a fox", "numbering"),
        ("> a fox", "numbering"),
        ("[ ] a fox", "numbering"),
        ("a) a fox", "numbering"),
        ("b. a fox", "numbering"),
        ("\u2014\u2014\u2014", "separators"),
        ("an {animal} in snow", "wildcards"),
        ("an ${animal} in snow", "wildcards"),
        ("an [ANIMAL] in snow", "wildcards"),
        ("0001.png: a fox", "table"),
        ("fox.png|a fox", "table"),
        ("https://example.com/a-fox.png", "headings"),
        ("Total", "headings"),
    ],
)
def test_a_line_that_may_be_no_prompt_is_doubtful(line: str, kind: str) -> None:
    _, doubts = read("a.txt", f"a fox\n{line}\nan owl\n{line}\n")
    (doubt,) = doubts
    assert (doubt.kind, doubt.count) == (kind, 2)
    assert doubt.text.startswith("a.txt:2: ")
    assert " (2 such lines); --" in doubt.text


@pytest.mark.parametrize(
    ("header", "later"),
    [
        ("Prompts,id", None),
        ("id,model", None),
        ("Prompts", "headings"),
        ("           prompt  seed  id", None),
    ],
)
def test_a_header_in_a_text_is_doubtful(header: str, later: str | None) -> None:
    """The one word is no prompt wherever it is; two may be one."""
    assert kinds(read("a.txt", f"{header}\na fox, asleep\n")[1]) == {later or "table": 1}
    assert kinds(read("a.txt", f"a fox\n{header}\n")[1]) == ({later: 1} if later else {})


def test_prose_is_not_doubtful() -> None:
    for content in ("\n".join(PROSE), "\n\n".join(PROSE), "\n\n".join(map("\n".join, [PROSE] * 3))):
        prompts, doubts = read("a.txt", content)
        assert kinds(doubts) == {}
        assert len(prompts) >= len(PROSE)


@pytest.mark.skipif(not PARTI.exists(), reason="no PartiPrompts here")
def test_public_prompts_are_not_doubtful() -> None:
    doubts = Doubts()
    prompts = read_prompts([PARTI], Recipe(reading=Reading()), doubts=doubts)
    assert (len(prompts), kinds(doubts), doubts.repeats) == (1632, {}, (0, ""))
    for between in ("\n", "\n\n"):
        lines = between.join(prompt.text for prompt in prompts)
        assert kinds(read("a.txt", lines)[1]) == {}


@pytest.mark.parametrize(
    ("content", "many"),
    [
        ("A knight in silver\nstands on a hill.\n\nA fox asleep\nin fresh snow.\n", 2),
        ("a red fox\nin the snow\n\nan owl\nat night\n\na cat\n", 2),
        ("A knight, tall,\ntired and old.\n\nA fox that\nis asleep.\n", 2),
        ("a fox\na cat\n\nan owl\na dog\n", 0),
        ("red fox\nblue owl\n\ngreen cat\nbig dog\n", 0),
        ("A knight in silver\nstands on a hill.\n", 0),
    ],
)
def test_paragraphs_of_wrapped_lines_are_doubtful(content: str, many: int) -> None:
    expected = {"paragraphs": many} if many else {}
    assert kinds(read("a.txt", content)[1]) == expected


def test_lines_are_left_out_or_taken_as_they_are() -> None:
    content = "# foxes\n1. a fox\n---\n2) an owl\nScene 3:\na {red|blue} cat\n"
    skip = frozenset(["comments", "separators", "numbering", "headings"])
    prompts, doubts = read("a.txt", content, Reading(skip=skip))
    assert texts(prompts) == ["a fox", "an owl", "a {red|blue} cat"]
    assert kinds(doubts) == {"choices": 1}
    assert doubts.skipped == {"comments": 1, "separators": 1, "numbering": 2, "headings": 1}
    prompts, doubts = read("a.txt", content, Reading(literal=frozenset(["all"])))
    assert (len(prompts), kinds(doubts)) == (6, {})
    _, doubts = read("a.txt", content, Reading(literal=frozenset(["comments", "numbering"])))
    assert kinds(doubts) == {"separators": 1, "headings": 1, "choices": 1}
    prompts, doubts = read("a.txt", content, mended("a.txt", "comments"))
    assert "comments" not in kinds(doubts)
    assert len(prompts) == 5


def test_prompts_of_a_table_may_have_what_is_no_word() -> None:
    content = (
        "prompt,id\na {red|blue} fox,1\nan __animal__,2\na cat --ar 1:1,3\n- a dash,4\n---,5\n"
    )
    _, doubts = read("a.csv", content)
    assert kinds(doubts) == {"choices": 1, "wildcards": 1, "options": 1, "separators": 1}
    skip = frozenset(["options", "wildcards", "separators"])
    prompts, _ = read("a.csv", content, Reading(skip=skip))
    assert texts(prompts) == ["a {red|blue} fox", "- a dash"]


def test_what_is_behind_a_number_is_doubtful_too() -> None:
    content = "1. a fox --ar 16:9\n/imagine prompt: an owl\n3. a {red|blue} cat\n"
    assert kinds(read("a.txt", content)[1]) == {"numbering": 3, "options": 1, "choices": 1}
    prompts, doubts = read("a.txt", content, Reading(skip=frozenset(["numbering", "options"])))
    assert texts(prompts) == ["an owl", "a {red|blue} cat"]
    assert kinds(doubts) == {"choices": 1}


def test_a_comment_or_a_sum_in_a_table_is_doubtful() -> None:
    content = "prompt,cost\n# a fox,1\nan owl,2\nTotal,3\nNegative prompt: blurry,4\n"
    assert kinds(read("a.csv", content)[1]) == {"comments": 1, "headings": 1, "options": 1}


def test_parameters_below_a_prompt_are_doubtful() -> None:
    content = 'prompt\n"a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a"\nan owl\n'
    assert kinds(read("a.csv", content)[1]) == {"options": 1}


def test_a_line_of_which_nothing_is_seen_is_blank() -> None:
    assert texts(read("a.txt", "a fox\n\u200b\n\ufeff \n\u2060\nan owl\n")[0]) == [
        "a fox",
        "an owl",
    ]
    with pytest.raises(ValueError, match=r"b\.csv:2: the prompt is blank"):
        read("b.csv", "prompt,id\n\u200b,1\n")


def test_what_is_read_without_a_reading_is_as_it_is() -> None:
    content = "prompt,api_key,ratio\n# a,b,1:1\n"
    prompts, doubts = read("a.csv", content, recipe=Recipe())
    assert prompts[0].metadata == {"api_key": "b", "ratio": "1:1"}
    assert (kinds(doubts), doubts.columns) == ({}, {})


# Columns


@pytest.mark.parametrize(
    ("column", "value", "field"),
    [
        ("aspect_ration", "16:9", "aspect_ratio"),
        ("Ratio", "16:9", "aspect_ratio"),
        ("size", "2K", "image_size"),
        ("image", "fox.png", "images"),
        ("image1", "fox.png", "images"),
        ("reference_images", "fox.png", "images"),
        ("count", "3", "n"),
        ("seeds", "7", "seed"),
        ("model_name", "pro", "model"),
    ],
)
def test_a_column_that_is_nearly_a_setting_is_doubtful(column: str, value: str, field: str) -> None:
    Path("fox.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    content = f"prompt,{column}\na fox,\nan owl,{value}\na cat,{value}\n"
    prompts, doubts = read("a.csv", content)
    (doubt,) = doubts
    assert (doubt.kind, doubt.count) == (f"column {column}", 2)
    assert doubt.option == ("map", f"{field}={column}")
    assert doubt.text.startswith("a.csv:3: ")
    assert f"--map {field}={column}" in doubt.text
    assert prompts[1].metadata == {column: value}

    for said in (
        Reading(columns=parse_map([f"{field}={column}"])),
        mended("a.csv", f"column {column}"),
    ):
        prompts, doubts = read("a.csv", content, said)
        assert kinds(doubts) == {}
        assert doubts.columns == {"prompt": "prompt", column: field}
        assert prompts[-1].metadata == {}
    assert kinds(read("a.csv", content, Reading(literal=frozenset([column])))[1]) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("count", "a dozen"),
        ("N", "3"),
        ("category", "size"),
        ("image_id", "7"),
        ("url", "https://x/a.png"),
    ],
)
def test_other_columns_are_metadata(column: str, value: str) -> None:
    prompts, doubts = read("a.csv", f"prompt,{column}\na fox,{value}\n")
    assert (kinds(doubts), prompts[0].metadata) == ({}, {column: value})


def test_what_a_template_uses_and_what_is_there_already_are_no_doubt() -> None:
    recipe = Recipe(template=None, reading=Reading())
    assert kinds(read("a.csv", "prompt,size,image_size\na,M,2K\n", recipe=recipe)[1]) == {}


def test_a_setting_that_is_not_known_is_doubtful() -> None:
    _, doubts = read("a.csv", "prompt,negative_prompt\na fox,blur\n")
    (doubt,) = doubts
    assert doubt.option is None
    assert "say in the prompt what is not to be there; --literal negative_prompt" in doubt.text


@pytest.mark.parametrize("name", ["generation_config", "imageConfig", "safety settings", "topP"])
def test_a_column_of_what_config_sets_is_told(name: str) -> None:
    _, doubts = read("a.csv", f"prompt,{name}\na fox,0.9\n")
    [doubt] = doubts
    assert "--config KEY=VALUE is of all rows of a run" in doubt.text


def test_a_column_of_paths_is_doubtful_whatever_its_name() -> None:
    Path("refs").mkdir()
    Path("refs/hero.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    content = "prompt,look,out\nadd a hat,refs/hero.png,made/1.png\n"
    _, doubts = read("a.csv", content)
    (doubt,) = doubts
    assert doubt.text == (
        'a.csv:2: the column "look" holds paths of images: "refs/hero.png" (1 row); '
        "--map images=look reads it as images"
    )
    prompts, _ = read("a.csv", content, mended("a.csv", "column look"))
    assert prompts[0].images == (Path("refs/hero.png"),)
    lines = '{"prompt": "a", "look": ["refs/hero.png"]}\n{"prompt": "b"}\n'
    prompts, doubts = read("a.jsonl", lines)
    assert kinds(doubts) == {"column look": 1}
    prompts, _ = read("a.jsonl", lines, Reading(columns={"look": "images"}))
    assert [each.images for each in prompts] == [(Path("refs/hero.png"),), ()]


def test_several_columns_are_input_images() -> None:
    for name in ("a.png", "b.png", "c.png"):
        Path(name).write_bytes(b"\x89PNG\r\n\x1a\n")
    content = "prompt,image1,image2\nx,a.png,b.png;c.png\ny,a.png,\n"
    given = Reading(columns=parse_map(["images=image1,images=image2"]))
    prompts, doubts = read("a.csv", content, given)
    assert [[str(path) for path in each.images] for each in prompts] == [
        ["a.png", "b.png", "c.png"],
        ["a.png"],
    ]
    assert kinds(doubts) == {}


def test_a_name_that_is_nearly_prompt_is_accepted() -> None:
    prompts, doubts = read("a.csv", "Prompts,id\na fox,1\n")
    assert texts(prompts) == ["a fox"]
    assert list(doubts.notes) == ['a.csv: the column "Prompts" is read as the prompt']
    with pytest.raises(ValueError, match="no column named prompt"):
        read("a.csv", "Prompts,promt\na fox,1\n")
    with pytest.raises(ValueError, match="no column named prompt"):
        read("a.csv", "prompt_id,text\na fox,1\n")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("api_key", "x"),
        ("Access Token", "x"),
        ("password", "x"),
        ("note", "sk-abcdefghijklmnopqrstuvwx"),
        ("note", "AIzaSyA1234567890abcdefghijklmnopqrstuv"),
    ],
)
def test_a_secret_is_not_kept(column: str, value: str) -> None:
    content = f"prompt,{column},lens\na fox,{value},35 mm\nan owl,,50 mm\n"
    prompts, doubts = read("a.csv", content)
    assert [each.metadata for each in prompts] == [{"lens": "35 mm"}, {"lens": "50 mm"}]
    assert list(doubts.notes) == [
        f'a.csv: the column "{column}" looks like a secret: it is not kept'
    ]
    assert value not in "".join([*doubts.notes]) or value == "x"
    assert kinds(doubts) == {}
    prompts, _ = read("a.csv", content, Reading(literal=frozenset([column, "all"])))
    assert column in prompts[0].metadata


def test_two_columns_cannot_be_one_setting() -> None:
    given = Reading(columns=parse_map(["seed=a"]))
    with pytest.raises(ValueError, match=r"a\.csv:1: two columns are read as seed"):
        read("a.csv", "prompt,a,seed\nx,1,2\n", given)


@pytest.mark.parametrize(
    ("pairs", "columns"),
    [
        (["images=image"], {"image": "images"}),
        (["image=refs,ratio=aspect_ratio"], {"refs": "images", "ratio": "aspect_ratio"}),
        (["aspect_ratio=Aspect Ration"], {"aspectration": "aspect_ratio"}),
        (["Title=prompt", "n=count"], {"title": "prompt", "count": "n"}),
    ],
)
def test_a_map_names_columns_from_either_side(pairs: list[str], columns: dict[str, str]) -> None:
    assert parse_map(pairs) == columns


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("a=b", "neither is the name of a setting; write SETTING=COLUMN"),
        ("seed=n", "both are names of a setting"),
        ("seed", "seed is not like images=refs"),
        ("seed=a,n=a", "the column a is given twice"),
    ],
)
def test_a_map_that_does_not_say_which_is_the_column_is_refused(pair: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_map([pair])


# Repeats


def test_repeated_rows_are_counted() -> None:
    _, doubts = read("a.csv", "prompt,id,seed\na fox,1,\nan owl,2,\na fox,3,\na fox,4,7\n")
    assert doubts.repeats == (1, "a.csv:4")
    _, doubts = read("a.txt", "a fox\nan owl\na fox\na fox\n")
    assert doubts.repeats == (2, "a.txt:3")


def test_rows_beyond_a_limit_raise_no_doubt() -> None:
    Path("list.txt").write_text("a red fox\nan owl\n# cats\n---\n", encoding="utf-8")
    Path("rows.csv").write_text("prompt,ratio\na fox,\nan owl,16:9\n", encoding="utf-8")
    for name, limit in (("list.txt", 2), ("rows.csv", 1)):
        doubts = Doubts()
        recipe = Recipe(reading=Reading())
        prompts = read_prompts([name], recipe, selection=Selection(limit), doubts=doubts)
        assert len(list(prompts)) == limit
        assert not kinds(doubts)


def test_a_file_is_read_the_second_time_as_the_first_time() -> None:
    key = "hf_" + 40 * "a"
    for content in ("Prompts,id\n", "Prompts,id\na fox,1\n", f"prompt,x\na fox,1\nan owl,{key}\n"):
        prompts, _ = read("rows.csv", content)
        assert len(prompts) == content.count("\n") - 1
        assert all(key not in each.metadata.values() for each in prompts)


@pytest.mark.parametrize(
    "content",
    [
        '[\n  {\n    "prompt": "a fox"\n  },\n  {"prompt": "an owl"}\n]\n',
        '{\r\n  "items": [\r\n    "a fox",\r\n    "an owl"\r\n  ]\r\n}\r\n',
        "| prompt | id |\n|---|:-:|\n| a fox | 1 |\n| an owl | 2 |\n",
        "\nprompt | id\n--- | ---\na fox | 1\nan owl | 2\n",
    ],
)
def test_what_a_text_begins_with_says_that_it_is_json_or_markdown(content: str) -> None:
    for name in ("b.txt", "b"):
        prompts, doubts = read(name, content)
        assert texts(prompts) == ["a fox", "an owl"]
        assert not kinds(doubts)


@pytest.mark.parametrize("content", ["[\na fox\n]\n", "{\nan owl\n", "a fox | an owl\n---\n"])
def test_a_text_with_a_bracket_or_a_bar_is_text(content: str) -> None:
    prompts, _ = read("b.txt", content)
    assert texts(prompts) == content.splitlines()


@pytest.mark.parametrize(("name", "is_doubted"), [("image", True), ("ref_img", True), ("x", False)])
def test_a_column_of_the_bytes_of_images_is_doubtful(name: str, is_doubted: bool) -> None:
    table = pyarrow.table({"prompt": ["a hat on it"], name: [{"bytes": b"x", "path": "a.png"}]})
    parquet.write_table(table, "a.parquet")
    _, doubts = read("a.parquet")
    assert [each.kind for each in doubts] == [f"column {name}"] * is_doubted
    for each in doubts:
        assert "is not sent as an input image" in each.text
    _, doubts = read("a.parquet", reading=Reading(literal=frozenset({name})))
    assert [*doubts] == []
