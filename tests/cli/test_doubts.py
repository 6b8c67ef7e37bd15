"""Doubts about an input: told, asked as one question, answered for good, not paid by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genbatch.testing import FakeGemini
from support.commands import Genbatch, Serve, images
from support.terminals import Terminal, terminal

PNG = b"\x89PNG\r\n\x1a\n"
QUESTION = "s, p or q?"


def texts(fake: FakeGemini) -> list[str]:
    return sorted(call.body["contents"][0]["parts"][0]["text"] for call in fake.calls)


def write_doubtful() -> None:
    Path("list.txt").write_text("# foxes\na red fox\n---\n1. an owl\n# cats\n")


def answered(answer: str, *options: str) -> tuple[int, str]:
    """Run on a terminal, answer the question, and return the exit code and what was shown."""
    with terminal("run", "list.txt", *options, columns=200) as window:
        window.until(lambda lines: any(QUESTION in line for line in lines))
        window.type(f"{answer}\n")
        code = window.end()
        return code, " ".join(window.lines)


# Without a terminal


def test_a_doubt_that_nobody_answers_ends_the_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_doubtful()
    for options in ([], ["--yes"], ["--yes", "--quiet"], ["--json", "--yes"]):
        done = genbatch("run", "list.txt", *options)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            "list.txt:1: looks like a comment: # foxes (2 such lines);"
            " --skip comments leaves such lines out",
            "list.txt:3: looks like a separator: ---; --skip separators leaves such lines out,"
            " --separator '---' makes one prompt of the lines between two",
            "list.txt:4: begins with a number or a bullet: 1. an owl;"
            " --skip numbering leaves those out, not the lines",
            "genbatch: 3 doubts about the input: nothing was paid; say what you mean by"
            " the options named, or take everything as it is with --literal all",
        ]
    assert fake.stats.calls == 0
    assert not Path("genbatch-out").exists()


def test_options_answer_doubts(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_doubtful()
    done = genbatch("run", "list.txt", "--skip", "comments,separators", "--skip", "numbering")
    assert done.returncode == 0
    assert texts(fake) == ["a red fox", "an owl"]
    assert "Left out: 2 comments, 1 separator, numbering of 1 line" in done.stderr
    assert genbatch("run", "list.txt", "--literal", "all", "-o", "all").returncode == 0
    assert len(images("all")) == 5
    refused = genbatch("run", "list.txt", "--skip", "foxes")
    assert (refused.returncode, "'foxes' is not one of comments, " in refused.stderr) == (2, True)


def test_a_demo_and_a_dry_run_only_tell(genbatch: Genbatch) -> None:
    write_doubtful()
    planned = genbatch("run", "list.txt", "--dry-run")
    assert planned.returncode == 0
    assert "Doubt: list.txt:1: looks like a comment: # foxes (2 such lines)" in planned.stdout
    assert "is refused where nobody can be asked" in planned.stdout
    row = json.loads(genbatch("run", "list.txt", "--dry-run", "--json").stdout)
    assert [each["kind"] for each in row["doubts"]] == ["comments", "separators", "numbering"]
    demo = genbatch("run", "list.txt", "--demo")
    assert (demo.returncode, len(images("genbatch-out"))) == (0, 5)
    assert "Doubt: list.txt:3: looks like a separator: ---" in demo.stderr


def test_a_doubtful_line_of_standard_input_is_not_paid(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    done = genbatch("run", "-", input="a fox\n# foxes\nan owl\n")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "genbatch: stopped: stdin:2: looks like a comment: # foxes;"
        " --skip comments leaves such lines out; --literal comments takes it as it is"
    )
    assert "# foxes" not in texts(fake)
    done = genbatch("run", "-", "--skip", "comments", "-o", "b", input="a fox\n# foxes\nan owl\n")
    assert (done.returncode, len(images("b"))) == (0, 2)
    done = genbatch("run", "-", "-o", "c", input='{"prompt": "a fox", "ratio": "16:9"}\n')
    assert (done.returncode, len(images("c"))) == (2, 0)
    assert "--map aspect_ratio=ratio reads it as aspect_ratio" in done.stderr


# On a terminal


def test_skipping_is_remembered(serve: Serve) -> None:
    fake = serve()
    write_doubtful()
    code, shown = answered("s")
    assert code == 0
    assert "s skip those lines (--skip comments --skip separators --skip numbering)" in " ".join(
        shown.split()
    )
    assert texts(fake) == ["a red fox", "an owl"]
    with terminal("run", "list.txt") as window:
        assert window.end() == 0
        assert not any(QUESTION in line for line in window.lines)
    assert fake.stats.calls == 2


def test_files_of_a_directory_have_answers_of_their_own(serve: Serve) -> None:
    fake = serve()
    Path("shots").mkdir()
    for number, text in enumerate(("1. a fox", "an owl", "1. a cat")):
        Path("shots", f"{number}.txt").write_text(text)
    with terminal("run", "shots", columns=200) as window:
        window.until(lambda lines: any(QUESTION in line for line in lines))
        window.type("s\n")
        assert window.end() == 0
    assert texts(fake) == ["a cat", "a fox", "an owl"]


def test_paying_is_remembered_for_as_many_lines(serve: Serve, genbatch: Genbatch) -> None:
    fake = serve()
    write_doubtful()
    assert answered("pay")[0] == 0
    assert fake.stats.images == 5
    assert genbatch("run", "list.txt").returncode == 0
    Path("list.txt").write_text(Path("list.txt").read_text() + "# dogs\n")
    done = genbatch("run", "list.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("list.txt:1: looks like a comment: # foxes (3 such lines)")
    assert "1 doubt about the input" in done.stderr
    Path("other.txt").write_text("a fox\n---\n")
    assert genbatch("run", "other.txt").returncode == 2, "of one file only"
    assert fake.stats.images == 5


def test_quitting_pays_nothing(serve: Serve) -> None:
    fake = serve()
    write_doubtful()
    code, shown = answered("x\nq")
    assert (code, fake.stats.calls) == (0, 0)
    assert "Nothing was made." in shown
    assert not Path("genbatch-out").exists()


def test_the_price_is_another_question(serve: Serve) -> None:
    fake = serve()
    Path("list.txt").write_text("# foxes\n" + "".join(f"a fox, number {n}\n" for n in range(400)))
    with terminal("run", "list.txt", columns=200) as window:
        window.until(lambda lines: any(QUESTION in line for line in lines))
        window.type("s\n")
        window.until(lambda lines: any("Continue?" in line for line in lines))
        window.type("n\n")
        assert window.end() == 0
    assert fake.stats.calls == 0


def test_an_answer_and_a_fresh_folder(serve: Serve) -> None:
    serve()
    write_doubtful()
    assert answered("s", "--fresh")[0] == 0
    assert len(images("genbatch-out")) == 2


def ask_about_columns(window: Terminal, answer: str) -> int:
    window.until(lambda lines: any(QUESTION in line for line in lines))
    window.type(f"{answer}\n")
    return window.end()


def test_columns_are_used_when_asked(serve: Serve, genbatch: Genbatch) -> None:
    fake = serve()
    Path("refs").mkdir()
    Path("refs/hero.png").write_bytes(PNG)
    Path("edits.csv").write_text("prompt,image,count\nadd a hat,refs/hero.png,3\n")
    refused = genbatch("run", "edits.csv")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[:2] == [
        'edits.csv:2: the column "image" holds paths of images: "refs/hero.png" (1 row);'
        " --map images=image reads it as images",
        'edits.csv:2: the column "count" is no setting: "3" (1 row); --map n=count reads it as n',
    ]
    with terminal("run", "edits.csv", columns=200) as window:
        assert ask_about_columns(window, "s") == 0
    assert fake.stats.images == 3
    parts: list[dict[str, Any]] = fake.calls[0].body["contents"][0]["parts"]
    assert any("inlineData" in part for part in parts)
    given = genbatch("run", "edits.csv", "--map", "images=image,n=count", "-o", "b")
    assert (given.returncode, len(images("b"))) == (0, 3)
    assert "settings: count as n · input images: image as images" in given.stderr


def test_a_map_of_no_column_is_refused(genbatch: Genbatch) -> None:
    Path("a.csv").write_text("prompt,ratio\na fox,16:9\n")
    done = genbatch("run", "a.csv", "--demo", "--map", "aspect_ratio=rato")
    assert done.returncode == 2
    assert done.stderr == "genbatch: --map: no column named rato; the columns are: prompt, ratio\n"


@pytest.mark.parametrize(
    ("content", "option", "expected"),
    [
        (
            "A knight in silver\nstands on a hill.\n\nA fox asleep\nin fresh snow.\n",
            "--separator",
            ["A fox asleep\nin fresh snow.", "A knight in silver\nstands on a hill."],
        ),
        ("a {red|red} fox\nan owl\n", "--expand", ["a red fox", "an owl"]),
    ],
)
def test_a_file_is_read_as_the_answer_says(
    serve: Serve, genbatch: Genbatch, content: str, option: str, expected: list[str]
) -> None:
    fake = serve()
    Path("list.txt").write_text(content)
    code, shown = answered("s")
    assert code == 0
    assert f"read it so ({option})" in " ".join(shown.split())
    assert texts(fake) == expected
    again = genbatch("run", "list.txt")
    assert (again.returncode, fake.stats.calls) == (0, len(expected))


# Lines before paying


def test_what_was_understood_is_told_before_paying(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("a.png").write_bytes(PNG)
    Path("a.csv").write_text(
        "Prompts,ratio,images,seed,lens,api_key\n"
        "a fox,16:9,a.png,7,35 mm,x\nan owl,,,,,\nan owl,,,,,\na cat,,,,,\n"
    )
    command = ["run", "a.csv", "--map", "aspect_ratio=ratio", "--system", "In ink."]
    lines = [
        "Read: Prompts as prompt · settings: ratio as aspect_ratio, seed"
        " · input images: images · metadata: lens · not kept: api_key",
        'a.csv: the column "Prompts" is read as the prompt',
        'a.csv: the column "api_key" looks like a secret: it is not kept',
        "Repeated: 1 row asks for the same as an earlier one, and is paid for as well,"
        " first a.csv:4",
        "Request 1: gemini-nano-banana-2.1 · 16:9 · 1K · seed 7 · a.png"
        " · system_instruction: In ink."
        ' · "a fox"',
        'Request 2: gemini-nano-banana-2.1 · 1K · system_instruction: In ink. · "an owl"',
        'Request 3: gemini-nano-banana-2.1 · 1K · system_instruction: In ink. · "an owl"',
        f"Server: {fake.url}",
        "Price: $0.0353 for the first request: its prompt, its input images and the image,"
        " without thoughts, as published on 2026-11-27",
    ]
    planned = genbatch(*command, "--dry-run")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert planned.stdout.splitlines()[2:] == lines
    assert planned.stdout.startswith("4 prompts · 0 done · 4 to make · ")
    assert fake.stats.calls == 0
    done = genbatch(*command)
    assert done.returncode == 0
    assert done.stderr.splitlines()[1 : len(lines) + 1] == lines
    assert " KB, $" in done.stdout
    assert "Repeated" not in genbatch(*command).stderr  # nothing is to be paid
    assert "Request" not in genbatch(*command, "--quiet").stderr
    rows = [json.loads(line) for line in genbatch("export").stdout.splitlines()]
    assert [row["metadata"] for row in rows][:2] == [{"lens": "35 mm"}, {"lens": ""}]


def test_templates_and_long_prompts_are_shown(genbatch: Genbatch) -> None:
    Path("a.csv").write_text(f"animal,size\nfox,small\n{'owl' * 100},big\n")
    done = genbatch("run", "a.csv", "--template", "A {size} {animal}", "--dry-run", "-n", "2")
    lines = done.stdout.splitlines()
    assert 'Read: --template "A {size} {animal}" makes the prompt' in lines[2]
    assert lines[3] == 'Request 1: gemini-nano-banana-2.1 · 1K · "A small fox"'
    assert lines[5].startswith('Request 3: gemini-nano-banana-2.1 · 1K · "A big owlowl')
    assert lines[5].endswith('…" (306 characters)')
    assert "Server: Google's, for the Gemini API" in lines
    assert not [line for line in lines if line.startswith("Doubt")]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--price", "0.02"], "Price: $0.0200 an image, as given by --price"),
        (["--model", "new-model"], "Price: none is known for new-model: give --price"),
        (["--demo"], "Server: a fake one on this machine (--demo)"),
        (["--base-url", "https://proxy.test"], "Server: https://proxy.test"),
    ],
)
def test_server_and_price_of_other_runs(genbatch: Genbatch, options: list[str], line: str) -> None:
    Path("a.txt").write_text("a fox\n")
    assert line in genbatch("run", "a.txt", "--dry-run", *options).stdout.splitlines()


def test_mistakes_in_options_are_told_together(genbatch: Genbatch) -> None:
    Path("a.txt").write_text("a fox\n")
    options = ["--map", "a=b", "--matrix", "seed", "--template", "fox", "--encoding", "klingon"]
    done = genbatch("run", "a.txt", *options, "--aspect-ratio", "7:1")
    assert done.returncode == 2
    for mistake in (
        "makes 1:1, ",
        "--template: it contains no {field}",
        "--matrix: seed is not like style=ink,oil",
        "--map a=b: neither is the name of a setting",
        "unknown text encoding: 'klingon'",
    ):
        assert mistake in done.stderr


def test_lines_beyond_a_limit_are_not_doubtful(genbatch: Genbatch) -> None:
    done = genbatch("run", "-", "--limit", "1", "--dry-run", "--json", input="a fox\n# cats\n---\n")
    assert (done.returncode, json.loads(done.stdout).get("doubts")) == (0, None)
