"""Three hundred prompts, a hundred calls a day: who reads what the program prints gets there."""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.commands import Finished, Genbatch, images, started

pytestmark = pytest.mark.slow

_DAYS = 10  # at most, before somebody gives up
_SHEET = Path("shots.csv")


@contextmanager
def a_day(serve: list[str], made: list[int]) -> Iterator[dict[str, str]]:
    """Serve the quota of one day, and yield the environment that says where."""
    with started([*serve, "--speed", "2000", "--port", "0"]) as server:
        assert server.stdout is not None
        exported = next(line for line in server.stdout if "export " in line)
        yield os.environ | dict(re.findall(r"(\w+)=(\S+)", exported))
        server.send_signal(signal.SIGINT)
        out, _ = server.communicate(timeout=60)
    counted = re.search(r"(\d+) images?, peak", out)
    assert counted
    made.append(int(counted[1]))


def write_sheet(edited: range = range(0)) -> None:
    with _SHEET.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "prompt", "aspect_ratio"])
        for n in range(300):
            animal = "hare" if n in edited else "fox"
            table.writerow([f"shot-{n}", f"a {animal}, number {n}", "16:9" if n % 2 else ""])


def what_to_do(done: Finished, command: list[str]) -> list[str] | None:
    """Return the command that the last line names, None where nothing is left to do."""
    if done.returncode == 0:
        return None
    last = done.stderr.splitlines()[-1]
    assert last.startswith("genbatch: ")
    if other := re.search(r"the rest: genbatch ([^;]+)", last):
        return shlex.split(other[1])
    assert "the same command resumes" in last, last
    return command


def test_a_quota_of_a_hundred_a_day_is_lived_with(genbatch: Genbatch) -> None:
    write_sheet()
    run = ["run", str(_SHEET), "-o", "out", "--yes"]
    example = re.search(
        r"genbatch (serve-fake --quota \S+ --daily \d+)", genbatch("serve-fake", "--help").stdout
    )
    assert example
    todo: list[list[str]] = [run]
    made: list[int] = []
    for day in range(1, _DAYS):
        with a_day(example[1].split(), made) as environment:
            while todo:
                done = genbatch(*todo[0], env=environment)
                assert done.returncode in (0, 3), done.stderr
                left = what_to_do(done, todo[0])
                todo[:1] = [] if left is None else [left]
                if left is not None:
                    assert "daily quota of gemini-nano-banana-2.1 is used up" in done.stderr
                    break
        if day == 1:
            assert made == [100]
            assert re.search(r"100 images in out, 0 failed, 200 not made\n", done.stdout)
            write_sheet(edited=range(95, 105))  # five of them were made
            todo.append(["redo", "out", "0", "17", "42"])
        if not todo:
            break
    assert not todo
    assert sum(made) == 300 + 5 + 3
    assert len(images("out")) == sum(made)
    assert genbatch("verify", "out").stdout == "all is well\n"
    assert genbatch("status", "out").stdout.startswith("300 of 300 done, $")
    assert genbatch(*run, env=environment).returncode == 0, "nothing is left, so nobody is asked"
