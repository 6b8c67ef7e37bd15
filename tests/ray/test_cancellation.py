"""The shared store under cancellation: what is paid is saved, and nothing hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from genbatch._bucket import ObjectStore
from support.backends import only_asyncio
from support.stores import KEY, image

pytestmark = pytest.mark.anyio


async def test_a_cancellation_strikes_after_a_look(tmp_path: Path) -> None:
    store = await ObjectStore.open(tmp_path)
    await store.save(KEY, image("a"))
    with anyio.fail_after(30), anyio.CancelScope() as scope:
        scope.cancel()
        assert await store.find(KEY) is not None
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


@only_asyncio
@pytest.mark.parametrize("passes", range(6))
async def test_a_save_that_is_natively_cancelled_has_saved(tmp_path: Path, passes: int) -> None:
    store = await ObjectStore.open(tmp_path)
    saving = asyncio.create_task(store.save(KEY, image("a")))
    await asyncio.sleep(0)
    for _ in range(passes):
        await asyncio.sleep(0)
    saving.cancel()
    await asyncio.wait([saving])
    assert await store.find(KEY) is not None
