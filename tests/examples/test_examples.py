"""The examples as programs: each runs as it stands, is typed, and stands in the list."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support.programs import EXAMPLES, program, read_until

pytestmark = pytest.mark.slow

PROGRAMS = [*sorted(EXAMPLES.glob("*.py")), EXAMPLES / "web" / "app.py"]
each_program = pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)


@each_program
def test_an_example_says_at_its_top_what_it_shows(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    title, empty, *rest = docstring.split("\n")
    assert title.endswith(".")
    assert empty == ""
    assert 2 <= len(rest) <= 3
    assert rest[0].startswith("Shows ")


@each_program
def test_an_example_stands_in_the_list(path: Path) -> None:
    index = (EXAMPLES / "index.md").read_text(encoding="utf-8")
    assert f"({path.relative_to(EXAMPLES).as_posix()})" in index


def test_the_list_leads_to_files_that_are_there() -> None:
    index = (EXAMPLES / "index.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", index):
        assert (EXAMPLES / target).is_file(), target


def test_the_examples_are_typed() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *map(str, PROGRAMS)],
        cwd=EXAMPLES.parents[1],
        env=os.environ | {"MYPYPATH": f"src{os.pathsep}{EXAMPLES}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", ["trio_nursery.py", "openai_images.py"])
def test_an_example_runs_by_itself(name: str, tmp_path: Path) -> None:
    with program(tmp_path, "-W", "error", str(EXAMPLES / name)) as process:
        shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert ("All drawn." in shown) == (name == "trio_nursery.py")
    assert "Error" not in shown


@pytest.mark.parametrize("server", [[], ["--trio"]], ids=["uvicorn", "hypercorn"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_web_app_serves_until_a_signal(
    server: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    arguments = ["-W", "error", str(EXAMPLES / "web" / "app.py"), *server]
    with program(tmp_path, *arguments, PORT=port) as process:
        read_until(process, "unning on http")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert b"<title>Studio</title>" in answer.read()
        process.send_signal(number)
        shown, _ = process.communicate(timeout=60)
    # uvicorn lets a signal do what it does when it has shut down in order.
    assert process.returncode in (0, -number), shown
    assert "Traceback" not in shown
