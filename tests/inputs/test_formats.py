"""Each file that people have is read for what it is, or refused for what it looks like."""

from __future__ import annotations

import os
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from genbatch import Prompt
from genbatch.inputs import FORMATS, InputError, Layout, Recipe, StandardInput, read_prompts

WRITTEN = Path(__file__).parents[1] / "fixtures" / "inputs"
TEXTS = ["a red fox, asleep", 'an owl\nby "night"', "ein Füchslein 狐"]
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, recipe: Recipe | None = None, /, **layout: Any) -> list[Prompt]:
    encoding = layout.pop("encoding", "utf-8")
    return list(read_prompts([path], recipe, encoding=encoding, layout=Layout(**layout)))


def texts(path: Path, recipe: Recipe | None = None, /, **layout: Any) -> list[str]:
    return [prompt.text for prompt in read(path, recipe, **layout)]


def refusal(path: Path, /, **layout: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **layout)
    return str(caught.value).replace(f"{path}", path.name)


# Tables


@pytest.mark.parametrize(
    "name",
    [path.name for path in sorted(WRITTEN.iterdir()) if path.suffix not in (".py", ".md")],
)
def test_what_other_programs_write_is_read(name: str) -> None:
    """Indexes and bytes are ignored, gaps are empty, ids and seeds are whole numbers."""
    prompts = read(WRITTEN / name)
    assert [prompt.text for prompt in prompts] == TEXTS
    assert [prompt.id for prompt in prompts] == ["7", "8", "9"]
    assert [prompt.seed for prompt in prompts] == [1, None, 3]
    assert [prompt.metadata["tags"] or None for prompt in prompts] == ["x", "y", None]
    assert {name for prompt in prompts for name in prompt.metadata} == {"tags"}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.csv", "utf-8-sig"),  # "CSV UTF-8"
        ("a.csv", "cp1252"),  # "CSV"
        ("a.txt", "cp1252"),  # "Text (tab delimited)"
        ("a.txt", "utf-16"),  # "Unicode text", which people rename
        ("a.tsv", "utf-16"),
        ("a.csv", "utf-16"),
        ("a", "utf-16"),
    ],
)
def test_exports_of_excel_are_tables_whatever_their_names(
    tmp_path: Path, name: str, encoding: str
) -> None:
    separator = ";" if name == "a.csv" and encoding != "utf-16" else "\t"
    rows = (["prompt", "menge"], ['"ein ""Füchslein"""', "3"])
    content = "".join(separator.join(row) + "\r\n" for row in rows).encode(encoding)
    path = written(tmp_path / name, content)
    given = {"encoding": "cp1252"} if encoding == "cp1252" else {}
    assert read(path, **given) == [Prompt('ein "Füchslein"', metadata={"menge": "3"})]
    if given:
        assert refusal(path).endswith("give its encoding, such as --encoding cp1252")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=;\r\nprompt;menge\r\na, fox;3\r\n"),
        ("a.csv", "prompt\tmenge\na, fox\t3\n"),
        ("a.csv", "menge|prompt\n3|a, fox\n"),
        ("a.tsv", 'prompt,menge\n"a, fox",3\n'),
        ("a.txt", "prompt\tmenge\na, fox\t3\n"),
        ("a", 'prompt,menge\n"a, fox",3\n'),
        ("a.txt", 'sep=,\nprompt,menge\n,\n"a, fox",3\n , \n'),
    ],
)
def test_the_separator_of_a_table_is_what_it_contains(
    tmp_path: Path, name: str, content: str
) -> None:
    path = written(tmp_path / name, content)
    assert read(path) == [Prompt("a, fox", metadata={"menge": "3"})]


def test_a_table_without_header_is_refused_unless_it_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "a fox,1\nan owl,2\n")
    message = "no column named prompt; first row looks like data: --no-header --column 1"
    assert refusal(path) == f"a.csv:1: {message}"
    prompts = read(path, Recipe(column="1"), header=False)
    assert [prompt.text for prompt in prompts] == ["a fox", "an owl"]


