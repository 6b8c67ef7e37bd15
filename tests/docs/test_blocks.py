"""Every Python block of the README runs as it stands, against a FakeGemini, on both backends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from genbatch.testing import FakeGemini

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


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
    assert capsys.readouterr().out.count("\n") == (1 if number == 0 else 3)


def test_the_readme_has_the_three_patterns_and_the_reference_implementation() -> None:
    assert ["collect(" in BLOCKS[0], "match" in BLOCKS[1], "progress" in BLOCKS[2]] == [True] * 3
    assert "generate_images(" in BLOCKS[3]
    assert len(BLOCKS) == 4


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
