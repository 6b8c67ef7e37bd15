"""The shared store: objects that any number of machines write at once.

1. A done object names an image that is complete: it is written last. Of two, the first wins.
2. What save has returned is durable; saving the same again changes nothing.
3. Finding what is done takes no read per object: names are listed, and the rest comes from segments
   of the index, which copy done objects by the thousand. Losing a segment costs time only.

Layout: ``images/ab/cd/<sha256>.<ext>``, ``done/ab/cd/<key>.json``, ``index/<random>.jsonl``,
``ledger/<run>.json``, ``damaged/ab/cd/<key>-<sha256>.<ext>``, ``tmp/``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Self, TypeVar

from anyio import CancelScope, CapacityLimiter, sleep, to_thread
from pydantic_core import from_json, to_json

from genbatch._store import run_to_end
from genbatch._values import Image, StoreError, extension_of

from ._places import open_place

R = TypeVar("R")

_THREADS = 16
_SEGMENT = 10_000  # rows
_MOST_SEGMENTS = 64  # above this they are merged into one
_PAUSES = (0.5, 2.0)  # seconds; a store that fails for a moment must not cost a paid image


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in the shared store; holds no bytes.

    Attributes:
        key: SHA-256 of the whole request, in hex.
        file: Its name in the store.
        sha256: Hex digest of its bytes.
        bytes: Its size.
        mime_type: True type, read from the bytes.
        model: Full id of the model asked, None if unknown.
        cost: US dollars by the price table, None if unknown.
        uri: Where others find it: an absolute path, or a URL.
    """

    key: str
    file: str
    sha256: str
    bytes: int
    mime_type: str
    model: str | None
    cost: float | None
    uri: str

    @classmethod
    def of(cls, row: Mapping[str, Any], uri: str) -> Self:
        """Return the image of a done object, or of a row of the index."""
        return cls(**{name: row[name] for name in cls.__slots__ if name != "uri"}, uri=uri)


