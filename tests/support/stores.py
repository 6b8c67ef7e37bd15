"""Stores of each kind, and a process that saves into one and is killed at a step of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Protocol

import anyio
from anyio import CancelScope, Lock

from genbatch import Image, SavedImage, Store, StoreError
from genbatch._bucket import ObjectStore, StoredImage
from genbatch._store import Plan
from genbatch._store._plan import PlanRequest
from genbatch._values import ImageRequest

KEY, OTHER_KEY = "ab" * 32, "cd" * 32
PNG = b"\x89PNG\r\n\x1a\n"
STEPS = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.listdir", "os.scandir")


class KeyedStore(Protocol):
    """What every store of images by key promises.

    1. find of a key that save has returned for returns the image that save returned.
    2. Of all images saved under a key, the first is kept, and every save returns that one.
    3. What save has returned survives the death of the process.
    """

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none."""

    async def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key, and return the one stored there, the first saved."""

    async def keys(self) -> set[str]:
        """Return the keys of all images."""


class KeyedObjects(ObjectStore):
    """The shared store, with its keys."""

    async def keys(self) -> set[str]:
        """Return the keys of all images."""
        return await self.run_in_thread(lambda: {each.key for each in self.objects.done()})


class JournalStore:
    """An open Store as a store of images by key; its prompts are the keys."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._planning = Lock()
        self._batch: int | None = None
        self._positions = count()

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none."""
        return await self._store.run_in_thread(self._find, key)

    async def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key, and return the one stored there, the first saved."""
        with CancelScope(shield=True):  # it is paid for
            async with self._planning:
                plan = await self._store.run_in_thread(self._plan, key)
            async with self._store.pending(plan) as pending:
                saved = pending if isinstance(pending, SavedImage) else await pending.save(image)
        return _stored(key, saved)

    async def keys(self) -> set[str]:
        """Return the keys of all images."""
        return await self._store.run_in_thread(self._keys)

    def _find(self, key: str) -> StoredImage | None:
        if (plan := self._known(key)) is None:
            return None
        begun = self._store.archive.begin(plan)
        return _stored(key, begun) if isinstance(begun, SavedImage) else None

    def _keys(self) -> set[str]:
        with self._store.archive.journal.writing() as journal:
            made = "SELECT digest FROM item JOIN image ON item.id = item WHERE ordinal = 0"
            return {key for (key,) in journal.execute(made)}

    def _known(self, key: str) -> Plan | None:
        with self._store.archive.journal.writing() as journal:
            row = journal.first("SELECT id, name FROM item WHERE content = ?", key)
        return None if row is None else Plan(key, row[1], item=row[0])

    def _plan(self, key: str) -> Plan:
        """Return the plan of a key, made if there is none."""
        if (plan := self._known(key)) is not None:
            return plan
        archive = self._store.archive
        if self._batch is None:
            self._batch = archive.begin_batch("")
        wanted = PlanRequest.of(next(self._positions), ImageRequest(key), key)
        archive.plan(self._batch, "", [wanted], {}, 0)
        if wanted.plan is None:
            raise wanted.error or StoreError(f"{key} cannot be planned")
        return wanted.plan


def _stored(key: str, saved: SavedImage) -> StoredImage:
    return StoredImage(
        key=key,
        file=saved.path.name,
        sha256=saved.sha256,
        bytes=round(saved.size_mb * 1e6),
        mime_type=saved.mime_type,
        model=saved.model,
        cost=saved.cost,
        uri=str(saved.path),
    )


def image(name: str) -> Image:
    """Return an image with bytes of its own."""
    return Image(PNG + name.encode(), "image/png", "a-model", cost=0.25)


@asynccontextmanager
async def open_store(where: str) -> AsyncIterator[KeyedStore]:
    """Open the store at a kind, a colon, and a directory or URL."""
    kind, _, place = where.partition(":")
    if kind == "journal":
        async with Store(place) as store:
            yield JournalStore(store)
    else:
        yield await KeyedObjects.open(place)


async def save(where: str, step: int) -> None:
    """Save two images; before the step-th act on the disk after the first, be killed."""
    left: list[int] = []

    def act(event: str, _: object) -> None:
        if left and event in STEPS:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(act)
    async with open_store(where) as store:
        await store.save(KEY, image("a"))
        sys.stdout.write(f"{KEY}\n")
        sys.stdout.flush()
        left.append(step)
        await store.save(OTHER_KEY, image("b"))
        left.clear()
        sys.stdout.write(f"{OTHER_KEY}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(save, sys.argv[1], int(sys.argv[2]))
