"""Prompt files are read exactly, checked whole, and refused in one line."""

from __future__ import annotations

import csv
import io
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import PARTI
from genbatch import _inputs
from genbatch._inputs import read_prompts

# Everything a UTF-8 file can hold but NUL, with what readers trip over made likely.
TRAPS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\ufeff\"\t,'\r\n "
characters = st.sampled_from(TRAPS) | st.characters(codec="utf-8", exclude_characters="\0")
texts = st.text(characters, min_size=1).filter(str.strip)
one_line_texts = texts.map(lambda text: text.replace("\n", " ").rstrip("\r")).filter(str.strip)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts_of(path: Path) -> list[str]:
    return [prompt.text for prompt in read_prompts(path)]


def written_by_csv(rows: list[list[str]], dialect: str) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, dialect).writerows(rows)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@given(prompts=st.lists(one_line_texts), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_txt_gives_back_every_prompt(folder: Path, prompts: list[str], end: str) -> None:
    # A mark at the very start is the file's byte order mark, not text.
    content = "\ufeff" + "".join(prompt + end for prompt in prompts)
    assert texts_of(write(folder / "a.txt", content)) == prompts


@given(prompts=st.lists(texts), notes=st.lists(st.text(characters)))
def test_csv_gives_back_every_prompt(folder: Path, prompts: list[str], notes: list[str]) -> None:
    notes = [*notes, *([""] * len(prompts))][: len(prompts)]
    rows = [["note", "Prompt"], *(map(list, zip(notes, prompts, strict=True)))]
    read = list(read_prompts(write(folder / "a.csv", written_by_csv(rows, "excel"))))
    assert [prompt.text for prompt in read] == prompts
    assert [prompt.metadata for prompt in read] == [{"note": note} for note in notes]


@given(prompts=st.lists(one_line_texts))
def test_tsv_of_a_spreadsheet_gives_back_every_prompt(folder: Path, prompts: list[str]) -> None:
    rows = [["Prompt", "note"], *([prompt, ""] for prompt in prompts)]
    content = written_by_csv(rows, "excel-tab")
    assert texts_of(write(folder / "a.tsv", content)) == prompts


@given(prompts=st.lists(one_line_texts.filter(lambda text: not {"\t", '"'} & {*text})))
def test_tsv_without_quotes_gives_back_every_prompt(folder: Path, prompts: list[str]) -> None:
    content = "PROMPT\tnote\n" + "".join(f"{prompt}\tx\n" for prompt in prompts)
    assert texts_of(write(folder / "a.tsv", content)) == prompts


def test_tsv_row_with_quotes_that_are_text_is_literal(tmp_path: Path) -> None:
    content = 'prompt\tnote\n"HI" on a wall\tx\na 5" disk\t"y"\n"a ""red"" fox"\tz\n'
    path = write(tmp_path / "a.tsv", content)
    assert texts_of(path) == ['"HI" on a wall', 'a 5" disk', 'a "red" fox']


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
def test_partiprompts_gives_the_text_of_its_column() -> None:
    lines = PARTI.read_bytes().decode().split("\n")[1:-1]
    prompts = read_prompts(PARTI)
    assert len(prompts) == 1632
    assert [prompt.text for prompt in prompts] == [line.split("\t")[0] for line in lines]


def test_known_columns_set_the_prompt_and_others_are_metadata(tmp_path: Path) -> None:
    header = "ID,Prompt,Filename,MODEL,Aspect_Ratio,image_size,Seed,Lens,\n"
    path = write(tmp_path / "a.csv", header + "7,a fox,fox,pro,16:9,2K,-3,35 mm,\n,an owl,,,,,,\n")
    fox, owl = read_prompts(path)
    assert (fox.id, fox.filename, fox.model) == ("7", "fox", "pro")
    assert (fox.aspect_ratio, fox.image_size, fox.seed) == ("16:9", "2K", -3)
    assert fox.metadata == {"Lens": "35 mm"}
    assert (owl.id, owl.seed, owl.metadata) == (None, None, {"Lens": ""})


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
def test_an_empty_file_has_no_prompts(tmp_path: Path, name: str) -> None:
    assert len(read_prompts(write(tmp_path / name, b"\xef\xbb\xbf\r\n \n"))) == 0


def test_prompts_are_sized_and_iterable_again(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path / "a.txt", "a\nb\nc\n"), limit=2)
    assert len(prompts) == 2
    assert [prompt.text for prompt in prompts] == ["a", "b"]
    assert [prompt.text for prompt in prompts] == ["a", "b"]
    assert len(read_prompts(tmp_path / "a.txt", limit=9)) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\n\nb\xffd\n", ":3: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a.txt", b"\xef\xbb\xbfb\xffd\n", ":1: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a.txt", "a fox".encode("utf-16"), ":1: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a.txt", b"a\nb\0\n", ":2: NUL character; save the file as UTF-8 text"),
        ("a.csv", "text,n\na,b\n", ":1: no column named prompt; the columns are: text, n"),
        ("a.csv", "prompt,Prompt\n", ":1: two columns have one name; the columns are: prompt, pro"),
        ("a.csv", "id,prompt\n1,ok\n2,\n", ":3: the prompt is blank; fill it in or remove the row"),
        ("a.csv", "prompt\na cat, a dog\n", ":2: 2 fields where the header has 1; put quotes aro"),
        ("a.csv", "prompt,seed\na,1\nb,x1\n", ":3: seed 'x1' is not a whole number"),
        ("a.csv", 'prompt\nok\n"HI" there\n', ":3: ',' expected after '\"'; check the quotes"),
        ("a.csv", 'prompt\n"b\nc"\n"open\nd\n', ":4: unexpected end of data; check the quotes"),
        ("a.tsv", 'prompt\nok\n"first\nsecond"\n', ":3: quotes left open; a row is one line here"),
        ("a.md", "a", ": unknown extension '.md'; supported are .txt (a prompt a line), .tsv or"),
        ("prompts", "a", ": no extension; supported are .txt (a prompt a line), .tsv or .csv"),
    ],
)
def test_a_mistake_is_one_error_naming_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read_prompts(path, limit=1)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
def test_an_endless_line_is_refused_in_flat_memory(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b"prompt\n" + b"a" * 20_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r":2: line of more than 1,000,000 bytes$"):
            read_prompts(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * _inputs.MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


def test_a_long_file_is_read_lazily(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a red fox in the snow\n" * 200_000)
    tracemalloc.start()
    try:
        prompts = read_prompts(path)
        assert sum(1 for _ in prompts) == len(prompts) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_a_file_that_changed_after_its_check_is_refused(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path / "a.txt", "a\n"))
    write(tmp_path / "a.txt", "a\nb\n")
    with pytest.raises(ValueError, match="changed since it was checked; run again"):
        list(prompts)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "none.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    writer = threading.Thread(target=write, args=(tmp_path / "a.txt", "a\nb\n"))
    writer.start()
    prompts = read_prompts(tmp_path / "a.txt")
    writer.join()
    assert [prompt.text for prompt in prompts] == ["a", "b"]


def test_standard_input_has_a_prompt_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO("\ufeffa\u2028b\r\n\r\nc\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    assert [prompt.text for prompt in read_prompts("-")] == ["a\u2028b", "c"]


def test_standard_input_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    with pytest.raises(ValueError, match=r"^stdin:2: byte 0xff is not UTF-8"):
        read_prompts("-")


def test_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="stdin: is closed"):
        read_prompts("-")
