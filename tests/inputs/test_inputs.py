"""Prompt files are read exactly, checked whole, and refused in one line."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from genbatch import Prompt
from genbatch.inputs import PromptFiles, Selection, read_prompts
from genbatch.inputs._formats import MAX_LINE, Lines
from support.commands import PARTI

FOX = '{"prompt": "a fox"}\n'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **options: Any) -> list[Prompt]:
    return list(read_prompts([path], **options))


def texts_of(path: Path, **options: Any) -> list[str]:
    return [prompt.text for prompt in read(path, **options)]


# Formats


def test_only_line_feeds_end_the_lines_of_a_text(tmp_path: Path) -> None:
    content = "\ufeffa\u2028b\r\n\n \t\r\nc\x85d\x0b\x0c\x1c \n e\ufeff"
    assert texts_of(write(tmp_path / "a.txt", content)) == [
        "a\u2028b",
        "c\x85d\x0b\x0c\x1c ",
        " e\ufeff",
    ]


def test_jsonl_has_an_object_a_line(tmp_path: Path) -> None:
    content = '{"prompt": "a\\nfox \\ud83e\\udd8a"}' + "\r\n\n \n"
    content += '{"prompt": "an\u2028owl", "Lens": {"mm": [35]}}'
    fox, owl = read(write(tmp_path / "a.jsonl", content))
    assert fox == Prompt("a\nfox 🦊")
    assert owl == Prompt("an\u2028owl", metadata={"Lens": {"mm": [35]}})
    assert read(write(tmp_path / "a.NDJSON", content)) == [fox, owl]


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_header_of_a_csv_tells_its_separator(tmp_path: Path, separator: str) -> None:
    rows = ['"a, b; c"', "note", "prompt"], ["1", '"x;y"', '"red, or ""blue""; both"']
    content = "\n\n" + "".join(separator.join(row) + "\r\n" for row in rows)
    (prompt,) = read(write(tmp_path / "a.csv", content))
    assert prompt == Prompt('red, or "blue"; both', metadata={"a, b; c": "1", "note": "x;y"})


def test_a_csv_of_one_column_is_separated_by_commas(tmp_path: Path) -> None:
    assert texts_of(write(tmp_path / "a.csv", "prompt\na fox; asleep\n")) == ["a fox; asleep"]


def test_a_quoted_field_of_a_csv_may_have_any_line_ends(tmp_path: Path) -> None:
    assert texts_of(write(tmp_path / "a.csv", 'prompt\r\n"a\r\nb\nc\rd"\r\n')) == ["a\r\nb\nc\rd"]


def test_tsv_row_with_quotes_that_are_text_is_literal(tmp_path: Path) -> None:
    content = 'prompt\tnote\n"HI" on a wall\tx\na 5" disk\t"y"\n"a ""red"" fox"\tz\n'
    path = write(tmp_path / "a.tsv", content)
    assert texts_of(path) == ['"HI" on a wall', 'a 5" disk', 'a "red" fox']


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_partiprompts_gives_the_text_of_its_column() -> None:
    lines = PARTI.read_bytes().decode().split("\n")[1:-1]
    prompts = read_prompts([PARTI])
    assert len(prompts) == 1632
    assert [prompt.text for prompt in prompts] == [line.split("\t")[0] for line in lines]


def test_columns_without_a_name_and_cells_beyond_the_last_are_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt,,Lens\na fox,x,35 mm,\nan owl\n")
    fox, owl = read(path)
    assert (fox.metadata, owl.metadata) == ({"Lens": "35 mm"}, {"Lens": ""})


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n \n"])
def test_an_empty_file_has_no_prompts(tmp_path: Path, name: str, content: bytes) -> None:
    assert len(read_prompts([write(tmp_path / name, content)])) == 0


# Files


def test_prompts_are_sized_and_iterable_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\nb\nc\n")
    prompts = read_prompts([path], selection=Selection(limit=2))
    assert len(prompts) == 2
    assert [prompt.text for prompt in prompts] == ["a", "b"]
    assert [prompt.text for prompt in prompts] == ["a", "b"]
    assert len(read_prompts([path], selection=Selection(limit=9))) == 3


def test_several_files_are_one_input(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.txt", "a\nb\n"),
        write(tmp_path / "b.jsonl", FOX),
        write(tmp_path / "c.csv", "prompt\nc\n"),
        write(tmp_path / "a.txt", "a\nb\n"),
    ]
    assert [prompt.text for prompt in read_prompts(paths)] == ["a", "b", "a fox", "c", "a", "b"]
    limited = read_prompts(paths, selection=Selection(limit=3))
    assert [prompt.text for prompt in limited] == ["a", "b", "a fox"]


def test_a_mistake_beyond_the_limit_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FOX + "{}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: no field named prompt"):
        read(path, selection=Selection(limit=1))


def test_what_prompts_ask_for_is_counted_while_they_are_checked(tmp_path: Path) -> None:
    rows = [
        '{"prompt": "a"}',
        '{"prompt": "b", "model": "pro", "n": 3}',
        '{"prompt": "c", "model": "pro", "image_size": "4K", "aspect_ratio": "1:1"}',
        '{"prompt": "d", "model": "lite"}',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    counts = {(None, None, None): 1, ("pro", None, None): 3, ("pro", "1:1", "4K"): 1}
    prompts = read_prompts([path])
    assert isinstance(prompts, PromptFiles)
    assert prompts.asked == {**counts, ("lite", None, None): 1}
    limited = read_prompts([path], selection=Selection(limit=3))
    assert isinstance(limited, PromptFiles)
    assert {asked: count for asked, count in limited.asked.items() if count} == {
        (None, None, None): 1,
        ("pro", None, None): 2,
    }


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_an_endless_line_is_refused_in_flat_memory(tmp_path: Path, name: str) -> None:
    first = FOX.encode() if name == "a.jsonl" else b"prompt\n"
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(first)
        file.truncate(100_000_000)  # sparse: it reads as NULs
    for content in (None, first + b"a" * 20_000_000):
        if content:
            write(path, content)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r":2: line of more than 1,000,000 characters$"):
                read_prompts([path])
            assert tracemalloc.get_traced_memory()[1] < 8 * MAX_LINE
        finally:
            tracemalloc.stop()


def test_a_line_may_be_as_long_as_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "é" * MAX_LINE + "\r\n")
    with pytest.raises(ValueError, match=":1: line of more than"):
        read_prompts([path])
    for rest in ([], ["b"]):
        assert texts_of(write(path, "\n".join(["é" * MAX_LINE, *rest]))) == ["é" * MAX_LINE, *rest]


def test_a_long_file_is_read_lazily(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FOX.encode() * 50_000)
    tracemalloc.start()
    try:
        prompts = read_prompts([path])
        assert sum(1 for _ in prompts) == len(prompts) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 600_000
    finally:
        tracemalloc.stop()


def test_a_file_that_changed_after_its_check_is_refused(tmp_path: Path) -> None:
    prompts = read_prompts([write(tmp_path / "a.txt", "a\n")])
    write(tmp_path / "a.txt", "a\nb\n")
    with pytest.raises(ValueError, match=r"a\.txt: changed since it was checked; run again"):
        list(prompts)


def test_a_file_that_changes_while_it_is_read_ends_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a red fox in the snow\n" * 100_000)
    prompts = iter(read_prompts([path]))
    next(prompts)
    with path.open("ab") as file:
        file.write(b"one more\n")
    with pytest.raises(ValueError, match="changed since it was checked"):
        list(prompts)


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_prompts([tmp_path / "none.txt"])
    for folder in (tmp_path, tmp_path / "a.txt"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(IsADirectoryError):
            read_prompts([folder])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    writer = threading.Thread(target=write, args=(tmp_path / "a.txt", "a\nb\nc\n"))
    writer.start()
    prompts = read_prompts([tmp_path / "a.txt"], selection=Selection(limit=2))
    writer.join()
    for _ in range(2):
        assert [prompt.text for prompt in prompts] == ["a", "b"]


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"a\nb\0\n", ":2: NUL character; save the file as text in UTF-8"),
        ("a.txt", "a\rb\r", ":1: a carriage return inside the line; save the file with line feeds"),
        ("a.csv", "text,n\na,b\n", ":1: no column named prompt; the columns are: text, n; --colum"),
        ("a.csv", "prompt,Prompt\n", ":1: two columns have one name; the columns are: prompt, pro"),
        ("a.csv", "id,prompt\n1,ok\n2,\n", ":3: the prompt is blank; fill it in or remove the row"),
        ("a.csv", "prompt\na cat, a dog\n", ":2: 2 fields where the header has 1; put quotes aro"),
        ("a.csv", 'prompt\nok\n"HI" there\n', ":3: text beside the quotes of a field; double the"),
        ("a.csv", 'prompt;n\n"HI" there;1\n', ":2: text beside the quotes of a field; double the"),
        ("a.csv", 'prompt\n"b\nc"\n"open\nd\n', ":4: a quote is left open; check the quotes"),
        (
            "a.csv",
            'prompt\nok\n"' + 200_000 * "a\n",
            ":3: a field of more than 131,072 characters;",
        ),
        ("a.csv", "prompt,n\ra,1\r", ":1: a carriage return outside quotes; save the file with li"),
        ("a.tsv", 'prompt\nok\n"first\nsecond"\n', ":3: quotes left open; a row is one line here"),
        ("a.tsv", "prompt\tn\ra\t1\r", ":1: a carriage return inside the line; quote the field"),
        (
            "a.jsonl",
            FOX + "a fox\n",
            ":2: not JSON at column 1; each line is one object, such as",
        ),
        (
            "a.jsonl",
            "{\n",
            ":1: not JSON at column 1: it is cut off, or goes on in the next line; ",
        ),
        (
            "a.jsonl",
            "[" * 300,
            ":1: a JSON array; .jsonl has one object per line: jq -c '.[]' FILE",
        ),
        (
            "a.jsonl",
            "[\n{}\n]",
            ":1: a JSON array; .jsonl has one object per line: jq -c '.[]' FILE",
        ),
        (
            "a.jsonl",
            FOX + f"[{FOX.strip()}]",
            ":2: a JSON array; .jsonl has one object per line: jq",
        ),
        (
            "a.jsonl",
            FOX + '"a fox"',
            ":2: JSON, but not an object; each line is one object, such as",
        ),
        (
            "a.jsonl",
            '{"prompt": "a"} {}',
            ":1: not JSON at column 17: something follows the object; ",
        ),
        ("a.jsonl", '{"prompt": "\\ud800"}', ":1: not JSON at column 19: half a surrogate pair"),
        ("a.jsonl", '{"prompt": "a", "x": [1e999]}', ":1: x: a number is too large"),
        ("a.jsonl", f'{{"x": {"9" * 5000}}}', ":1: not JSON at column 4308: a number is too large"),
        ("a.jsonl", f'{{"x": {"[" * 300}', ":1: not JSON at column 207: nested too deeply"),
        ("a.jsonl", "{}", ":1: no field named prompt; the fields are: none; --column names yours"),
        ("a.jsonl", '{"prompt": "a", "prompt": "b"}', ":1: two fields have one name; the fields a"),
        ("a.jsonl", '{"prompt":"a", "x" :1, "x":2}', ":1: two fields have one name; the fields ar"),
        ("a.jsonl", '{"prompt":"a","x"\r:1,"x":2}', ":1: two fields have one name; the fields are"),
        ("a.jsonl", '{"prompt":"a","x"\t:1,"x":2}', ":1: two fields have one name; the fields are"),
        ("a.jsonl", '{"x": "16:9", "\\u0078": "1:1"}', ":1: two fields have one name; the fields "),
        ("a.jsonl", '{"x": {"y": 1, "y": 2}}', ":1: two fields have one name; the fields are: y, "),
        ("a.jsonl", '{"prompt": "a", "Prompt": "b"}', ":1: two fields have one name; the fields a"),
        ("a.jsonl", '{"prompt": " "}', ":1: the prompt is blank; fill it in or remove the row"),
        ("a.jsonl", '{"prompt": 1.5}', ":1: prompt: 1.5 is not text"),
        ("a.jsonl", '{"prompt": null}', ":1: prompt: null is not text"),
        ("a.jsonl", '{"prompt": ["a"]}', ":1: prompt: a list is not text"),
        ("a.jsonl", '{"prompt": "a\\u0000"}', ":1: prompt: a NUL character is in it; take it out"),
        (
            "a.yaml",
            "a",
            ": unknown extension '.yaml'; supported are .txt, .jsonl, .ndjson, .json, ",
        ),
        ("a.xlsx", "a", ": looks like text, not like xlsx; --format says what it is"),
        ("a.md", "a", ": no list items and no table with prompts in it; --md blocks or --format "),
    ],
)
def test_a_mistake_is_one_error_naming_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read_prompts([path])
    assert str(caught.value).startswith(f"{path}{message}")


def test_names_in_an_error_are_few_short_and_printable(tmp_path: Path) -> None:
    names = ['"a\nb"', "c" * 100, *(f"column {number}" for number in range(50))]
    path = write(tmp_path / "a.csv", ",".join(names))
    with pytest.raises(
        ValueError, match=r"the columns are: 'a\\nb', c{59}…, column 0, column 1, "
    ) as caught:
        read_prompts([path])
    assert str(caught.value).endswith(", column 9, …; --column names yours")


# Encodings


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "utf-8-sig"),
        ("UTF8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("shift_jis", "shift_jis"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_any_encoding_of_text_is_read(
    tmp_path: Path, name: str, encoding: str, written: str
) -> None:
    text = "東京の狐" if encoding == "shift_jis" else "ein Füchslein"
    content = {
        "a.txt": f"{text}\r\n",
        "a.csv": f"prompt\r\n{text}\r\n",
        "a.jsonl": f'{{"prompt": "{text}"}}',
    }
    long = content[name] + 40_000 * "\n"  # more than a block
    path = write(tmp_path / name, long.encode(written))
    assert texts_of(path, encoding=encoding) == [text]


def test_a_mark_is_dropped_at_the_very_start_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffa\n\ufeffb".encode("utf-16-le"))
    for encoding in ("utf-16", "utf-16-le"):
        assert texts_of(path, encoding=encoding) == ["a", "\ufeffb"]
    blocks = [b"\xef", b"\xbb", b"\xbf", b"a", "\ufeff".encode(), b"b\n", b""]
    lines = Lines("a", "utf-8")
    assert [line for block in blocks for line in lines.feed(block)] == ["a\ufeffb"]


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"ok\n\nb\xffd\n", "utf-8", ":3: byte 0xff is not UTF-8; "),
        (b"\xef\xbb\xbfb\xffd\n", "utf-8", ":1: byte 0xff is not UTF-8; "),
        (b"a\nb\nc\xc3", "utf-8", ":3: byte 0xc3 is not UTF-8; "),
        (b"a\n" * 40_000 + b"\xe9t\xe9", "utf-8", ":40001: byte 0xe9 is not UTF-8; "),
        ("a fox".encode("utf-16"), "cp1252", ":1: is UTF-16; save it as UTF-8 or give --encoding "),
        ("a".encode("utf-32"), "cp1252", ":1: is UTF-32; save it as UTF-8 or give --encoding utf"),
        (b"\xef\xbb\xbfa", "cp1252", ":1: is UTF-8; save it as UTF-8 or give --encoding utf-8"),
        (b"a fox", "utf-16", ":1: no byte order mark; give --encoding utf-16-le or -be"),
        (b"a\0 \0f\0", "utf-8", ":1: NUL character; save the file as text in UTF-8"),
        ("a\nb".encode("utf-16") + b"c", "utf-16", ":2: byte 0x63 is not UTF-16; "),
        (b"\xff\xfea\0\n\0\0\xd8a\0", "utf-16", ":2: byte 0x00 is not UTF-16; "),
        (b"a\n\x81\n", "cp1252", ":2: byte 0x81 is not CP1252; "),
        (b"a\n\x81\n", "shift_jis", ":2: byte 0x81 is not SHIFT_JIS; "),
        (b"a\nb\\ud800\n", "unicode_escape", ":2: half a surrogate pair; save the file as UTF-8"),
        (b"a\n", "undefined", ":1: not UNDEFINED; save the file as UTF-8 or give its encodi"),
    ],
)
def test_what_is_not_text_is_refused_with_its_line(
    tmp_path: Path, content: bytes, encoding: str, message: str
) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read(path, encoding=encoding)
    assert str(caught.value).startswith(f"{path}{message}")


def test_who_has_no_utf_8_is_told_of_encodings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Füchse\n".encode("cp1252"))
    hint = "; save the file as UTF-8 or give its encoding, such as --encoding cp1252"
    with pytest.raises(ValueError, match=f"{hint}$"):
        read(path)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "rot13", "a\0b", ""])
def test_what_is_no_encoding_of_text_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(ValueError, match=r"unknown text encoding: .+; give one such"):
        read(write(tmp_path / "a.txt", "a"), encoding=encoding)
