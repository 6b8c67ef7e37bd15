"""What a run says, and where: rows of JSON, failures by kind, a log; and its environment."""

from __future__ import annotations

import json
import os
import re
import shutil
from io import TextIOWrapper
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.models import OptionInfo

from genbatch.cli._main import ENVIRONMENT, run
from genbatch.cli._make import redo_command, run_command
from genbatch.cli._options import Options
from genbatch.cli._result import Result, report
from genbatch.testing import Fault, blocked, no_image, reset
from support.commands import CANARY, Genbatch, Serve, images, write_prompts


def rows_of(text: str) -> list[dict[str, Any]]:
    return sorted(map(json.loads, text.strip().split("\n")), key=lambda row: row["index"])


# --json


def test_json_has_a_row_for_each_prompt_in_the_words_of_export(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(faults=[None, blocked(), no_image("a poem\n")])
    Path("prompts.jsonl").write_text(
        '{"prompt": "a fox\\u2028", "id": "x", "colour": "red"}\n'
        '{"prompt": "an owl"}\n{"prompt": "a cat"}\n'
    )
    done = genbatch("run", "prompts.jsonl", "-k", "1", "--json")
    assert done.returncode == 1
    assert "1 image in genbatch-out, 2 failed" in done.stderr
    rows = rows_of(done.stdout)
    exported = rows_of(genbatch("export", "genbatch-out").stdout)
    for row, known in zip(rows, exported, strict=True):
        assert set(row) - set(known) == {"resumed"}
        same = set(row) & set(known) - {"elapsed", "model"}
        assert {name: row[name] for name in same} == {name: known[name] for name in same}
    assert [row["status"] for row in rows] == ["done", "failed", "failed"]
    assert rows[0]["metadata"] == {"colour": "red"}
    again = rows_of(genbatch("run", "prompts.jsonl", "--json").stdout)
    assert [row["resumed"] for row in again] == [True, False, False]
    assert [row["error"] for row in again] == [row["error"] for row in rows]


def test_json_says_why_a_prompt_was_not_made(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "-k", "1", "--json", "--max-images", "1")
    assert done.returncode == 3
    made, *others = rows_of(done.stdout)
    assert (made["status"], made["file"]) == ("done", images("genbatch-out")[0].name)
    assert {row["status"] for row in others} == {"to do"}
    assert others[0]["error"]["kind"] == "BudgetExhausted"


def test_json_of_a_dry_run_is_what_it_would_do(genbatch: Genbatch) -> None:
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "--dry-run", "--json", "--model", "pro")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "prompts": 3,
        "done": 0,
        "calls": 3,
        "cost": pytest.approx(3 * (0.1344 + 20 * 2e-6)),  # 20 tokens of text, $2 for a million
        "batch_cost": pytest.approx(3 * (0.1344 + 20 * 2e-6) / 2),
        "reserved": pytest.approx(3 * (0.1344 + (20 + 15) * 2e-6 + 2000 * 12e-6), rel=0.001),
        "seconds": None,
        "model": "gemini-3-pro-image",
        "asks": False,
    }


