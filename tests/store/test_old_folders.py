"""Folders that earlier versions have made, kept in tests/fixtures, resume without a call."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import (
    Blocked,
    Failure,
    GeminiClient,
    Prompt,
    Success,
    batch_api,
    generate_images,
)
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


IDS = FOLDERS.parent / "schema_3" / "ids"
WITH_IDS = [
    Prompt("a fox in the snow", id="1"),
    Prompt("a fox in the snow", id="2"),
    Prompt("ein Füchslein 🦊, 雪の中 ", id="3"),
    Prompt("a red door", id="door", filename="door"),
    Prompt("a tower", id="5", aspect_ratio="1:1", metadata={"n": 3}),
    Prompt("the same, at night", id="7", images=("reference.png",)),
    Prompt("refused", id="8"),
    Prompt("two of them", id="9"),
    Prompt(" a lighthouse", model="pro", seed=7),
]


@pytest.mark.parametrize("ids", ["kept", "removed", "renumbered"])
@pytest.mark.parametrize("image_size", ["1K", None])
@pytest.mark.parametrize("planned_ahead", [True, False])
async def test_a_folder_whose_keys_have_ids_resumes_without_a_call(
    ids: str,
    image_size: str | None,
    planned_ahead: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(FOLDERS)  # where the input image is
    await anyio.to_thread.run_sync(shutil.copytree, IDS, tmp_path / "out")
    before = await anyio.to_thread.run_sync(lambda: list(export(tmp_path / "out")))
    prompts = WITH_IDS if ids == "kept" else [replace(each, id=None) for each in WITH_IDS]
    if ids == "renumbered":
        prompts = [replace(each, id=str(number)) for number, each in enumerate(prompts, 101)]
    async with FakeGemini() as fake, GeminiClient("not-a-real-key", base_url=fake.url) as client:
        source: Any = prompts if planned_ahead else iter(prompts)
        async with generate_images(
            client, source, save_dir=tmp_path / "out", image_size=image_size
        ) as outcomes:
            found = [each async for each in outcomes]
        assert fake.stats.calls == 0
    assert len(found) == 9
    assert [each.prompt.text for each in found if isinstance(each, Failure)] == ["refused"]
    after = await anyio.to_thread.run_sync(lambda: list(export(tmp_path / "out")))
    for name in ("index", "file", "key", "prompt", "status", "take"):
        assert [row[name] for row in after] == [row[name] for row in before]
    assert [row["id"] for row in after] == [each.id for each in prompts]
    assert not await anyio.to_thread.run_sync(lambda: list(verify(tmp_path / "out")))


async def test_images_of_an_earlier_version_are_taken_up_without_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDERS)
    await anyio.to_thread.run_sync(shutil.copytree, IDS, tmp_path / "out")
    (tmp_path / "out" / ".genbatch" / "journal.sqlite").unlink()
    async with FakeGemini() as fake, GeminiClient("not-a-real-key", base_url=fake.url) as client:
        prompts = [each for each in WITH_IDS if each.text != "refused" and not each.filename]
        async with generate_images(
            client, WITH_IDS, save_dir=tmp_path / "out", image_size="1K"
        ) as outcomes:
            resumed = [each.value.resumed async for each in outcomes if isinstance(each, Success)]
    assert resumed.count(True) == len(prompts)
