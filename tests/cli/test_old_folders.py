"""Folders that earlier versions have made, under every command: nothing there is paid again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.commands import Genbatch, Serve

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = ["schema_2/plain", "schema_2/takes", "schema_2/batch", "schema_3/ids"]
READING = ["status", "verify", "export", "gallery", "jobs", "status --json", "export --all"]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / request.param, "old")
    shutil.copy(FIXTURES / "schema_2" / "reference.png", tmp_path)
    return Path("old")


def test_an_old_folder_is_read_copied_and_merged_without_a_call(
    folder: Path, genbatch: Genbatch, serve: Serve
) -> None:
    server = serve()
    journal = folder / ".genbatch" / "journal.sqlite"
    before = journal.read_bytes()
    for command in READING:
        name, *options = command.split()
        done = genbatch(name, "old", *options)
        assert done.returncode == 0, done.stderr
    assert genbatch("copy", "old", "copies").returncode == 0
    assert len(list(Path("copies").glob("*.png"))) == 8
    assert journal.read_bytes() == before
    other = "schema_2/plain" if (folder / "door.png").exists() else "schema_3/ids"
    shutil.copytree(FIXTURES / other, "other")
    assert genbatch("merge", "old", "other", "--to", "both").returncode == 0
    told = json.loads(genbatch("status", "both", "--json").stdout)
    assert (told["done"], told["to_do"], told["failed"]) == (16, 0, {"Blocked": 2})
    assert genbatch("verify", "both").returncode == 0
    assert server.stats.calls == 0


def test_an_old_folder_is_chosen_from_resumed_and_added_to(
    folder: Path, genbatch: Genbatch, serve: Serve
) -> None:
    server = serve()
    rows = [json.loads(line) for line in genbatch("export", "old").stdout.splitlines()]
    door = next(row for row in rows if row["id"] == "door")
    spent = json.loads(genbatch("status", "old", "--json").stdout)["spent"]["usd"]
    kept = genbatch("keep", "old", "--from", "-", input=f"keep 4 {door['file']}\n")
    assert (kept.returncode, server.stats.calls) == (0, 0)

    again = genbatch("redo", "old", "door", "-y")
    assert (again.returncode, server.stats.calls) == (0, 1), again.stderr
    told = json.loads(genbatch("status", "old", "--json").stdout)
    assert (told["done"], told["to_do"]) == (8, 0)
    assert told["spent"]["usd"] > spent
    (row,) = [
        row
        for row in map(json.loads, genbatch("export", "old").stdout.splitlines())
        if row["id"] == "door"
    ]
    assert row["file"] == door["file"]
    assert genbatch("pick", "old", str(row["index"]), str(row["takes"])).returncode == 0
    assert server.stats.calls == 1
    assert genbatch("verify", "old").returncode == 0