def test_a_sheet_is_named_or_numbered() -> None:
    path = WRITTEN / "shots.xlsx"
    assert refusal(path, sheet="No").endswith("--sheet No: the sheets are: Shots, Other")
    for sheet in ("Other", "2"):
        assert refusal(path, sheet=sheet) == (
            'shots.xlsx:3: aspect_ratio: "16x9" is no aspect ratio: did you mean 16:9?'
        )


def test_what_is_ignored_is_told() -> None:
    notes: list[str] = []
    for name in ("pandas.csv", "datasets.parquet", "shots.xlsx"):
        read_prompts([WRITTEN / name], note=notes.append)
    assert [note.removeprefix(f"{WRITTEN}{os.sep}") for note in notes] == [
        "pandas.csv: the first column has no name and is ignored",
        "datasets.parquet: the column picture has bytes and is ignored",
        "shots.xlsx: reading the first sheet, Shots; --sheet reads another: Other",
    ]


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("shots.xlsx", "python_calamine"),
        ("pandas.parquet", "pyarrow.parquet"),
        ("polars.arrow", "pyarrow"),
    ],
)
def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert refusal(WRITTEN / name).endswith("python -m pip install 'genbatch[data]'")


# JSON


LISTS = [
    '[ "a", "b" ]',
    '["a",\n{"prompt": "b"}\n]\n',
    '{"version": 1, "items": ["a", {"prompt": "b"}]}',
    '{"prompt": "a"}\n{"prompt": "b"}\n',
    '{"prompt": ["a", "b"]}',
    '\ufeff[\r\n  "a",\r\n  "b"\r\n]',
]


@pytest.mark.parametrize("content", LISTS)
def test_json_is_read_in_files_of_any_name(tmp_path: Path, content: str) -> None:
    for name in ("a.json", "a"):
        assert texts(written(tmp_path / name, content)) == ["a", "b"]


@pytest.mark.anyio
@pytest.mark.parametrize("content", [*LISTS, "prompt,id\na,1\nb,2\n", "sep=|\nprompt\na\nb\n"])
async def test_standard_input_is_recognized_by_its_beginning(content: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, content.encode())
    os.close(writer)
    assert [prompt.text async for prompt in StandardInput(reader)] == ["a", "b"]
    os.close(reader)


def test_a_path_leads_to_a_list(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '{"x": [], "data": {"y": 1, "rows": ["a"]}, "z": [1]}')
    assert refusal(path) == "a.json:1: several lists: x, z; --path names the one to read"
    assert texts(path, path="data.rows") == texts(path, path="$.data.rows") == ["a"]
    assert refusal(path, path="data.x").endswith("no field named x; the fields are: y, rows")
    assert refusal(path, path="data").endswith("--path data: an object is not a list")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a",\n]', "a.json:2: not JSON: a comma before the closing bracket"),
        ('[{"prompt":\n"a",}]', "a.json:2: not JSON: a comma before the closing bracket"),
        ('["a",\n{"prompt": "b"', "a.json:2: not JSON: it ends too early, or a quote is left open"),
        ('["a"', "a.json:1: not JSON: the end in the place of , or ]"),
        ('["a"]\nx', "a.json:2: something follows the JSON array"),
        ('{"a":\n[]}\nx', "a.json:3: something follows the JSON value"),
        ('{"x":\n1}', "a.json:1: an object without a list; the fields are: x; --path names.with.d"),
        ("[\n7]", "a.json:2: 7 in the list is neither a text nor an object"),
        ('["\\ud800"]', "a.json:1: half a surrogate pair; write the character itself"),
        ('["a\0"]', "a.json:1: NUL character; save the file as text in UTF-8"),
        ('[{"a": 1, "a": 2}]', "a.json:1: two fields have one name; the fields are: a, a"),
        ('{"prompt":\n{"0": "a", "1": 5}}', "a.json:2: prompt: 5 is not text"),
    ],
)
def test_a_mistake_in_json_has_its_line(tmp_path: Path, content: str, message: str) -> None:
    assert refusal(written(tmp_path / "a.json", content)).startswith(message)


