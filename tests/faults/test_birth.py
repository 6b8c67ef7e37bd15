"""Runners that die while they create a directory and its journal, at each step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genbatch import StoreError
from genbatch._store._reports import export, status, verify
from genbatch.gallery import write_gallery
from support.archives import make_all, opened

# Forks a runner for each step: whatever Python asks of the system, and each statement for SQLite.
DYING = f"""
import os, sqlite3, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from support.archives import opened, plan_all
import genbatch._store._journal

root, connect = Path(sys.argv[1]), sqlite3.connect

def die_at(last):
    steps = 0
    def step(*args):
        nonlocal steps
        steps += 1
        if steps == last:
            os._exit(9)
    def traced(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(step)
        return connection
    sqlite3.connect = traced
    sys.addaudithook(step)

with opened(root / "imports"):
    pass
number, status = 0, 9
while status == 9:
    number += 1
    if (child := os.fork()) == 0:
        die_at(number)
        with opened(root / str(number)) as archive:
            plan_all(archive, ["a cup"])
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(number, status)
"""


def refusal(report: Callable[[Path], Any], directory: Path) -> str | None:
    try:
        report(directory)
    except StoreError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_a_runner_that_dies_at_any_step_of_its_start_leaves_a_usable_directory(
    tmp_path: Path,
) -> None:
    dying = [sys.executable, "-c", DYING, str(tmp_path)]
    done = subprocess.run(dying, capture_output=True, text=True, check=True)
    steps, ended = map(int, done.stdout.split())
    assert ended == 0
    assert steps > 60
    for number in range(1, steps):
        directory = tmp_path / str(number)
        directory.mkdir(exist_ok=True)
        for report in (status, lambda path: list(export(path)), lambda path: list(verify(path))):
            if (why := refusal(report, directory)) is not None:
                assert why == f"{directory} has no journal: nothing was run into it"
        with opened(directory) as archive:
            make_all(archive, ["a cup"])
        assert status(directory).done == 1
        assert list(verify(directory)) == []
        write_gallery(directory)


# Closing any descriptor of a file drops the locks that SQLite has on it in the same process.
OPENING = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from genbatch._store._reports import export, status, verify, write_results
from genbatch.gallery import write_gallery
from support.archives import make_all, opened

def see(event, args):
    if event == "open" and str(args[0]).endswith("journal.sqlite"):
        print("opened", args)

sys.addaudithook(see)
folder = Path(sys.argv[1])
for _ in range(2):
    with opened(folder) as archive:
        make_all(archive, ["a cup"])
        status(folder), list(export(folder)), list(verify(folder))
        write_results(folder)
        write_gallery(folder)
print("done")
"""


def test_the_journal_is_never_opened_beside_sqlite(tmp_path: Path) -> None:
    opening = [sys.executable, "-c", OPENING, str(tmp_path / "out")]
    assert subprocess.run(opening, capture_output=True, text=True, check=True).stdout == "done\n"
