"""Files as people have them, written by the programs that write them, and run for real.

Each is read right, so that the prompts that arrive are those that were meant, or refused before any
call by a message that says what to do.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from genbatch.testing import FakeOpenAI
from support.commands import CANARY, Genbatch, Serve, images

TEXTS = [f"a paper heron over canal {number}, seen from the side" for number in range(12)]
GERMAN = [f"Füchse am Kanal {number}; „leise“" for number in range(12)]
Write = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A file, and what comes of it.

    Attributes:
        name: Of the file.
        write: Writes it.
        expected: The prompts that arrive, or a part of the message without a call.
        options: Of the run.
    """

    name: str
    write: Write
    expected: Sequence[str] | str
    options: Sequence[str] = ()

    @property
    def id(self) -> str:
        return " ".join([self.name, *self.options]) or self.name


def file(name: str, content: str | bytes, encoding: str = "utf-8") -> Write:
    data = content if isinstance(content, bytes) else content.encode(encoding)
    return partial(Path(name).write_bytes, data)


def rows(texts: Sequence[str], separator: str, header: str, end: str = "\r\n") -> str:
    lines = [f'"{text}"{separator}{number}{end}' for number, text in enumerate(texts)]
    return header + end + "".join(lines)


def book(name: str, **sheets: Sequence[Sequence[Any]]) -> Write:
    """Return what writes a workbook with openpyxl, which computes no formula."""

    def write() -> None:
        workbook = openpyxl.Workbook()
        workbook.remove(workbook.active)
        for title, cells in sheets.items():
            sheet = workbook.create_sheet(title)
            sheet.sheet_state = "hidden" if title == "Hidden" else "visible"
            for row in cells:
                sheet.append(row)
            for cell in sheet._cells.values():  # as Excel marks what failed
                cell.data_type = "e" if str(cell.value).startswith("#") else cell.data_type
        workbook.save(name)

    return write


def frame(name: str, write: Callable[[pd.DataFrame], object]) -> Case:
    def written() -> None:
        write(pd.DataFrame({"prompt": TEXTS, "seed": [1.0, None] * 6, "aspect_ratio": "16:9"}))

    return Case(name, written, TEXTS)


NUMBERED = [[text, 100 + number] for number, text in enumerate(TEXTS)]
DATED = [[text, number, date(2026, 1, 1)] for number, text in enumerate(TEXTS)]
UNSAVED = "is a formula whose value was not saved: open the file in a spreadsheet, and save it"
HERO = {"hero": {"prompt": "a knight"}, "villain": {"prompt": "a dragon", "seed": 3}}