def test_nan_is_nothing(tmp_path: Path) -> None:
    row = '{"prompt": "a", "seed": NaN, "x": NaN}'
    for name, content in (("a.json", f"[{row}]"), ("a.jsonl", row)):
        assert read(written(tmp_path / name, content)) == [Prompt("a", metadata={"x": None})]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (3 * f'{{"prompt": "a fox", "raw": "{"y" * 200_000}"}}\n', 3),  # rows beyond a block
        ('{"items": [' + ", ".join(8000 * ['"a red fox"']) + "]}", 8000),  # a document on one line
    ],
    ids=["rows", "document"],
)
def test_a_long_first_line_says_what_it_is(tmp_path: Path, content: str, count: int) -> None:
    assert len(texts(written(tmp_path / "prompts", content))) == count


def test_a_large_object_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch.inputs._json._MOST_WHOLE", 2_000_000)
    path = written(tmp_path / "a.json", b'{"prompt": "' + 30_000_000 * b"x")
    tracemalloc.start()
    try:
        assert "an object of more than 2,000,000 characters; an array" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_long_array_is_read_in_flat_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", "[" + ", ".join(['{"prompt": "a fox"}'] * 50_000) + "]")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_prompts([path])) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# Text


def test_a_separator_parts_prompts_of_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "a fox,\r\nasleep\r\n---\r\n\r\nan owl\r\n ---\r\n---\r\n")
    assert texts(path, separator="---") == ["a fox,\nasleep", "an owl"]
    path = written(tmp_path / "b.txt", "# one\na\nb\n\n\n  \nc\n# d\n")
    assert texts(path, separator="", comments=True) == ["a\nb", "c"]
    assert texts(path, comments=True) == ["a", "b", "c"]
    path = written(tmp_path / "a.csv", "prompt:id\na, fox:7\n")
    assert read(path, separator=":") == [Prompt("a, fox", "7")]
    assert "one character between its columns" in refusal(path, separator="--")