class Objects:
    """The shared store; its methods block.

    Args:
        where: A directory, created if missing, or a URL that fsspec knows, such as
            ``"s3://bucket/foxes"``.

    Raises:
        StoreError: If it cannot be written to, or cannot create objects exclusively.
        ImportError: If the URL needs a package that is not installed.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self._place = open_place(where)

    def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none; one read."""
        data = self._place.read(_done(key))
        if data is None:
            return None
        try:
            return self._image(from_json(data))
        except (ValueError, KeyError, TypeError) as exc:
            where = self._place.uri(_done(key))
            raise StoreError(f"{where} is damaged: remove it, and its image is made again") from exc

    def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key; return the one stored there, which is the first saved."""
        extras = [self._keep(extra) for extra in image.extras]
        file = self._keep(image)
        row = {
            "key": key,
            "file": file,
            "sha256": hashlib.sha256(image.data).hexdigest(),
            "bytes": len(image.data),
            "mime_type": image.mime_type,
            "model": image.model,
            "cost": image.cost,
            "extras": extras,
            "text": image.text,
            "response_id": image.response_id,
        }
        if self._place.create(_done(key), to_json(row)):
            return self._image(row)
        first = self.find(key)
        if first is None:
            raise StoreError(f"{self._place.uri(_done(key))} was removed while it was written")
        return first

    def keep_damaged(self, key: str, data: bytes) -> str:
        """Keep what came in place of the image of a key, and return the name of its file."""
        digest = hashlib.sha256(data).hexdigest()
        name = f"damaged/{key[:2]}/{key[2:4]}/{key}-{digest}{extension_of(data)}"
        self._place.create(name, data)  # False where it is there already
        return name

    def done(self) -> Iterator[StoredImage]:
        """Yield every image, in no order; those missing from the index are added to it."""
        left = self._keys()
        segments = [name for name in self._place.names("index") if name.endswith(".jsonl")]
        fresh: list[StoredImage] = []
        with ThreadPoolExecutor(_THREADS) as threads:
            for rows in threads.map(self._segment, segments):
                for row in rows:
                    if row["key"] in left:  # a row in two segments comes once
                        left.remove(row["key"])
                        yield self._image(row)
            for each in threads.map(self.find, sorted(left)):
                if each is not None:
                    fresh.append(each)
                    yield each
        self.add_segments(fresh)
        if len(segments) > _MOST_SEGMENTS:
            self._merge(segments)

    def add_segments(self, images: Iterable[StoredImage]) -> None:
        """Copy done objects into the index."""
        # Without the uri, since the store may be moved.
        rows = [to_json(image, exclude={"uri"}) for image in images]
        for first in range(0, len(rows), _SEGMENT):
            lines = b"\n".join(rows[first : first + _SEGMENT])
            self._place.replace(f"index/{secrets.token_hex(8)}.jsonl", lines)

    def ledger(self) -> dict[str, dict[str, float]]:
        """Return what each run has spent or was granted."""
        names = self._place.names("ledger")
        found = {name: self._place.read(f"ledger/{name}") for name in names}
        return {name.removesuffix(".json"): from_json(data) for name, data in found.items() if data}

    def note(self, run: str, spent: dict[str, float]) -> None:
        """Replace the record of what a run has spent or was granted."""
        self._place.replace(f"ledger/{run}.json", to_json(spent))

    def _keys(self) -> set[str]:
        """Return the keys of all done objects, by listing names."""
        with ThreadPoolExecutor(_THREADS) as threads:
            shards = [f"done/{name}" for name in self._place.names("done")]
            found = threads.map(self._place.under, shards)
            return {name[:-5] for names in found for name in names if name.endswith(".json")}

    def _segment(self, name: str) -> list[dict[str, object]]:
        data = self._place.read(f"index/{name}") or b""
        return [from_json(line) for line in data.splitlines()]

    def _merge(self, segments: list[str]) -> None:
        """Merge segments into one; a kill at any point leaves each row in at least one."""
        lines = b"\n".join(filter(None, (self._place.read(f"index/{name}") for name in segments)))
        self._place.replace(f"index/{secrets.token_hex(8)}.jsonl", lines)
        for name in segments:
            self._place.remove(f"index/{name}")

    def _keep(self, image: Image) -> str:
        """Write the bytes of an image to a file named by their digest; return the name."""
        sha256 = hashlib.sha256(image.data).hexdigest()
        for turn in count(1):
            number = "" if turn == 1 else f".{turn}"
            name = f"images/{sha256[:2]}/{sha256[2:4]}/{sha256}{number}{image.extension}"
            if self._place.create(name, image.data) or self._place.read(name) == image.data:
                return name
        raise AssertionError  # every name is taken by a foreign file

    def _image(self, row: dict[str, object]) -> StoredImage:
        return StoredImage.of(row, self._place.uri(str(row["file"])))


class ObjectStore:
    """The shared store for asynchronous code: blocking calls run in threads.

    Attributes:
        objects: The blocking store, whose methods are passed to run_in_thread.
    """

    def __init__(self, objects: Objects, threads: CapacityLimiter) -> None:
        self.objects = objects
        self._threads = threads

    @classmethod
    async def open(cls, where: str | os.PathLike[str]) -> Self:
        """Open the store at a directory or URL; there is nothing to close. Raises as Objects."""
        threads = CapacityLimiter(_THREADS)
        return cls(await to_thread.run_sync(Objects, where, limiter=threads), threads)

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none; one read.

        Raises:
            StoreError: If it cannot be read.
        """
        return await self.run_in_thread(self.objects.find, key)

    async def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key; return the one stored there, which is the first saved.

        Raises:
            StoreError: If three attempts to write it have failed.

        Cancellation: is delivered once the image is saved, since it is paid for.
        """
        return await self._write(self.objects.save, key, image)

    async def keep_damaged(self, key: str, data: bytes) -> str:
        """Keep what came in place of an image, as save, and return the name of its file."""
        return await self._write(self.objects.keep_damaged, key, data)

    async def _write(self, function: Callable[..., R], *args: object) -> R:
        with CancelScope(shield=True):
            for pause in _PAUSES:
                try:
                    return await self.run_in_thread(function, *args)
                except StoreError:
                    await sleep(pause)
        return await self.run_in_thread(function, *args)

    async def run_in_thread(self, function: Callable[..., R], *args: object) -> R:
        """Call a function in a thread to its end; a cancellation is delivered afterwards."""
        return await run_to_end(function, *args, limiter=self._threads)


def _done(key: str) -> str:
    return f"done/{key[:2]}/{key[2:4]}/{key}.json"
