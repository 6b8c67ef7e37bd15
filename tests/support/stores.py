"""Stores of each kind, and a process that saves into one and is killed at a step of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from genbatch import Image, Store
from genbatch.ray._kept import JournalStore, KeyedStore
from genbatch.ray._objects import ObjectStore

KEY, OTHER_KEY = "ab" * 32, "cd" * 32
PNG = b"\x89PNG\r\n\x1a\n"
STEPS = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.listdir", "os.scandir")


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
        async with ObjectStore(place) as objects:
            yield objects


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
