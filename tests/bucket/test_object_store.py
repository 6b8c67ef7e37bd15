"""Images of several processes in one bucket; here stores of one process stand for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from genbatch import Blocked, Failure, Image, ObjectStore, StoreError, Success, generate_images
from genbatch._bucket import bucket_keys, bucket_rows, bucket_status, download_bucket
from genbatch._bucket._objects import Objects
from genbatch._bucket._store import PendingObject
from genbatch._core import Turn, Waits, current_turn
from genbatch._store import Plan, export
from support.stores import image

pytestmark = pytest.mark.anyio


class Maker:
    """Counts the calls for each prompt."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refused = "blocked"

    async def __call__(self, prompt: str) -> Image:
        self.calls.append(prompt)
        await anyio.lowlevel.checkpoint()
        if prompt == self.refused:
            raise Blocked("no")
        return image(prompt)


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the images of the tests for whole ones, and look often at what others make."""
    monkeypatch.setattr("genbatch._run._service.is_whole", lambda data, kind: True)
    monkeypatch.setattr("genbatch._bucket._batch._POLL", 0.01)
    monkeypatch.setattr("genbatch._bucket._store._POLL", 0.01)


async def run(
    make: Callable[[str], Awaitable[Image]], prompts: list[str], store: ObjectStore, **options: bool
) -> list[object]:
    """Run a batch, and return its outcomes in input order."""
    async with generate_images(make, prompts, store=store, **options) as outcomes:
        found = [outcome async for outcome in outcomes]
    return sorted(found, key=lambda outcome: outcome.index)


@pytest.mark.parametrize("ordered", [False, True])
async def test_equal_inputs_are_divided_and_paid_once(url: str, ordered: bool) -> None:
    make, prompts, found = Maker(), [f"fox {n}" for n in range(70)], []

    async def process() -> None:
        found.append(await run(make, prompts, ObjectStore(url), ordered=ordered))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(process)
    assert sorted(make.calls) == sorted(prompts)
    for outcomes in found:
        assert [each.index for each in outcomes] == list(range(70))
        assert [each.value.data for each in outcomes] == [image(each).data for each in prompts]


async def test_overlapping_inputs_pay_a_prompt_once(url: str) -> None:
    make, prompts = Maker(), [f"fox {n}" for n in range(40)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, make, prompts[:30], ObjectStore(url))
        tasks.start_soon(run, make, prompts[:9:-1], ObjectStore(url))
    assert sorted(make.calls) == sorted(prompts)


async def test_equal_prompts_get_an_image_each_and_a_run_resumes(url: str) -> None:
    make = Maker()
    await run(make, ["a", "a", "b"], ObjectStore(url))
    again = await run(make, ["b", "a", "a"], ObjectStore(url))
    assert len(make.calls) == 3
    assert all(isinstance(each, Success) and each.value.resumed for each in again)


async def test_what_is_refused_for_good_is_not_asked_again(url: str) -> None:
    make = Maker()
    for _ in range(2):
        (outcome,) = await run(make, ["blocked"], ObjectStore(url))
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, Blocked)
    assert make.calls == ["blocked"]
    await run(make, ["blocked"], ObjectStore(url, retry_failed=True))
    assert len(make.calls) == 2


async def test_few_done_keys_take_no_read_each(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, read = [f"fox {n}" for n in range(10)], []
    await run(Maker(), prompts, ObjectStore(url))
    monkeypatch.setattr(Objects, "row", lambda self, key: read.append(key))
    await run(Maker(), prompts, ObjectStore(url))
    assert read == []


def fail(*_: object) -> None:
    raise StoreError("away")


async def test_an_image_that_the_bucket_does_not_take_is_kept_aside_and_saved_later(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch._bucket._store._PAUSES", (0.0,))

    make = Maker()
    with monkeypatch.context() as away:
        away.setattr(Objects, "save_row", fail)
        (outcome,) = await run(make, ["a"], ObjectStore(url, aside=tmp_path))
    assert isinstance(outcome, Failure)
    assert str(tmp_path) in str(outcome.error)
    (kept,) = tmp_path.rglob("*.png")
    assert kept.read_bytes() == image("a").data
    (outcome,) = await run(make, ["a"], ObjectStore(url, aside=tmp_path))
    assert outcome.value.resumed
    assert make.calls == ["a"]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".json")]


@pytest.mark.parametrize("is_away", [False, True])
async def test_further_images_and_what_came_in_place_of_some_are_kept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    async def make(prompt: str) -> Image:
        return replace(image(prompt), extras=(image("b"),), damaged=(b"cut off", b"none"))

    if is_away:
        with monkeypatch.context() as away:
            away.setattr("genbatch._bucket._store._PAUSES", (0.0,))
            away.setattr(Objects, "save_row", fail)
            await run(make, ["a"], ObjectStore(url, aside=tmp_path))
    (outcome,) = await run(make, ["a"], ObjectStore(url, aside=tmp_path))
    async with ObjectStore(url) as store:
        (row,) = await store.run_in_thread(list, store.objects.rows())
        read = [
            await store.run_in_thread(store.objects.place.read, name) for name in row["damaged"]
        ]
    assert read == [b"cut off", b"none"]
    assert len(row["extras"]) == len(outcome.value.extras) == 1
    assert is_away or [path.name for path in outcome.value.damaged] == [
        Path(name).name for name in row["damaged"]
    ]


async def test_the_claims_of_a_dead_process_expire(url: str) -> None:
    make = Maker()
    async with ObjectStore(url, lease=0.5) as dead:
        dead.claims._closed.set()  # it gives no sign of life any more
        await run(make, ["a"], dead)
        for name in ("blocks", "claims"):
            assert dead.objects.place.names(name) == []
        dead.objects.place.remove(f"sessions/{dead.claims.session}.json")
        assert dead.claims.take("claims/x.json")
        async with ObjectStore(url) as other:
            assert other.claims.take("claims/x.json")


async def test_what_a_worker_waited_before_a_call_does_not_shorten_it(url: str) -> None:
    turn = Turn(Waits())
    turn.seconds = 3600.0
    token = current_turn.set(turn)
    try:
        async with ObjectStore(url) as store, store.pending(Plan("ab" * 32, "a")) as pending:
            assert isinstance(pending, PendingObject)
            await pending.save(image("a"))
    finally:
        current_turn.reset(token)
    (row,) = await run_sync(lambda: list(Objects(url).rows()))
    assert row["elapsed"] >= 0


async def test_what_was_refused_and_then_made_is_made(url: str, tmp_path: Path) -> None:
    make = Maker()
    await run(make, ["blocked"], ObjectStore(url))
    make.refused = ""
    await run(make, ["blocked"], ObjectStore(url, retry_failed=True))

    def looked_at() -> tuple[Any, ...]:
        download_bucket(url, tmp_path)
        statuses = [
            [row["status"] for row in rows] for rows in (bucket_rows(url), export(tmp_path))
        ]
        return (*statuses, bucket_status(url).failed, bucket_keys(url)[1])

    assert await run_sync(looked_at) == (["done"], ["done"], {}, {})
