"""What a folder tells of itself: status, export and verify."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

from genbatch.testing import Fault, blocked, rate_limited
from support.commands import Genbatch, Serve, images, write_prompts


def test_status_tells_what_is_done_and_why_the_rest_is_not(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(faults=[None, blocked(), Fault(status=400), None])
    write_prompts(4)
    assert genbatch("run", "prompts.txt", "-k", "1", "-o", "out").returncode == 1
    done = genbatch("status", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 of 4 done, $0.07\n2 failed: 1 Blocked, 1 Rejected\n"
    found = json.loads(genbatch("status", "out", "--json").stdout)
    assert (found["done"], found["failed"]) == (2, {"Blocked": 1, "Rejected": 1})
    assert found["spent"]["images"] == 2


def test_export_has_a_row_for_each_prompt(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[None, blocked()])
    write_prompts(2)
    genbatch("run", "prompts.txt", "-k", "1", "-o", "out")
    rows = [json.loads(line) for line in genbatch("export", "out").stdout.splitlines()]
    assert [(row["index"], row["prompt"], row["status"]) for row in rows] == [
        (0, "a fox, number 0", "done"),
        (1, "a fox, number 1", "failed"),
    ]
    assert Path("out", rows[0]["file"]).is_file()
    assert rows[1]["error"]["kind"] == "Blocked"
    table = list(csv.DictReader(io.StringIO(genbatch("export", "out", "--csv").stdout[1:])))
    assert [row["prompt"] for row in table] == [row["prompt"] for row in rows]


def test_verify_names_what_is_wrong(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(2)
    genbatch("run", "prompts.txt", "-o", "out")
    assert genbatch("verify", "out").stdout == "all is well\n"
    first = images("out")[0]
    first.write_bytes(first.read_bytes() + b"!")
    done = genbatch("verify", "out")
    assert done.returncode == 1
    assert first.name in done.stdout


def test_a_folder_without_a_journal_is_one_line(genbatch: Genbatch) -> None:
    for command in ("status", "export", "verify"):
        done = genbatch(command, "nowhere")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "genbatch: nowhere is not there: no such folder\n"


def test_status_tells_how_the_last_run_went_and_ended(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[None, rate_limited(0.01), Fault(status=503), None, blocked()])
    write_prompts(3)
    assert genbatch("run", "prompts.txt", "-k", "1", "-o", "out", "--budget", "9").returncode == 1
    found = json.loads(genbatch("status", "out", "--json").stdout)
    assert (found["rejected"], found["retries"], found["stop_reason"]) == (1, 1, "done")
    assert found["last_progress"]["total"] == found["last_progress"]["done"] == 3
    assert found["eta"] == 0
    assert set(found["cost"]) == {"images", "damaged", "maybe", "in_jobs"}
    assert found["cost"]["images"] == found["spent"]["usd"] > 0
    Path("out/.genbatch/progress.json").write_text("[1")
    assert json.loads(genbatch("status", "out", "--json").stdout)["stop_reason"] is None


def test_status_tells_how_a_redo_went(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[None, None, None, rate_limited(0.01)])
    write_prompts(3)
    assert genbatch("run", "prompts.txt", "-k", "1", "-o", "out").returncode == 0
    assert genbatch("redo", "out", "0", "2").returncode == 0
    found = json.loads(genbatch("status", "out", "--json").stdout)
    assert (found["rejected"], found["retries"], found["stop_reason"]) == (1, 0, "done")
    assert found["last_progress"]["total"] == found["last_progress"]["done"] == 2


def test_status_tells_what_has_stopped_a_run(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(3)
    assert (
        genbatch("run", "prompts.txt", "-k", "1", "-o", "out", "--max-images", "1").returncode == 3
    )
    found = json.loads(genbatch("status", "out", "--json").stdout)
    assert "--max-images" in found["stop_reason"]
    assert (found["done"], found["total"]) == (1, 3)


def test_commands_about_a_folder_have_the_same_default(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(2)
    assert genbatch("run", "prompts.txt").returncode == 0
    assert genbatch("redo", "1").returncode == 0
    assert genbatch("redo", "0", "1").returncode == 0
    assert genbatch("pick", "1", "2").stdout == "prompt 1 of genbatch-out now shows take 2\n"
    for command in ("status", "jobs", "keep"):
        assert genbatch(command).returncode == 0
    assert "genbatch redo genbatch-out 17" in genbatch("redo", "genbatch-out").stderr
    assert "give a prompt and a take" in genbatch("pick", "genbatch-out", "1").stderr


def test_short_habits(genbatch: Genbatch) -> None:
    assert genbatch("-V").stdout.startswith("genbatch ")
    assert "--install-completion" in genbatch("--help").stdout


def test_a_shell_completes_commands_and_options(genbatch: Genbatch) -> None:
    for words, expected in (("genbatch re", "redo"), ("genbatch run --asp", "--aspect-ratio")):
        variables = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        asked = os.environ | variables | {"_GENBATCH_COMPLETE": "complete_bash"}
        assert genbatch(env=asked).stdout.split() == [expected]