CASES = [
    # What Excel exports, byte by byte
    Case("a.csv", file("a.csv", rows(GERMAN, ";", "Prompt;Menge"), "cp1252"), "--encoding cp1252"),
    Case(
        "b.csv",
        file("b.csv", rows(GERMAN, ";", "Prompt;Menge"), "cp1252"),
        GERMAN,
        ("--encoding", "cp1252"),
    ),
    Case("c.csv", file("c.csv", rows(GERMAN, ";", "prompt;menge"), "utf-8-sig"), GERMAN),
    Case("d.txt", file("d.txt", rows(GERMAN, "\t", "prompt\tid"), "utf-16"), GERMAN),
    Case("e.tsv", file("e.tsv", rows(GERMAN, "\t", "prompt\tid"), "utf-16"), GERMAN),
    Case("f.csv", file("f.csv", "sep=;\r\n" + rows(GERMAN, ";", "prompt;menge")), GERMAN),
    # The same line as other programs have it
    Case("g.csv", file("g.csv", '"sep=;"\r\n' + rows(GERMAN, ";", "prompt;menge")), GERMAN),
    Case("h.csv", file("h.csv", "sep=;;;\r\n" + rows(GERMAN, ";", "prompt;menge")), GERMAN),
    Case(
        "i.csv",
        file("i.csv", codecs.BOM_UTF8 + b"sep=\t \n" + rows(TEXTS, "\t", "prompt\tid").encode()),
        TEXTS,
    ),
    # Workbooks
    Case(
        "a.xlsx",
        book("a.xlsx", S=[["prompt", "id", "when"], *DATED, [], DATED[0]]),
        [*TEXTS, TEXTS[0]],
    ),
    Case("b.xlsx", book("b.xlsx", S=[["Spring shots"], [], ["prompt", "id"], *NUMBERED]), TEXTS),
    Case(
        "c.xlsx",
        book("c.xlsx", S=[["Prompts"], ["prompt", "id"], *NUMBERED]),
        "looks like a heading: prompt",
    ),
    Case(
        "d.xlsx", book("d.xlsx", Hidden=[["prompt"], ["no"]], S=[["prompt"], ["a fox"]]), ["a fox"]
    ),
    Case(
        "e.xlsx",
        book("e.xlsx", ReadMe=[["How to fill in the other sheet"]], Shots=[["prompt"], ["a fox"]]),
        "--sheet reads another: Shots",
    ),
    Case(
        "f.xlsx",
        book("f.xlsx", S=[["prompt", "of"], ['="a "&B2', "fox"]]),
        f"f.xlsx:2: A2 {UNSAVED}",
    ),
    Case(
        "g.xlsx",
        book("g.xlsx", S=[["prompt", "seed"], ["a fox", "=1+1"]]),
        f"g.xlsx:2: B2 {UNSAVED}",
    ),
    Case(
        "h.xlsx",
        book("h.xlsx", S=[["prompt", "note"], ["#REF!", 1], ["a fox", "#N/A"]]),
        "h.xlsx:2: prompt: #REF! is an error of the spreadsheet; mend its formula",
    ),
    Case("i.xlsx", book("i.xlsx", S=[["prompt", "note"], ["a fox", "#N/A"]]), ["a fox"]),
    Case(
        "j.xlsx",
        book("j.xlsx", S=[["prompt", "seed"], ["a fox", "#N/A"]]),
        "seed: #N/A is an error",
    ),
    # What pandas writes
    frame("a.json", lambda table: table.to_json("a.json", orient="index")),
    frame("b.json", lambda table: table.to_json("b.json", orient="split")),
    frame("c.json", lambda table: table.to_json("c.json", orient="table")),
    frame("k.xlsx", lambda table: table.to_excel("k.xlsx")),
    frame("j.csv", lambda table: table.to_csv("j.csv", sep=";", decimal=",")),
    frame("a.parquet", lambda table: table.set_index("prompt").to_parquet("a.parquet")),
    # JSON by names
    Case("d.json", file("d.json", json.dumps(HERO, indent=1)), ["a knight", "a dragon"]),
    Case(
        "e.json",
        file("e.json", '{"hero": "a knight", "villain": "a dragon"}'),
        "no field named prompt",
    ),
    # Tables with something above them, or nothing
    Case("k.csv", file("k.csv", "Shots of spring;\n;\n" + rows(TEXTS, ";", "prompt;id")), TEXTS),
    Case(
        "l.csv",
        file("l.csv", rows(TEXTS, ",", "prompt,id")),
        "looks like a heading: prompt",
        ("--no-header", "--column", "1"),
    ),
    Case(
        "m.csv",
        file("m.csv", "a fox,1\nan owl,2\n"),
        "first row looks like data: --no-header --column 1",
    ),
    # Text that is none, or something else
    Case(
        "a.txt",
        file("a.txt", "Shots of spring\nprompt;id\na fox;1\n"),
        "a.txt:2: looks like a row of a table: prompt;id",
    ),
    Case(
        "b.txt",
        file("b.txt", "a fox,1\nan owl,2\n"),
        "looks like a row of a table: a fox,1 (2 such lines)",
    ),
    Case(
        "c.txt",
        file("c.txt", "\n<!DOCTYPE html>\n<p>a fox</p>\n"),
        "c.txt: byte 1: looks like a web page",
    ),
    Case(
        "e.txt",
        file("e.txt", "{\\rtf1\\ansi a fox}\n"),
        "e.txt: byte 1: looks like an RTF document",
    ),
    # Settings under other names
    Case(
        "n.csv",
        file("n.csv", "prompt,num_images_per_prompt\na fox,4\n"),
        "--map n=num_images_per_prompt",
    ),
    Case(
        "o.csv",
        file("o.csv", "prompt,system\na fox,Draw in ink\n"),
        "--system is of all rows of a run",
    ),
    Case(
        "p.csv",
        file("p.csv", "prompt,guidance_scale\na fox,7\n"),
        "--literal guidance_scale keeps it",
    ),
]


