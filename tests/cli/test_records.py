"""What a folder tells of itself: status, export and verify."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from genbatch.testing import Fault, blocked
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
        assert done.stderr == "genbatch: nowhere has no journal: nothing was run into it\n"