@pytest.mark.parametrize("free", [5_900_000, 6_100_000])
def test_a_disk_that_may_be_too_small_is_told_before_a_run(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free: int,
) -> None:
    serve()
    write_prompts(3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    warning = "Warning: the disk of a/b may be too small: about 6 MB of images, 6 MB free.\n"
    is_told = free < 3 * 2_000_000
    assert run(["run", "prompts.txt", "-o", "a/b", "--dry-run"]) == 0
    assert (warning in capsys.readouterr().out) is is_told
    assert run(["run", "prompts.txt", "-o", "a/b"]) == 0
    assert (warning in capsys.readouterr().err) is is_told
    assert len(images("a/b")) == 3


def test_json_of_redo_has_the_numbers_of_the_prompts(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(4)
    genbatch("run", "prompts.txt")
    done = genbatch("redo", "genbatch-out", "1", "3", "--json")
    assert done.returncode == 0
    assert [row["index"] for row in rows_of(done.stdout)] == [1, 3]


def test_rows_that_cannot_be_written_are_told(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(3)
    with open("/dev/full", "w") as full:
        done = genbatch("run", "prompts.txt", "--json", stdout=full)
    assert done.returncode == 3
    assert "genbatch: rows are missing from standard output: [Errno 28]" in done.stderr
    assert fake.stats.images == len(images("genbatch-out")) == 3


# Streams


@pytest.mark.parametrize("buffering", [-1, 0])  # 0 is what PYTHONUNBUFFERED does
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16", "utf-8"])
def test_rows_are_json_in_any_encoding(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, encoding: str, buffering: int
) -> None:
    serve()
    Path("prompts.txt").write_text(
        "a fox \N{FOX FACE} in a caf\xe9\na \x80 cat\n", encoding="utf-8"
    )
    found = []
    for command in (["run", "prompts.txt", "--json", "-q"], ["export", "genbatch-out"]):
        binary: Any = open("rows", "wb", buffering)
        with TextIOWrapper(binary, encoding, write_through=not buffering) as stream:
            monkeypatch.setattr("sys.stdout", stream)
            assert run(command) == 0
        found.append(rows_of(Path("rows").read_text(encoding)))
    texts = ["a fox \N{FOX FACE} in a caf\xe9", "a \x80 cat"]
    assert [[row["prompt"] for row in rows] for rows in found] == [texts, texts]


def test_csv_that_the_encoding_lacks_characters_for_is_escaped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    Path("prompts.txt").write_text("a fox \N{FOX FACE}\n", encoding="utf-8")
    assert run(["run", "prompts.txt", "-q"]) == 0
    with open("rows.csv", "w", encoding="cp1252") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert run(["export", "genbatch-out", "--csv"]) == 0
    assert ",a fox \\U0001f98a," in Path("rows.csv").read_text(encoding="cp1252")


def test_a_full_disk_under_stdout_takes_neither_the_exit_code_nor_the_words(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(faults=[blocked()])
    write_prompts(3)
    with open("/dev/full", "w") as full:
        done = genbatch("run", "prompts.txt", "-k", "1", "--gallery", stdout=full)
        lines = done.stderr.splitlines()
        assert done.returncode == 1
        assert "genbatch: 1 prompt failed, see above" in lines
        assert Path("genbatch-out/index.html").exists()
        for command in (["export", "genbatch-out"], ["status", "genbatch-out", "--json"]):
            done = genbatch(*command, stdout=full)
            said = "genbatch: [Errno 28] No space left on device\n"
            assert (done.returncode, done.stderr) == (3, said)


@pytest.mark.parametrize("arguments", [[], ["--csv"]])
def test_an_export_without_a_reader_is_quiet(
    genbatch: Genbatch, serve: Serve, arguments: list[str]
) -> None:
    serve()
    write_prompts(3)
    genbatch("run", "prompts.txt")
    read, written = os.pipe()
    os.close(read)
    done = genbatch("export", "genbatch-out", *arguments, stdout=written)
    os.close(written)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", None)  # closed by the shell
        assert run(["export", "genbatch-out", *arguments]) == 0


# --quiet


def test_quiet_says_nothing_of_what_went_well(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(images("genbatch-out")) == 3
    assert (genbatch("run", "-", "-q", input="").returncode, done.stdout) == (0, "")


def test_quiet_says_what_failed_and_why_it_ended(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[blocked()])
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "-k", "1", "-q", "--max-images", "1")
    assert (done.returncode, done.stdout) == (3, "")
    failed, kinds, last = done.stderr.splitlines()
    assert failed.startswith('failed [0] "a fox, number 0": Blocked: ')
    assert kinds.startswith("1 Blocked: ")
    assert last.startswith("genbatch: stopped: --max-images of 1 is reached")


# Failures


def test_failures_are_told_by_kind_with_what_to_do(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[None, None, blocked(), Fault(status=400), no_image("a poem"), blocked()])
    write_prompts(6)
    genbatch("run", "prompts.txt", "-k", "1", "--limit", "2")
    images("genbatch-out")[0].unlink()
    done = genbatch("run", "prompts.txt", "-k", "1")
    assert done.returncode == 1
    *_, first, second, third, fourth, last = done.stderr.splitlines()
    assert first == "2 Blocked: change the prompts, or retry them with --retry-failed=Blocked"
    assert {second, third, fourth} == {
        "1 Rejected: change the prompts, or retry them with --retry-failed=Rejected",
        "1 NoImage: change the prompts, or retry them with --retry-failed=NoImage",
        "1 ImageMissing: the files are missing: --redo-missing makes, and pays for, them again",
    }
    assert last.startswith("genbatch: 5 prompts failed, see above")
    assert "retries" not in last
    # What was said is what helps.
    said = re.findall(r"--[\w=-]+", "\n".join([first, second, third, fourth]))
    kinds = ",".join(each.partition("=")[2] for each in said if "=" in each)
    again = genbatch("run", "prompts.txt", f"--retry-failed={kinds}", "--redo-missing")
    assert again.returncode == 0, again.stderr


def test_failures_that_may_pass_are_asked_again_by_the_same_command(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(faults=lambda call: Fault(status=503) if call.number < 5 else None)
    write_prompts(2)
    command = ["run", "prompts.txt", "-k", "1"]
    done = genbatch(*command)
    assert done.returncode == 1
    assert "1 Unavailable: run the same command again\n" in done.stderr
    assert "1 prompt failed, see above; the same command retries 1" in done.stderr
    assert genbatch(*command).returncode == 0
    assert fake.stats.calls == 6


def test_many_failures_are_counted_and_found_in_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = Result()
    result.failures.update({"Blocked": 1200, "TimedOut": 30, "ValueError": 2})
    assert report(result, Options(output=Path("out"))) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "1,200 Blocked: change the prompts, or retry them with --retry-failed=Blocked",
        "30 TimedOut: run the same command again, with a longer --timeout if need be",
        "2 ValueError: fix the errors above, then run the same command again",
        "genbatch status out counts them, out/results.jsonl has a row for each",
        "genbatch: 1,232 prompts failed, see above; the same command retries 32",
    ]


def test_failed_takes_are_asked_for_again_by_redo(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(faults=[None, None, None, blocked()])
    write_prompts(3)
    genbatch("run", "prompts.txt")
    done = genbatch("redo", "genbatch-out", "0", "2", "-k", "1")
    assert done.returncode == 1
    assert "1 Blocked: try another --prompt\n" in done.stderr
    rest = re.search(r"see above; the rest: genbatch (redo genbatch-out 0)\n", done.stderr)
    assert rest
    assert genbatch(*rest[1].split()).returncode == 0
    assert fake.stats.images == 5


# --log-file


@pytest.mark.parametrize("name", ["log.txt", "log.jsonl"])
def test_a_log_has_what_happens_to_calls_and_never_the_key(
    genbatch: Genbatch, serve: Serve, name: str
) -> None:
    serve(faults=[reset(), Fault(status=503), blocked()])
    write_prompts(4)
    Path(name).write_text("before\n")
    done = genbatch("run", "prompts.txt", "-k", "1", "--log-file", name, "--debug")
    assert done.returncode == 1
    before, *lines = Path(name).read_text(encoding="utf-8").splitlines()
    assert before == "before"
    assert CANARY not in "\n".join(lines)
    if name.endswith(".jsonl"):
        records = [json.loads(line) for line in lines]
        assert {record["level"] for record in records} >= {"DEBUG", "INFO", "WARNING"}
        saved = [record for record in records if record["logger"] == "genbatch.store"]
        assert {record["index"] for record in saved} >= {1, 2, 3}
    else:
        time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
        for line in lines:
            assert re.match(rf"{time} (DEBUG|INFO|WARNING) +genbatch\.\w+  \S", line)
    assert "log" not in done.stderr


def test_a_log_without_debug_has_no_details(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(2)
    assert genbatch("run", "prompts.txt", "--log-file", "log.txt").returncode == 0
    assert {line.split()[1] for line in Path("log.txt").read_text().splitlines()} == {"INFO"}


def test_a_key_that_got_into_a_record_does_not_get_into_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import logging

    from genbatch.cli._logfile import log_to

    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    for name in ("log.txt", "log.jsonl"):
        with log_to(Path(name), everything=True):
            logging.getLogger("genbatch.client").debug("got %s", CANARY, extra={"seen": CANARY})
        assert Path(name).read_text().count("[API key]") == (2 if name.endswith("l") else 1)
        assert CANARY not in Path(name).read_text()


def test_a_log_that_cannot_be_written_is_told_once_and_the_run_goes_on(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve()
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "--log-file", "/dev/full")
    assert done.returncode == 0
    assert done.stderr.count("genbatch: the log is incomplete: [Errno 28]") == 1
    assert "Logging error" not in done.stderr


def test_a_log_that_cannot_be_opened_is_one_line_before_any_call(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "--log-file", "no/log.txt")
    assert (done.returncode, fake.stats.calls) == (2, 0)
    assert re.fullmatch(r"genbatch: \S*/no/log\.txt: no such file or directory\n", done.stderr)


# The environment


def test_the_environment_sets_defaults_and_an_option_wins(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve()
    write_prompts(2)
    for name, value in {"MODEL": "pro", "IMAGE_SIZE": "2K", "OUTPUT": "out", "QUIET": "1"}.items():
        monkeypatch.setenv(f"GENBATCH_{name}", value)
    done = genbatch("run", "prompts.txt", "--image-size", "4K")
    assert (done.returncode, done.stdout) == (0, "")
    assert len(images("out")) == 2
    assert {call.model for call in fake.calls} == {"gemini-3-pro-image"}
    asked = fake.calls[0].body["generationConfig"]["imageConfig"]
    assert asked["imageSize"] == "4K"
    assert genbatch("status").stdout.startswith("2 of 2 done")
    assert genbatch("redo", "out", "1").returncode == 0  # asks for what was asked for
    monkeypatch.setenv("GENBATCH_MODEL", "lite")
    assert genbatch("redo", "out", "0").returncode == 0
    assert fake.calls[-1].model == "gemini-3-pro-image"


def test_a_blank_variable_sets_nothing(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve()
    write_prompts(1)
    for name in ("MODEL", "MAX_CONCURRENT", "BUDGET", "OUTPUT", "LOG_FILE"):
        monkeypatch.setenv(f"GENBATCH_{name}", "")
    assert genbatch("run", "prompts.txt").returncode == 0
    assert (fake.stats.images, len(images("genbatch-out"))) == (1, 1)


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_CONCURRENT", "many"), ("PACE", "fast"), ("BACKEND", "curio")]
)
def test_a_bad_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"GENBATCH_{name}", value)
    write_prompts(1)
    assert run(["run", "prompts.txt", "--demo"]) == 2
    said = capsys.readouterr().err
    assert f" (from the environment: GENBATCH_{name}). See 'genbatch run --help'.\n" in said
    assert said.count("\n") == 1


def variables(command: Any) -> dict[str, str]:
    """Return the variable of each option of a command that has one."""
    found = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, OptionInfo) and info.envvar:
                found[f"--{name.replace('_', '-')}"] = str(info.envvar)
    return found


def test_the_help_names_every_variable_by_its_option() -> None:
    of_run = variables(run_command)
    for option, variable in of_run.items():
        assert variable == f"GENBATCH_{option[2:].upper().replace('-', '_')}"
    assert set(re.findall(r"--[a-z-]+", ENVIRONMENT)) == set(of_run)
    assert variables(redo_command).items() <= of_run.items()
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(GENBATCH_\w+)`", page, re.MULTILINE)) == set(of_run.values())
