"""Any file gives back what was written into it, or is refused by one line; nothing else happens."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from genbatch import Prompt
from genbatch.inputs import Grid, PromptFiles, Recipe, Selection, Template, read_prompts
from genbatch.inputs._formats import Lines, is_blank

# Everything a UTF-8 file can hold but NUL, with what readers trip over made likely.
TRAPS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\ufeff\"\t,;:'\r\n {}[]\\"
characters = st.sampled_from(TRAPS) | st.characters(codec="utf-8", exclude_characters="\0")
texts = st.text(characters, min_size=1).filter(lambda text: not is_blank(text))
one_line_texts = texts.map(lambda text: text.replace("\n", " ").replace("\r", ""))
ends = st.sampled_from(["\n", "\r\n"])
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | floats | st.text()
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
own = st.fixed_dictionaries(
    {},
    optional={
        "id": one_line_texts.map(str.strip),
        "filename": one_line_texts.map(str.strip),
        "model": st.sampled_from(["flash", "pro"]),
        "aspect_ratio": st.just("16:9"),
        "image_size": st.sampled_from(["1K", "4K"]),
        "seed": st.integers(-(2**31), 2**31 - 1),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


def read(folder: Path, suffix: str, content: str | bytes, **options: Any) -> list[Prompt]:
    path = folder / f"a{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_prompts([path], **options))


def written_by_csv(rows: list[list[str]], **options: Any) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **options).writerows(rows)
    return buffer.getvalue()


@given(prompts=st.lists(one_line_texts), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
@example(prompts=["SEP=1", "0"], end="\n")
def test_txt_gives_back_every_prompt(folder: Path, prompts: list[str], end: str) -> None:
    assume(not (prompts and re.fullmatch(r'"?sep=([^\w ])"?\1*\s*', prompts[0], re.IGNORECASE)))
    # A mark at the very start is the file's byte order mark, not text.
    content = "\ufeff" + "".join(prompt + end for prompt in prompts)
    assert read(folder, ".txt", content) == [*map(Prompt, prompts)]


@given(
    rows=st.lists(st.tuples(texts, own, st.dictionaries(st.just("Lens"), json_values))), end=ends
)
def test_jsonl_gives_back_every_prompt(folder: Path, rows: list[Any], end: str) -> None:
    lines = [json.dumps({**metadata, "prompt": text, **own}) for text, own, metadata in rows]
    content = end.join(lines)
    expected = [Prompt(text, **own, metadata=metadata) for text, own, metadata in rows]
    assert read(folder, ".jsonl", content) == expected


def without_nothing(own: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that tables of pandas have where nothing is."""
    return {name: value for name, value in own.items() if value not in ("nan", "NaN", "<NA>")}


@given(
    rows=st.lists(st.tuples(texts, own, st.text(characters))),
    delimiter=st.sampled_from(",;"),
    end=ends,
)
def test_csv_gives_back_every_prompt(
    folder: Path, rows: list[Any], delimiter: str, end: str
) -> None:
    names = ["seed", "Prompt", "File Name", "id", "Lens; mm", "MODEL", "aspectRatio", "image-size"]
    table = [names]
    rows = [(text, without_nothing(own), lens) for text, own, lens in rows]
    for text, own, lens in rows:
        given = {"Prompt": text, "Lens; mm": lens, "File Name": own.get("filename", "")}
        given |= {"MODEL": own.get("model", ""), "aspectRatio": own.get("aspect_ratio", "")}
        given |= {"image-size": own.get("image_size", "")}
        table.append([str(given.get(name, own.get(name, ""))) for name in names])
    options = {"delimiter": delimiter, "lineterminator": end, "quoting": csv.QUOTE_ALL}
    expected = [Prompt(text, **own, metadata={"Lens; mm": lens}) for text, own, lens in rows]
    assert read(folder, ".csv", written_by_csv(table, **options)) == expected


@given(prompts=st.lists(one_line_texts))
def test_tsv_of_a_spreadsheet_gives_back_every_prompt(folder: Path, prompts: list[str]) -> None:
    rows = [["Prompt", "note"], *([prompt, ""] for prompt in prompts)]
    content = written_by_csv(rows, dialect="excel-tab")
    assert [prompt.text for prompt in read(folder, ".tsv", content)] == prompts


@given(prompts=st.lists(one_line_texts.filter(lambda text: not {"\t", '"'} & {*text})))
def test_tsv_without_quotes_gives_back_every_prompt(folder: Path, prompts: list[str]) -> None:
    content = "PROMPT\tnote\n" + "".join(f"{prompt}\tx\n" for prompt in prompts)
    assert [prompt.text for prompt in read(folder, ".tsv", content)] == prompts


# Pieces that make likely what a mutation of a valid file would have to hit.
PIECES = [
    *(b'{"prompt": "a', b'"}', b'", "n": ', b"3", b'"seed": 1.5', b"\\ud800", b"\\u0000", b"1e999"),
    *(b"NaN", b"[", b"[" * 300, b"9" * 5000, b"prompt", b"\n", b"\r\n", b"\r", b",", b";", b"\t"),
    *(b'"', b'""', b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\xe2\x80\xa8", b" "),
]
pieces = st.sampled_from(PIECES)
contents = st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join)
suffixes = st.sampled_from([".txt", ".jsonl", ".csv", ".tsv"])
encodings = st.sampled_from(["utf-8", "utf-16", "utf-16-le", "cp1252", "shift_jis"])
recipes = st.sampled_from(
    [
        Recipe(),
        Recipe(column="n", grid=Grid.parse(["model=pro,flash", "seed=1,2,3"])),
        Recipe(template=Template.parse("{prompt} {style}"), grid=Grid.parse(["style=ink,oil"])),
    ]
)


def check(prompts: PromptFiles | list[Prompt]) -> None:
    assert isinstance(prompts, PromptFiles)
    first = list(prompts)
    assert first == list(prompts)
    assert len(first) == len(prompts)
    asked = Counter((each.model, each.aspect_ratio, each.image_size) for each in first)
    assert asked == Counter(prompts.asked)
    for prompt in first:
        assert prompt.text.encode().strip()
        json.dumps(dict(prompt.metadata), allow_nan=False)


@given(
    suffix=suffixes,
    content=contents,
    encoding=encodings,
    recipe=recipes,
    limit=st.none() | st.integers(0, 4),
)
def test_any_file_is_read_alike_twice_or_refused_in_one_line(
    folder: Path, suffix: str, content: bytes, encoding: str, recipe: Recipe, limit: int | None
) -> None:
    path = folder / f"b{suffix}"
    path.write_bytes(content)
    try:
        prompts = read_prompts([path], recipe, encoding=encoding, selection=Selection(limit))
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        check(prompts)
    assert all(line.isprintable() for line in message.splitlines())
    assert not message or message.startswith(f"{path}:")


@given(content=contents, cuts=st.lists(st.integers(0, 60)), encoding=encodings)
def test_lines_do_not_depend_on_where_blocks_end(
    content: bytes, cuts: list[int], encoding: str
) -> None:
    def lines(ends: list[int]) -> list[str]:
        reader = Lines("a", encoding)
        found: list[str] = []
        starts = [0, *ends]
        try:
            for start, end in zip(starts, [*ends, len(content)], strict=True):
                if content[start:end]:  # an empty block is the end
                    found += reader.feed(content[start:end])
            found += reader.feed(b"")
        except ValueError as error:
            found.append(str(error).partition(";")[0])  # what is proposed depends on what was seen
        return found

    assert lines(sorted(cuts)) == lines([])
