"""Every block of Python in the README and the documentation runs as it stands.

A block runs alone, in an empty folder, against a FakeGemini that the environment names, and prints
what the block of output behind it says. Where it says what event loop it runs on only by
``anyio.run``, or awaits as a notebook does, it runs on asyncio and on trio. A block whose first
line names a file is one: those of docs/testing.md are somebody's own tests.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType

import anyio
import pytest

import genbatch.testing
from genbatch.batch_api import _job, _queue
from genbatch.testing import FakeGemini
from support.integrations import register_plugin
from support.pages import DOCS, PAGES, README, Block, blocks_of, read, steady

CELLS = DOCS / "notebooks.md"  # run in a kernel, by tests of their own
PYTHON = [
    block
    for page in PAGES
    if page != CELLS
    for block in blocks_of(page)
    if block.language == "python"
]
FILES = [block for block in PYTHON if block.file]
OF_README = [block for block in PYTHON if block.page == README]
TESTING = DOCS / "testing.md"


def compiled(block: Block) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(block.text, block.name, "exec", flags=flags, dont_inherit=True)
    return code


def awaits(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)


def runs() -> Iterator[tuple[Block, str]]:
    """Yield each block that is no file with each backend it runs on."""
    for block in PYTHON:
        if not block.file:
            is_general = "anyio.run(" in block.text or awaits(compiled(block))
            for backend in ["asyncio", "trio"] if is_general else ["asyncio"]:
                yield block, backend


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGemini]:
    with FakeGemini(image_size=64) as server:
        monkeypatch.setenv("GEMINI_API_KEY", "a-key")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        monkeypatch.setattr(_queue, "_LINGER", 0.1)
        monkeypatch.setattr(_job, "_FIRST_POLL", 0.001)
        yield server


@pytest.fixture(autouse=True)
def _same_logging() -> Iterator[None]:
    """Undo what a block does to the loggers of the process."""
    loggers = [logging.root, logging.getLogger("genbatch")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("block", "backend"), [pytest.param(*run, id=f"{run[0].name}-{run[1]}") for run in runs()]
)
@pytest.mark.usefixtures("server")
def test_a_block_runs_and_prints_what_it_says(
    block: Block,
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anyio, "run", partial(anyio.run, backend=backend))
    code = compiled(block)
    names: dict[str, object] = {"__name__": "__main__"}
    if awaits(code):
        anyio.run(lambda: eval(code, names))
    else:
        exec(code, names)
    if block.output is not None:
        assert steady(capsys.readouterr().out) == steady(block.output)


@pytest.mark.parametrize("number", range(3))
def test_a_block_of_the_readme_makes_an_image_of_each_prompt(
    number: int,
    server: FakeGemini,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compiled(OF_README[number]), {})
    assert server.stats.images == 3
    assert capsys.readouterr().out.count("\n") == [1, 3, 3][number]


def test_the_readme_has_two_patterns_and_the_reference_implementation() -> None:
    words = ["collect(", "match", "generate_images("]
    assert all(word in block.text for word, block in zip(words, OF_README, strict=True))


@pytest.mark.usefixtures("server")
def test_the_file_name_that_the_readme_shows_is_the_true_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(OF_README[2].text, {})
    (shown,) = re.findall(r"# (out/\S+\.png)$", OF_README[2].text, re.MULTILINE)
    assert (tmp_path / shown).is_file()


def test_the_two_commands_stand_in_the_readme() -> None:
    assert "\npython -m pip install '.[cli]' && python -m genbatch demo\n" in read(README)
    assert "\npython -m pip install -e '.[test]' && python -m pytest -n auto\n" in read(README)


@pytest.mark.slow
def test_the_tests_that_the_documentation_shows_pass(tmp_path: Path) -> None:
    # What needs pytest-trio is tested beside the plugin.
    needed = "autojump_clock"
    shown = [block for block in FILES if block.page == TESTING and needed not in block.text]
    for block in shown:
        (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    register_plugin(tmp_path / "plugin")
    path = f"{tmp_path / 'plugin'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    asynchronous = sum(block.text.count("\nasync def test_") for block in shown)
    plain = sum(block.text.count("\ndef test_") for block in shown)
    assert asynchronous
    assert f"{2 * asynchronous + plain} passed" in done.stdout, done.stdout


def test_every_named_fault_stands_in_the_documentation() -> None:
    names = set(genbatch.testing.__all__) - {"Call", "Stats"}
    assert names <= set(re.findall(r"\w+", read(TESTING)))
