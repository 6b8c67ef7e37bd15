"""Every Python block of the README runs as it stands, against a FakeGemini, on both backends.

Those of docs/testing.md are files of somebody's own tests, named in their first line.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import genbatch.testing
from genbatch.testing import FakeGemini

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
TESTING = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.fixture
def server() -> Iterator[FakeGemini]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(FakeGemini(image_size=64)) as server,
    ):
        yield server


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_readme_runs(
    number: int,
    backend: str,
    server: FakeGemini,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anyio, "run", partial(anyio.run, backend=backend))
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})
    assert server.stats.images == 3
    assert capsys.readouterr().out.count("\n") == [1, 3, 3, 3, 4][number]


def test_the_readme_has_the_three_patterns_and_the_reference_implementation() -> None:
    assert ["collect(" in BLOCKS[0], "match" in BLOCKS[1], "progress" in BLOCKS[2]] == [True] * 3
    assert "generate_images(" in BLOCKS[3]
    assert "budget" in BLOCKS[4]
    assert len(BLOCKS) == 5


def test_the_file_name_that_the_readme_shows_is_the_true_one(
    server: FakeGemini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[3], {})
    (shown,) = re.findall(r"# (out/\S+\.png)$", BLOCKS[3], re.MULTILINE)
    assert (tmp_path / shown).is_file()


def test_the_two_commands_stand_in_the_readme() -> None:
    assert "\npython -m pip install '.[cli]' && python -m genbatch demo\n" in README
    assert "\npython -m pip install -e '.[test]' && python -m pytest\n" in README


def test_links_to_files_of_the_project_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_tests_that_the_documentation_shows_pass(tmp_path: Path) -> None:
    blocks = BLOCK.findall(TESTING)
    names = [re.match(r"# (\w+\.py)\n", block) for block in blocks]
    for name, block in zip(names, blocks, strict=True):
        assert name, block
        (tmp_path / name[1]).write_text(block, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    tests = sum(block.count("\nasync def test_") for block in blocks)
    assert tests
    assert f"{2 * tests} passed" in done.stdout, done.stdout


def test_every_named_fault_stands_in_the_documentation() -> None:
    names = set(genbatch.testing.__all__) - {"Call", "Stats"}
    assert names <= set(re.findall(r"\w+", TESTING))
