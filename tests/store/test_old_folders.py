"""Folders that earlier versions have made, kept in tests/fixtures, resume without a call."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import Blocked, Failure, GeminiClient, Prompt, batch_api, generate_images
from genbatch._store._reports import export, verify
from genbatch.testing import FakeGemini

FOLDERS = Path(__file__).parents[1] / "fixtures" / "schema_2"
PROMPTS = [
    "a fox in the snow",
    "a fox in the snow",
    "ein Füchslein 🦊, 雪の中",
    Prompt("a red door", id="door"),
    Prompt(
        "a tower",
        filename="tower at dusk",
        aspect_ratio="16:9",
        image_size="2K",
        metadata={"tags": ["a", "b"], "n": 3},
    ),
    Prompt("a lighthouse", model="pro", seed=7),
    Prompt("the same, at night", images=(FOLDERS / "reference.png",)),
    "refused",
    "two of them",
]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 0.5, "system_instruction": "draw in ink"},
    "takes": {"temperature": 0.5, "system_instruction": "draw in ink"},
    "batch": {},
}
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("folder", SETTINGS)
@pytest.mark.parametrize("by_batch", [False, True])
async def test_a_folder_of_an_earlier_version_resumes_without_a_call(
    folder: str, by_batch: bool, tmp_path: Path
) -> None:
    shutil.copytree(FOLDERS / folder, tmp_path / folder)
    generate: Any = batch_api.generate_images if by_batch else generate_images
    async with FakeGemini() as fake, GeminiClient("not-a-real-key", base_url=fake.url) as client:
        settings = SETTINGS[folder]
        async with generate(client, PROMPTS, save_dir=tmp_path / folder, **settings) as outcomes:
            found = sorted([each async for each in outcomes], key=lambda each: each.index)
        assert fake.stats.calls == 0
        assert not fake.jobs
    for row in await anyio.to_thread.run_sync(lambda: list(export(tmp_path / folder))):
        assert (row["width"], row["height"]) == (None, None)  # not known then
    for outcome in found:
        if outcome.prompt == "refused":
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.error, Blocked)
        else:
            assert outcome.unwrap().resumed


def test_takes_of_an_earlier_version_are_known(tmp_path: Path) -> None:
    shutil.copytree(FOLDERS / "takes", tmp_path / "takes")
    rows = list(export(tmp_path / "takes"))
    assert [row.get("takes", 1) for row in rows] == [2, 1, 1, 3, 1, 2, 1, 0, 1]
    assert {row["width"] for row in rows} == {None}
    assert not list(verify(tmp_path / "takes"))
