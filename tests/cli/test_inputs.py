"""What ``genbatch run`` reads: files of every kind, templates and grids, and standard input."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from genbatch.cli._main import run
from genbatch.testing import FakeGemini
from support.commands import CANARY, COMMAND, Genbatch, Serve, arrival, images, started


def lines_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path, "results.jsonl").read_text().splitlines()]


def texts(fake: FakeGemini) -> list[str]:
    return sorted(call.body["contents"][0]["parts"][0]["text"] for call in fake.calls)


# Files


def test_several_files_are_one_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("a.txt").write_text("a fox\n")
    Path("b.csv").write_text("prompt;Lens;model\nan owl, asleep;35 mm;pro\n")
    Path("c.jsonl").write_text('{"prompt": "a cat", "n": 2, "id": "x"}\n')
    done = genbatch("run", "a.txt", "b.csv", "c.jsonl", "-o", "out")
    assert (done.returncode, fake.stats.images) == (0, 4)
    announced = done.stderr.splitlines()[0]
    assert announced.startswith(
        "4 prompts · 0 done · 4 to make · flash = gemini-nano-banana-2.1 1K"
    )
    assert announced.endswith(" and per-prompt models · about $0.24")
    assert texts(fake) == ["a cat", "a cat", "a fox", "an owl, asleep"]
    rows = lines_of("out")
    assert [row["id"] for row in rows] == [None, None, "x-1", "x-2"]
    assert rows[1]["metadata"] == {"Lens": "35 mm"}
    assert rows[1]["model"] == "gemini-3-pro-image"

    again = genbatch("run", "c.jsonl", "a.txt", "b.csv", "-o", "out")
    assert (again.returncode, fake.stats.images) == (0, 4)
    assert again.stderr.startswith("4 prompts · 4 done · 0 to make · ")


def test_a_column_an_encoding_and_input_images(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("set").mkdir()
    Path("set/a.csv").write_bytes("Caption,images\nein Füchslein,fox.png\n".encode("cp1252"))
    refused = genbatch("run", "set/a.csv", "--column", "Caption", "--encoding", "cp1252")
    assert refused.returncode == 2
    assert refused.stderr == "genbatch: set/a.csv:2: images: there is no file set/fox.png\n"
    Path("set/fox.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = genbatch("run", "set/a.csv", "--column", "Caption", "--encoding", "cp1252")
    assert done.returncode == 0
    (call,) = fake.calls
    parts = call.body["contents"][0]["parts"]
    assert [part.get("text") for part in parts if "text" in part] == ["ein Füchslein"]
    assert any("inlineData" in part for part in parts)


def test_a_sample_is_the_same_at_each_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("a.txt").write_text("".join(f"a fox, number {n}\n" for n in range(200)))
    for seed, made in (("0", 3), ("0", 3), ("1", 6)):
        done = genbatch("run", "a.txt", "--sample", "3", "--sample-seed", seed)
        assert (done.returncode, fake.stats.images) == (0, made)


def test_three_by_four_values_are_twelve_images_with_names_to_read(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    axes = ["animal=cat,dog,fox", 'style=ink,oil,woodcut,"pastel, soft"']
    template = "A {animal} in the style of {style}"
    command = ["run", "--template", template, "--matrix", axes[0], axes[1]]
    done = genbatch(*command, "-o", "out")
    assert (done.returncode, fake.stats.images) == (0, 12)
    names = [re.sub(r"^\d+-|-[0-9a-f]{6}\.png$", "", path.name) for path in images("out")]
    styles = ("ink", "oil", "woodcut", "pastel-soft")
    assert names == [
        f"a-{animal}-in-the-style-of-{style}"
        for animal in ("cat", "dog", "fox")
        for style in styles
    ]
    assert lines_of("out")[3]["metadata"] == {"animal": "cat", "style": "pastel, soft"}
    assert genbatch(*command, "-o", "out", "--matrix", "n=2").returncode == 0
    assert fake.stats.images == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --template {a}", "no PROMPTS: name a file, or give --template and --matrix"),
        ("run --matrix n=2", "no PROMPTS: name a file, or give --template and --matrix"),
        ("run a.txt -", "- must be the only input: standard input and files do not mix"),
        ("run a.txt --template {a} --column b", "--column and --template exclude each other"),
        ("run a.txt --template {prompt.x}", "--template: {prompt.x}: a field is a plain name"),
        (
            "run a.txt --matrix seed=1,2 style=ink",
            "--matrix style: --template must contain {style}",
        ),
        ("run a.txt style=ink", "style=ink: no such file or directory"),
        ("run a.txt --matrix style=ink", "--matrix style: --template must contain {style}"),
        ("run a.txt --matrix aspect_ratio=1:1,7:1", "a.txt:1: gemini-nano-banana-2.1 makes 1:1, "),
        (
            "run a.txt --encoding klingon",
            "unknown text encoding: 'klingon'; give one such as utf-8",
        ),
        ("run a.txt --sample 0", "Invalid value for '--sample'"),
        ("run empty", "empty: is a directory without .txt files"),
        ("run a.txt --aspect-ratio 16x9", "'--aspect-ratio': \"16x9\" is no aspect ratio: did you"),
        (
            "run a.txt b.jsonl",
            "b.jsonl:2: gemini-3.1-flash-lite-image makes 1K only, got image_size",
        ),
        (
            "run a.txt --model lite --image-size 2K",
            "genbatch: gemini-3.1-flash-lite-image makes 1K",
        ),
        (
            "run b.jsonl --model gemini-x --image-size 2K",
            "b.jsonl:2: gemini-3.1-flash-lite-image m",
        ),
        ("run b.jsonl --limit 1", "b.jsonl:2: gemini-3.1-flash-lite-image makes 1K only"),
        ("run c.jsonl", "c.jsonl:1: a JSON array; .jsonl has one object per line"),
    ],
)
def test_a_mistake_is_found_before_the_first_call(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    Path("a.txt").write_text("a fox\n")
    Path("b.jsonl").write_text(
        '{"prompt": "a"}\n{"prompt": "b", "model": "lite", "image_size": "4K"}'
    )
    Path("c.jsonl").write_text("[]\n")
    Path("empty").mkdir()
    before = set(Path().iterdir())
    assert run(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("genbatch: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert set(Path().iterdir()) == before


def test_all_bad_rows_are_told_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    Path("a.csv").write_text("prompt,seed\na,x\nb,1\n,\nc,y\n")
    assert run(["run", "a.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'genbatch: a.csv:2: seed: "x" is not a whole number',
        'a.csv:5: seed: "y" is not a whole number',
        "2 mistakes",
    ]


def test_what_a_file_does_not_say_the_options_do(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("a.csv").write_text(",a {red|blue} fox\n0,an\n")
    options = ["--no-header", "--column", "2", "--expand", "--image-size", "2k"]
    done = genbatch("run", "a.csv", *options, "--name", "{source}/{slug}")
    assert (done.returncode, fake.stats.images) == (0, 2)
    assert {path.parent.name for path in Path("genbatch-out").rglob("*.png")} >= {"a"}
    assert texts(fake)[0] in ("a red fox", "a blue fox")
    config = fake.calls[0].body["generationConfig"]
    assert "2K" in json.dumps(config)
    Path("b.csv").write_text(",prompt\n0,a fox\n")
    done = genbatch("run", "b.csv", "--dry-run")
    assert done.stderr == "b.csv: the first column has no name and is ignored\n"
    assert genbatch("run", "b.csv", "--dry-run", "--quiet").stderr == ""


def test_a_file_that_changes_during_a_run_ends_it(genbatch: Genbatch, serve: Serve) -> None:
    path = Path("a.txt")
    path.write_bytes((b"a fox " * 5000 + b"\n") * 100)  # two a block
    arrived, latency = arrival(1, lambda call: 0.0)
    fake = serve(latency=latency)
    with started(["run", "a.txt", "--yes", "-k", "1"]) as process:
        assert arrived.wait(60)
        path.write_bytes(b"an owl\n")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "genbatch: stopped: a.txt: changed since it was checked; run again; finished" in err
    assert f"{fake.stats.images} images in genbatch-out, 0 failed" in out


# Standard input


@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
def test_a_line_that_is_piped_in_is_made_at_once(serve: Serve, backend: str) -> None:
    arrived, latency = arrival(1, lambda call: 0.0)
    fake = serve(latency=latency)
    with started(["run", "-", "--backend", backend], stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write("a fox\n")
        process.stdin.flush()
        assert arrived.wait(60)
        out, err = process.communicate("an owl", timeout=60)
    assert (process.returncode, texts(fake)) == (0, ["a fox", "an owl"])
    assert err.startswith(
        "prompts as they arrive · flash = gemini-nano-banana-2.1 1K · about $0.034 "
    )
    assert "2 images in genbatch-out, 0 failed\n" in out


@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
def test_ctrl_c_does_not_wait_for_a_line(serve: Serve, backend: str) -> None:
    arrived, latency = arrival(1, lambda call: 0.0)
    serve(latency=latency)
    with started(["run", "-", "--backend", backend], stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write("a fox\n")
        process.stdin.flush()
        assert arrived.wait(60)
        assert any(line.startswith("1 done") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130  # though the pipe stays open
        err = process.stderr.read()
        assert process.stdout
        assert "1 image in genbatch-out, 0 failed\n" in process.stdout.read()
    assert "interrupted by SIGINT" in err
    assert "Traceback" not in err
    assert "lock" not in err


def test_a_bad_line_of_standard_input_keeps_what_was_made(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    done = genbatch("run", "-", input='{"prompt": "a fox"}\n{"prompt": 7}\n{"prompt": "an owl"}\n')
    assert (done.returncode, texts(fake)) == (2, ["a fox"])
    assert len(images("genbatch-out")) == 1
    assert "1 image in genbatch-out, 0 failed\n" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "genbatch: stopped: stdin:2: prompt: 7 is not text;"
        " finished images are kept, the same command resumes"
    )


def test_what_a_line_asks_for_is_checked_before_its_call(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    row = '{"prompt": "a fox", "model": "lite", "image_size": "4K"}'
    done = genbatch("run", "-", input=row)
    assert (done.returncode, fake.stats.calls) == (2, 0)
    assert "stopped: stdin:1: gemini-3.1-flash-lite-image makes 1K only" in done.stderr


def test_an_empty_standard_input_is_nothing_to_do(genbatch: Genbatch) -> None:
    done = genbatch("run", "-", "--demo", input="\n")
    assert (done.returncode, done.stdout) == (0, "Nothing to do: no prompts.\n")


def test_a_closed_standard_input_is_refused(genbatch: Genbatch) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *COMMAND, "run", "-", "--demo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "genbatch: stdin is closed: pipe prompts into it or name a file\n"


def test_standard_input_takes_a_limit_a_sample_and_a_template(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    template = ["--template", "{prompt}, {style}", "--matrix", "style=ink,oil"]
    lines = "".join(f"fox {n}\n" for n in range(9))
    assert genbatch("run", "-", *template, "--limit", "3", input=lines).returncode == 0
    assert texts(fake) == ["fox 0, ink", "fox 0, oil", "fox 1, ink"]
    assert genbatch("run", "-", "--sample", "4", "-o", "four", input=lines).returncode == 0
    assert len(images("four")) == 4


def test_a_dry_run_counts_standard_input(genbatch: Genbatch) -> None:
    done = genbatch("run", "-", "--dry-run", input="a fox\nan owl\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 prompts · 0 done · 2 to make · ")
    assert not Path("genbatch-out").exists()


def test_who_types_prompts_is_told_how_and_sees_each_end(serve: Serve) -> None:
    serve()
    ours, theirs = pty.openpty()
    with started(["run", "-"], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""

        def read_until(text: bytes) -> None:
            nonlocal shown
            while text not in shown:
                shown += os.read(ours, 4096)

        read_until(b"Ctrl-D on an empty line ends.")
        os.write(ours, b"a fox\n")
        read_until(b"1 done  0 failed  0 in flight")
        os.write(ours, b"an owl\n")
        read_until(b"2 done  0 failed  0 in flight")
        os.write(ours, b"\x04")
        read_until(b"2 images in genbatch-out, 0 failed")
        assert process.wait(60) == 0
    os.close(ours)
    assert b"\x1b[J" not in shown  # no bar that would wipe out what is typed


# docs/inputs.md

PAGE = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text(encoding="utf-8")
FILES = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^genbatch (run .*?) +# (\d+ (?:images|prompts))$", PAGE, re.MULTILINE)


def test_every_command_of_the_page_is_tested() -> None:
    assert len(COMMANDS) == PAGE.count("\ngenbatch run") == 12
    assert len(FILES) == PAGE.count(" file=") == 4


@pytest.mark.parametrize(("command", "made"), COMMANDS)
def test_the_page_says_what_a_command_makes(
    capsys: pytest.CaptureFixture[str], command: str, made: str
) -> None:
    for name, content in FILES:
        Path(name).write_text(content)
    Path("fox.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run([*shlex.split(command), "--demo"]) == 0
    assert capsys.readouterr().out.startswith(f"{made} ")
