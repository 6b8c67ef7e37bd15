"""The tutorial, command by command, in an empty folder: it prints what the page says.

Two things differ from a terminal: figures that vary are left out (see pages.steady), and so is the
progress, which a terminal shows as a bar that goes away.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import DOCS, blocks_of, steady

pytestmark = pytest.mark.slow

PROGRESS = re.compile(r"^\d+/\d+  \d+ failed  .*\n", re.MULTILINE)
# The commands of this Python, whatever the PATH has.
SHELL = 'genbatch() { "$PYTHON" -m genbatch "$@"; }; python() { "$PYTHON" "$@"; }; '


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_the_tutorial_prints_what_it_says(tmp_path: Path) -> None:
    for block in blocks_of(DOCS / "tutorial.md"):
        if block.caption:
            (tmp_path / block.caption).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for command, shown in commands_in(block.text):
                assert steady(output_of(command, tmp_path)) == steady(shown), command


def commands_in(text: str) -> list[tuple[str, str]]:
    """Return each command of a block, and what it prints."""
    first, *sessions = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not first
    return [(command, shown) for command, _, shown in (each.partition("\n") for each in sessions)]


def output_of(command: str, folder: Path) -> str:
    secrets = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "FORCE_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in secrets}
    done = subprocess.run(
        ["sh", "-c", SHELL + command],
        cwd=folder,
        env=environment | {"PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return PROGRESS.sub("", done.stdout)


def test_the_commands_of_the_tutorial_are_there() -> None:
    shown = [block.text for block in blocks_of(DOCS / "tutorial.md") if block.language == "console"]
    used = set(re.findall(r"^\$ genbatch ([a-z-]+)", "".join(shown), re.MULTILINE))
    assert used == {"demo", "run", "status", "export", "verify", "redo", "pick", "gallery"}
