"""An image satisfies one row, and a row keeps its number, whatever becomes of the file."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from genbatch import GeminiClient, Prompt, Store, estimate, generate_images
from genbatch._store import export, status
from genbatch.inputs import read_prompts
from genbatch.testing import FakeGemini

pytestmark = pytest.mark.anyio


async def in_thread(function: Any, *args: Any) -> Any:
    return await to_thread.run_sync(lambda: function(*args))


class Folder:
    """A folder that sheets are run into, and what that has called."""

    def __init__(self, path: Path, fake: FakeGemini, client: GeminiClient) -> None:
        self.path, self.fake, self.client = path, fake, client

    async def run(self, prompts: Iterable[Any], **settings: Any) -> int:
        """Run prompts into it, and return the number of calls that made."""
        before = self.fake.stats.calls
        async with generate_images(
            self.client, prompts, save_dir=self.path / "out", **settings
        ) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
        return self.fake.stats.calls - before

    async def sheet(self, name: str, rows: list[tuple[str, str]]) -> int:
        """Run a sheet of ids and prompts into it."""
        lines = ["id\tprompt", *("\t".join(row) for row in rows)]
        await in_thread((self.path / name).write_text, "\n".join(lines))
        return await self.run(await in_thread(read_prompts, [self.path / name]))

    async def rows(self, **options: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await to_thread.run_sync(
            lambda: list(export(self.path / "out", **options))
        )
        return found


@pytest.fixture
async def folder(tmp_path: Path) -> Any:
    async with FakeGemini(image_size=8) as fake, GeminiClient("k", base_url=fake.url) as client:
        yield Folder(tmp_path, fake, client)


@pytest.mark.parametrize("read_once", [False, True])
async def test_two_rows_of_one_text_want_two_images_in_any_order(
    folder: Folder, read_once: bool
) -> None:
    rows = [Prompt("same", id="1"), Prompt("other", id="2"), Prompt("same", id="3")]
    kind: Any = iter if read_once else list
    assert await folder.run(kind(rows)) == 3
    by_id = {row["id"]: row["file"] for row in await folder.rows()}
    assert await folder.run(kind(rows[::-1])) == 0
    assert {row["id"]: row["file"] for row in await folder.rows()} == by_id
    assert await folder.run(kind([*rows, Prompt(" same "), "other"])) == 2
    files = [row["file"] for row in await folder.rows()]
    assert len(set(files)) == len(files) == 5


async def test_an_inserted_row_of_a_renumbered_sheet_is_the_only_call(folder: Folder) -> None:
    texts = ["a", "b", "c", "b"]
    await folder.sheet("s.tsv", [(str(n), text) for n, text in enumerate(texts)])
    before = {row["file"]: row["index"] for row in await folder.rows()}
    texts.insert(0, "new")
    assert await folder.sheet("s.tsv", [(str(n), text) for n, text in enumerate(texts)]) == 1
    rows = await folder.rows()
    assert [row["prompt"] for row in rows] == texts
    assert rows[0]["index"] == 4
    assert {row["file"]: row["index"] for row in rows[1:]} == before
    assert all(row["file"].startswith(f"{row['index']:04d}-") for row in rows)


async def test_an_edited_row_keeps_its_picture_as_its_first_take(folder: Folder) -> None:
    rows = [("1", "a fox"), ("2", "a bear")]
    await folder.sheet("s.tsv", rows)
    (_, old) = await folder.rows()
    assert await folder.sheet("s.tsv", [rows[0], ("2", "a brown bear")]) == 1
    takes = [row for row in await folder.rows(all=True) if row["id"] == "2"]
    assert [(row["index"], row["take"], row["picked"], row["prompt"]) for row in takes] == [
        (1, 1, False, "a bear"),
        (1, 2, True, "a brown bear"),
    ]
    assert takes[0]["file"] == old["file"]
    path, content = folder.path / "s.tsv", "id\tprompt\n1\ta fox\n2\ta bear\n"
    await in_thread(path.write_text, content)
    sheet = await in_thread(read_prompts, [path])
    plan = partial(estimate, sheet, save_dir=folder.path / "out")
    assert (await in_thread(plan)).calls == 0
    other = partial(estimate, [Prompt("a bear", id="2")], save_dir=folder.path / "out")
    assert (await in_thread(other)).calls == 1  # which is no row of that sheet
    assert await folder.sheet("s.tsv", rows) == 0  # as it was before
    assert (await folder.rows())[1]["file"] == old["file"]
    assert await folder.sheet("s.tsv", [rows[0], ("2", "a brown bear")]) == 0
    assert (await folder.rows())[1]["take"] == 2


async def test_a_second_sheet_adds_to_the_folder(folder: Folder) -> None:
    await folder.sheet("one.tsv", [("1", "a"), ("2", "b")])
    assert await folder.sheet("two.tsv", [("1", "c"), ("2", "b"), ("3", "d")]) == 2
    now = await in_thread(status, folder.path / "out")
    assert (now.done, now.total) == (4, 4)
    assert {row["index"]: row["prompt"] for row in await folder.rows()} == dict(enumerate("abcd"))
    await folder.sheet("one.tsv", [("1", "a")])  # the second row was taken out, and is in the other
    assert len(await folder.rows()) == 4


async def test_an_input_that_was_cut_short_is_known_whole(folder: Folder) -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    async with generate_images(
        folder.client, prompts, save_dir=folder.path / "out", max_concurrent=1
    ) as outcomes:
        async for outcome in outcomes:
            if outcome.index == 14:
                break
    now = await in_thread(status, folder.path / "out")
    assert now.total == 40
    assert now.to_do == 40 - now.done <= 25
    assert [row["prompt"] for row in await folder.rows()] == prompts


async def test_a_long_input_is_counted_where_it_is_not_planned_ahead(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch._store._match.MOST_AHEAD", 5)
    prompts = [f"prompt {number}" for number in range(40)]
    for last in (14, 3):
        async with generate_images(
            folder.client, prompts, save_dir=folder.path / "out", max_concurrent=1
        ) as outcomes:
            async for outcome in outcomes:
                if outcome.index == last:
                    break
        assert (await in_thread(status, folder.path / "out")).total == 40
    assert await folder.run(prompts) > 0
    assert (await in_thread(status, folder.path / "out")).total == 40


async def test_an_explicit_default_is_there_already(folder: Folder) -> None:
    assert await folder.run(["a", "b "]) == 2
    settings = {"image_size": "1K", "aspect_ratio": "1:1"}
    out = folder.path / "out"
    plan = await to_thread.run_sync(lambda: estimate(["a ", "b"], save_dir=out, **settings))
    assert plan.calls == 0
    assert await folder.run(["a ", "b"], **settings) == 0
    assert await folder.run(["a"], image_size="2K") == 1


async def test_a_take_is_asked_for_by_the_number_of_its_row(folder: Folder) -> None:
    await folder.run(["a", "b"])
    await folder.run(["new", "b", "a"])
    async with Store(folder.path / "out") as store:
        _, request = await store.further(0)
    assert request.text == "a"