def test_a_directory_has_a_prompt_in_each_file(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        written(tmp_path / f"{number}.txt", f"\nprompt {number}\n\nprompt,id\n")
    written(tmp_path / "._1.txt", b"\0")
    written(tmp_path / "notes.md", "- x")
    prompts = read(tmp_path)
    assert [prompt.id for prompt in prompts] == ["1", "2", "10"]
    assert prompts[0].text == "prompt 1\n\nprompt,id"
    written(tmp_path / "3.txt", " \n")
    written(tmp_path / "4.txt", PNG)
    assert refusal(tmp_path).split("\n") == [
        f"{tmp_path.name}/3.txt:1: the prompt is blank; fill it in or remove the file",
        f"{tmp_path.name}/4.txt: byte 1: looks like a PNG image, not like prompts",
        "2 mistakes",
    ]


MARKDOWN = """# Shots

Some words.

1. `hero.png` - A knight
   in armour
2. **Sunset:** a *wide* beach
3. **Night**
   an owl
- a **bold** cat
- [ ] a task

| file | Prompt |
|---|---|
| x.png | a dog |

```text
a block
of two
```
"""


def test_markdown_has_lists_and_tables_or_blocks(tmp_path: Path) -> None:
    path = written(tmp_path / "a.md", MARKDOWN)
    assert [(prompt.text, prompt.filename) for prompt in read(path)] == [
        ("A knight\nin armour", "hero.png"),
        ("a wide beach", "Sunset"),
        ("an owl", "Night"),
        ("a bold cat", None),
        ("a task", None),
        ("a dog", None),
    ]
    assert texts(path, markdown="blocks") == ["a block\nof two"]
    path = written(tmp_path / "b.md", "**Hero**\n\nA knight.\n\n`cat.png`: a cat\n")
    assert [(prompt.text, prompt.filename) for prompt in read(path)] == [
        ("A knight.", "Hero"),
        ("a cat", "cat.png"),
    ]
    assert "no fenced blocks in it" in refusal(path, markdown="blocks")


# Content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", PNG, "a.txt: byte 1: looks like a PNG image, not like prompts"),
        ("a.csv", b"%PDF-1.7\n", "a.csv: byte 1: looks like a PDF, not like prompts"),
        ("a", b"\x1f\x8b\x08", "a: byte 1: looks like a gzip archive: unpack it first, not"),
        ("a.txt", b"a\nb\0c\n", "a.txt:2: NUL character; save the file as text in UTF-8"),
        (
            "a.txt",
            "a fox\n".encode("utf-16-be"),
            "a.txt:1: NUL character; save the file as text in UTF-8; it looks like UTF-16 without "
            "its mark: --encoding utf-16-be",
        ),
        ("a.parquet", b"PAR1xxxx", "a.parquet: damaged, or not what its name or beginning says"),
        ("a.arrow", b"ARROW1xx", "a.arrow: damaged, or not what its name or beginning says"),
        ("a.xlsx", b"PK\x03\x04x", "a.xlsx: not an Excel workbook, or a damaged or encrypted one"),
    ],
)
def test_what_holds_no_prompts_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    assert refusal(written(tmp_path / name, content)).startswith(message)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a {red|blue} fox\n", ["a {red|blue} fox"]),
        ("{red|blue} fox\n", ["{red|blue} fox"]),
        ("[wide] a fox\n", ["[wide] a fox"]),
        ("prompt\na fox\n", ["prompt", "a fox"]),
        ("a fox, id\n", ["a fox, id"]),
    ],
)
def test_what_only_looks_like_data_is_text(
    tmp_path: Path, content: str, expected: list[str]
) -> None:
    assert texts(written(tmp_path / "a", content)) == expected


def test_what_a_page_of_markdown_says_of_itself_is_no_prompt(tmp_path: Path) -> None:
    about = "---\ntitle: Shots\ntags:\n  - ink\n- night\n---\n"
    contents = "- [Foxes](#foxes)\n- [A fox](https://example.com)\n"
    path = tmp_path / "shots.md"
    path.write_text(f"{about}\n{contents}- an owl\n")
    assert [each.text for each in read_prompts([path])] == ["A fox", "an owl"]
    path.write_text("---\n- a fox\n\n---\n- an owl\n")
    assert [each.text for each in read_prompts([path])] == ["a fox", "an owl"]


def test_labels_beside_a_prompt_are_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "shots.md"
    path.write_text("1. **Hero**\n   - **Prompt:** a fox\n2. **Foe**\n   - **Prompt 2:** an owl\n")
    prompts = list(read_prompts([path]))
    assert [(each.text, each.filename) for each in prompts] == [("a fox", None), ("an owl", None)]
    path.write_text("- **Prompt:** a fox\n- **Style:** ink\n- **Negative prompt:** blurry\n")
    with pytest.raises(ValueError, match="Style beside items that are called Prompt") as caught:
        read_prompts([path])
    assert "shots.md:3: Negative prompt beside" in str(caught.value)


def test_what_else_a_page_has_is_told(tmp_path: Path) -> None:
    path = tmp_path / "shots.md"
    table = "\n| prompt |\n|---|\n| a fox |\n"
    path.write_text(f"- Use light words\n{table}\n```\nan owl\n```\n")
    notes: list[str] = []
    read_prompts([path], note=notes.append)
    assert [note.removeprefix(f"{path}: ") for note in notes] == [
        "the prompts are 1 from lists and 1 from tables",
        "fenced blocks not read: 1; --md blocks reads those",
    ]


def test_an_option_says_the_format(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "prompt,id\na,b\n")
    assert texts(path, format="txt") == ["prompt,id", "a,b"]
    assert texts(written(tmp_path / "a.log", "x\n"), format="txt") == ["x"]