def arrived(fake: Any) -> Counter[str]:
    """Return the prompts that a fake service was asked for, alone or in jobs."""
    bodies = [call.body for call in fake.calls]
    return Counter(
        body["prompt"] if "prompt" in body else body["contents"][-1]["parts"][-1]["text"]
        for body in bodies
    )


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_file_is_read_right_or_refused_before_any_call(
    genbatch: Genbatch, serve: Serve, case: Case
) -> None:
    fake = serve()
    case.write()
    done = genbatch("run", case.name, "--yes", "--no-look", "-k", "12", *case.options)
    if isinstance(case.expected, str):
        assert (done.returncode, fake.stats.calls) == (2, 0)
        assert case.expected in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert arrived(fake) == Counter(case.expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
@pytest.mark.parametrize("how", ["batch", "openai", "redo"])
def test_it_is_so_in_jobs_of_another_service_and_for_further_takes(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch, case: Case, how: str
) -> None:
    with ExitStack() as stack:
        fake: Any = serve()
        command = ["run", case.name, "--yes", "-k", "12", *case.options]
        if how == "openai":
            fake = stack.enter_context(FakeOpenAI(image_size=16))
            monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
            monkeypatch.setenv("OPENAI_API_KEY", CANARY)
            command += ["--model", "gpt-image-2"]
        elif how == "batch":
            command += ["--via", "batch"]
        case.write()
        done = genbatch(*command)
        if how == "openai" and "takes no seed" in done.stderr:
            assert (done.returncode, fake.stats.calls) == (2, 0)
            return
        is_refused = isinstance(case.expected, str)
        assert done.returncode == (2 if is_refused else 0), done.stderr
        if how == "batch":
            assert fake.stats.jobs == (0 if is_refused else 1)
        if is_refused:
            assert case.expected in done.stderr
            assert fake.stats.calls == 0
            return
        expected = Counter(case.expected)
        if how == "redo":
            last = expected.total() - 1
            assert genbatch("redo", "genbatch-out", f"0-{last}", "--yes").returncode == 0
            expected += expected
        if how != "batch":
            assert arrived(fake) == expected
        assert len(images("genbatch-out")) == expected.total()
        calls = fake.stats.calls
        assert genbatch(*command).returncode == 0
        assert fake.stats.calls == calls


def test_seeds_are_refused_before_any_call_where_the_service_takes_none(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeOpenAI(image_size=16) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        file("a.csv", "prompt,seed\na fox,\nan owl,7\na bee,8\n")()
        done = genbatch("run", "a.csv", "--model", "gpt-image-2")
        assert (done.returncode, fake.stats.calls) == (2, 0)
        assert done.stderr == (
            "genbatch: a.csv:3: gpt-image-2 takes no seed, got 7\n"
            "a.csv:4: gpt-image-2 takes no seed, got 8\n2 mistakes\n"
        )
        file("a.txt", "a fox\n")()
        for more in (["--seed", "7"], ["--matrix", "seed=7,8"]):
            done = genbatch("run", "a.txt", "--model", "gpt-image-2", *more)
            assert (done.returncode, fake.stats.calls) == (2, 0)
            assert "gpt-image-2 takes no " in done.stderr


@pytest.mark.parametrize(
    ("images", "model", "message"),
    [
        ("notes.txt", "flash", "images: notes.txt is not a PNG, JPEG, WebP, HEIC or HEIF image"),
        ("notes.txt", "gpt-image-2", "images: notes.txt is not a PNG"),
        ("gs://b/fox", "flash", "gs://b/fox: its name must end in .png, .jpg, .webp"),
        (
            "gs://b/fox.png",
            "gpt-image-2",
            "OpenAI has no input image 'gs://b/fox.png': give a file",
        ),
        ("files/abc", "gpt-image-2", "OpenAI has no input image 'files/abc': give a file"),
        (";".join(17 * ["fox.png"]), "gpt-image-2", "at most 16 input images, got 17"),
    ],
)
def test_images_that_cannot_be_sent_are_refused_before_any_call(
    genbatch: Genbatch,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    images: str,
    model: str,
    message: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    fake = serve()
    file("notes.txt", "a fox\n")()
    file("fox.png", b"\x89PNG\r\n\x1a\n")()
    file("a.csv", f"prompt,images\na fox,\nan owl,{images}\n")()
    done = genbatch("run", "a.csv", "--model", model)
    assert (done.returncode, fake.stats.calls) == (2, 0)
    assert f"a.csv:3: {message}" in done.stderr


def test_rows_of_a_workbook_are_numbered_as_it_shows_them(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    book("a.xlsx", S=[[], [], [], ["prompt", "seed"], [], ["a fox", "x"]])()
    done = genbatch("run", "a.xlsx")
    assert done.stderr == 'genbatch: a.xlsx:6: seed: "x" is not a whole number\n'


def test_a_title_above_a_header_is_told(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    book("a.xlsx", S=[["Spring"], ["prompt"], ["a fox"]])()
    done = genbatch("run", "a.xlsx", "--dry-run")
    assert "a.xlsx: the header is row 2; what is above it is ignored" in done.stderr
    assert 'Request 1: gemini-nano-banana-2.1 · 1K · "a fox"' in done.stdout


def test_names_of_objects_are_ids_and_numbers_of_rows_are_not(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve()
    file("a.json", json.dumps(HERO))()
    pd.DataFrame({"prompt": ["an owl"]}).to_json("b.json", orient="index")
    assert genbatch("run", "a.json", "b.json").returncode == 0
    found = [json.loads(line)["id"] for line in genbatch("export").stdout.splitlines()]
    assert found == ["hero", "villain", None]


def test_a_key_inside_an_object_is_not_kept(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    row = {"prompt": "a fox", "auth": {"by": [{"token": "ghp_" + "a1" * 18}]}, "tags": ["x"]}
    file("a.jsonl", json.dumps(row))()
    done = genbatch("run", "a.jsonl")
    assert 'the column "auth" looks like a secret: it is not kept' in done.stderr
    (line,) = genbatch("export").stdout.splitlines()
    assert json.loads(line)["metadata"] == {"tags": ["x"]}
    assert not [
        path
        for path in Path().rglob("*")
        if path.is_file() and path.name != "a.jsonl" and b"ghp_" in path.read_bytes()
    ]


def test_a_price_that_nobody_knows_is_asked_about(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("a.txt").write_text("\n".join(f"a fox {number}" for number in range(41)))
    command = ["run", "a.txt", "--model", "gemini-of-tomorrow"]
    done = genbatch(*command)
    assert (done.returncode, fake.stats.calls) == (2, 0)
    assert done.stderr.splitlines()[-1] == (
        "genbatch: the price of 41 images is not known (--price gives it), and nobody can be "
        "asked: add --yes to pay it, or a --budget"
    )
    assert genbatch(*command, "--limit", "40").returncode == 0
    assert genbatch(*command, "--price", "0.02").returncode == 0
    assert fake.stats.calls == 41
    again = genbatch("redo", "genbatch-out", "0-40")
    assert (again.returncode, fake.stats.calls) == (2, 41)
    assert "the price of 41 images is not known" in again.stderr
