"""What every store of images by key promises, the local one and the shared one alike."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from genbatch._bucket import Objects, StoredImage
from support.stores import KEY, OTHER_KEY, KeyedStore, image, open_store
from support.warm import run_module

pytestmark = pytest.mark.anyio

Opening = Callable[[], AbstractAsyncContextManager[KeyedStore]]


@pytest.fixture(params=["journal", "directory", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is kept: a kind, a colon, and its directory or URL."""
    place = f"memory://{uuid4().hex}" if request.param == "memory" else str(tmp_path / "store")
    return f"{request.param}:{place}"


@pytest.fixture
def opening(where: str) -> Opening:
    return partial(open_store, where)


def read(stored: StoredImage) -> bytes:
    if "://" not in stored.uri:
        return Path(stored.uri).read_bytes()
    found = Objects(stored.uri.removesuffix(f"/{stored.file}")).place.read(stored.file)
    assert found is not None
    return found


async def test_an_unknown_key_has_no_image(opening: Opening) -> None:
    async with opening() as store:
        assert await store.find(KEY) is None
        assert await store.keys() == set()


async def test_what_was_saved_is_found_with_its_bytes(opening: Opening) -> None:
    async with opening() as store:
        saved = await store.save(KEY, image("a"))
        assert await store.find(KEY) == saved
        assert await store.find(OTHER_KEY) is None
    assert read(saved) == image("a").data
    assert (saved.key, saved.mime_type, saved.model, saved.cost, saved.bytes) == (
        KEY, "image/png", "a-model", 0.25, len(image("a").data),
    )  # fmt: skip


async def test_it_is_found_by_the_next_to_open_the_store(opening: Opening) -> None:
    async with opening() as store:
        saved = await store.save(KEY, image("a"))
    async with opening() as store:
        assert await store.find(KEY) == saved
        assert await store.keys() == {KEY}
        assert await store.keys() == {KEY}  # and when an index knows it


async def test_saving_again_changes_nothing(opening: Opening) -> None:
    async with opening() as store:
        saved = await store.save(KEY, image("a"))
        assert await store.save(KEY, image("a")) == saved
        assert await store.keys() == {KEY}


async def test_the_first_of_two_images_of_a_key_wins(opening: Opening) -> None:
    async with opening() as store:
        first = await store.save(KEY, image("a"))
    async with opening() as store:
        assert await store.save(KEY, image("b")) == first
        assert await store.find(KEY) == first
    assert read(first) == image("a").data


async def test_of_many_savers_of_a_key_all_are_told_of_one_image(opening: Opening) -> None:
    told: list[StoredImage] = []

    async def save(store: KeyedStore, number: int) -> None:
        told.append(await store.save(KEY, image(f"number {number}")))

    async with opening() as store:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(save, store, number)
        assert set(told) == {await store.find(KEY)}
    assert read(told[0]) in [image(f"number {number}").data for number in range(8)]


async def test_two_keys_may_have_equal_images(opening: Opening) -> None:
    async with opening() as store:
        one, other = await store.save(KEY, image("a")), await store.save(OTHER_KEY, image("a"))
        assert await store.keys() == {KEY, OTHER_KEY}
    assert read(one) == read(other) == image("a").data


async def test_further_images_of_an_answer_are_saved_too(opening: Opening, where: str) -> None:
    async with opening() as store:
        saved = await store.save(KEY, replace(image("a"), extras=(image("extra"),)))
        assert await store.find(KEY) == saved
    if not where.startswith("memory"):
        directory = Path(where.partition(":")[2])
        assert image("extra").data in [path.read_bytes() for path in directory.rglob("*.png")]


async def test_a_foreign_object_is_not_written_over(opening: Opening, where: str) -> None:
    kind, _, place = where.partition(":")
    async with opening() as store:
        first = await store.save(KEY, image("a"))
    if kind == "memory":
        objects = Objects(place).place
        objects.remove(f"done/{KEY[:2]}/{KEY[2:4]}/{KEY}.json")
        objects.replace(first.file, b"foreign")
    else:
        shutil.rmtree(place)
        Path(first.uri).parent.mkdir(parents=True)
        Path(first.uri).write_bytes(b"foreign")
    async with opening() as store:
        saved = await store.save(KEY, image("a"))
        assert await store.find(KEY) == saved, kind
    assert read(saved) == image("a").data
    assert read(first) == b"foreign"


async def test_a_cancelled_save_has_saved(opening: Opening) -> None:
    async with opening() as store:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.save(KEY, image("a"))
        assert await store.find(KEY) is not None


@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("kind", ["journal", "directory"])
async def test_a_kill_at_any_step_loses_nothing_told_and_leaves_nothing_torn(
    kind: str, step: int, tmp_path: Path
) -> None:
    """A process saves two images and is killed at its step-th look at the disk after the first."""
    where = f"{kind}:{tmp_path / 'store'}"
    ran = run_module("support.stores", where, str(step), cwd=Path(__file__).parents[1])
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
    told = ran.stdout.split()
    async with open_store(where) as store:
        keys = await store.keys()
        assert set(told) <= keys
        for key in keys:
            found = await store.find(key)
            assert found is not None
            assert read(found) == image("a" if key == KEY else "b").data
        await store.save(OTHER_KEY, image("b"))  # what is paid again is saved all the same
        assert await store.keys() == {KEY, OTHER_KEY}