def test_a_reader_of_markdown_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    message = refusal(written(tmp_path / "a.md", "- a"))
    assert message.endswith("needs markdown-it-py: python -m pip install 'genbatch[data]'")


def test_no_extension_is_of_two_formats() -> None:
    extensions = [each for kind in FORMATS.values() for each in kind.extensions]
    assert all(one != other for one, other in pairwise(sorted(extensions)))


@pytest.mark.parametrize("name", ["shots.xlsx", "pandas.parquet", "polars-stream.arrow"])
@pytest.mark.anyio
async def test_a_table_of_bytes_comes_on_standard_input_too(name: str) -> None:
    descriptor = os.open(WRITTEN / name, os.O_RDONLY)
    assert [prompt.text async for prompt in StandardInput(descriptor)] == TEXTS
    os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["polars.csv", "polars.json", "polars.parquet"])
def test_a_pipe_without_extension_loses_no_byte(name: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, (WRITTEN / name).read_bytes())
    os.close(writer)
    assert texts(Path(f"/dev/fd/{reader}")) == TEXTS
    os.close(reader)


# Rows


def test_all_bad_rows_are_told_the_first_twenty_of_them(tmp_path: Path) -> None:
    good = written(tmp_path / "a.jsonl", '{"prompt": "a"}\n{"x": 1}\nx\n')
    many = written(tmp_path / "b.csv", "prompt,seed\n" + "a,x\n,\n" * 30)
    with pytest.raises(InputError) as caught:
        read_prompts([good, many])
    lines = str(caught.value).split("\n")
    assert lines[0].startswith(f"{good}:2: no field named prompt")
    assert lines[1].startswith(f"{good}:3: not JSON at column 1")
    assert lines[2] == f'{many}:2: seed: "x" is not a whole number'
    assert lines[3].startswith(f"{many}:4: ")
    assert (len(lines), lines[20]) == (21, "32 mistakes; these are the first 20")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"aspect_ratio": " 16:9 "}, Prompt("a", aspect_ratio="16:9")),
        ({"aspect_ratio": "16:09:00"}, Prompt("a", aspect_ratio="16:9")),  # a time, to Excel
        ({"aspect_ratio": "Auto", "image_size": "auto"}, Prompt("a")),
        ({"image_size": "2k"}, Prompt("a", image_size="2K")),
        ({"seed": "1.0"}, Prompt("a", seed=1)),
        ({"seed": "NaN", "id": "nan"}, Prompt("a")),
    ],
)
def test_values_are_taken_as_people_write_them(
    tmp_path: Path, row: dict[str, str], expected: Prompt
) -> None:
    content = f"prompt,{','.join(row)}\na,{','.join(row.values())}\n"
    assert read(written(tmp_path / "a.csv", content)) == [expected]


def test_choices_are_expanded_by_their_seed(tmp_path: Path) -> None:
    row = '{"prompt": "a {red|{dark|light} blue|} fox, {a|b|c|d|e|f}", "n": 20}\n'
    path = written(tmp_path / "a.jsonl", row)
    assert texts(path) == ["a {red|{dark|light} blue|} fox, {a|b|c|d|e|f}"] * 20
    first = texts(path, Recipe(expand=0))
    assert first == texts(path, Recipe(expand=0))
    assert first != texts(path, Recipe(expand=1))
    assert len(set(first)) > 5
    assert not any("{" in text or "|" in text for text in first)
    later = written(tmp_path / "b.jsonl", '{"prompt": "x"}\n' + row)
    assert texts(later, Recipe(expand=0))[1:] == first  # whatever comes before


def test_prompts_know_their_source_and_variant(tmp_path: Path) -> None:
    path = written(tmp_path / "shots.jsonl", '{"prompt": "a", "n": 2}\n{"prompt": "b"}\n')
    prompts = read(path)
    assert [prompt.source for prompt in prompts] == ["shots"] * 3
    assert [prompt.variant for prompt in prompts] == [1, 2, None]
