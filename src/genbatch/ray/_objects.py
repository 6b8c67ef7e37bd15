"""The shared store: objects that any number of machines write at once.

1. A done object names an image that is there whole: it is written last. Of two, the first wins.
2. What save has returned is durable; saving the same again changes nothing.
3. What is done is found without an object read for each: by listing names, and from segments of the
   index, which copy done objects by the thousand. A segment that is lost costs time only.

Layout: ``images/ab/cd/<sha256>.<ext>``, ``done/ab/cd/<key>.json``, ``index/<random>.jsonl``,
``ledger/<run>.json``, ``tmp/``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from anyio import CancelScope, CapacityLimiter, get_cancelled_exc_class, sleep, to_thread
from pydantic_core import from_json, to_json

from genbatch._values import Image, StoreError

from ._kept import StoredImage
from ._places import open_place

R = TypeVar("R")

_THREADS = 16
_SEGMENT = 10_000  # rows
_MOST_SEGMENTS = 64  # beyond these they are made one
_PAUSES = (0.5, 2.0)  # seconds; a store that fails for a moment must not cost a paid image


class Objects:
    """The shared store for code that may block.

    Args:
        where: A directory, created if missing, or a URL that fsspec knows, such as
            ``"s3://bucket/foxes"``.

    Raises:
        StoreError: If it cannot be written to, or cannot create without replacing.
        ImportError: If what the URL needs is not installed.
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
        """Save an image under a key, and return what stands there: the first that was saved."""
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

    def done(self) -> Iterator[StoredImage]:
        """Yield every image, in no order; what no segment of the index has yet is put into one."""
        left = self._keys()
        segments = [name for name in self._place.names("index") if name.endswith(".jsonl")]
        fresh: list[StoredImage] = []
        with ThreadPoolExecutor(_THREADS) as threads:
            for rows in threads.map(self._segment, segments):
                for row in rows:
                    if row["key"] in left:  # in two segments, it comes once
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
        rows = [image.row() for image in images]
        for first in range(0, len(rows), _SEGMENT):
            lines = b"\n".join(map(to_json, rows[first : first + _SEGMENT]))
            self._place.replace(f"index/{secrets.token_hex(8)}.jsonl", lines)

    def ledger(self) -> dict[str, dict[str, float]]:
        """Return what each run has spent, or was granted."""
        names = self._place.names("ledger")
        found = {name: self._place.read(f"ledger/{name}") for name in names}
        return {name.removesuffix(".json"): from_json(data) for name, data in found.items() if data}

    def note(self, run: str, spent: dict[str, float]) -> None:
        """Write what a run has spent, or is granted, in place of what stood there."""
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
        """Make one segment of many; each row stays in at least one whatever is killed when."""
        lines = b"\n".join(filter(None, (self._place.read(f"index/{name}") for name in segments)))
        self._place.replace(f"index/{secrets.token_hex(8)}.jsonl", lines)
        for name in segments:
            self._place.remove(f"index/{name}")

    def _keep(self, image: Image) -> str:
        """Write the bytes of an image under their own name, and return that."""
        sha256 = hashlib.sha256(image.data).hexdigest()
        for turn in count(1):
            number = "" if turn == 1 else f".{turn}"
            name = f"images/{sha256[:2]}/{sha256[2:4]}/{sha256}{number}{image.extension}"
            if self._place.create(name, image.data) or self._place.read(name) == image.data:
                return name
        raise AssertionError  # a foreign file stands under every name

    def _image(self, row: dict[str, object]) -> StoredImage:
        return StoredImage.of(row, self._place.uri(str(row["file"])))


class ObjectStore:
    """The shared store under an event loop: a directory, or a URL, that many machines write to.

    Args:
        where: A directory, created if missing, or a URL that fsspec knows, such as
            ``"s3://bucket/foxes"``.

    Raises:
        StoreError: On entering, if it cannot be written to, or cannot create without replacing.
        ImportError: On entering, if what the URL needs is not installed.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self._where = where
        self._opened: Objects | None = None

    async def __aenter__(self) -> Self:
        self._threads = CapacityLimiter(_THREADS)
        self._opened = await self.hop(Objects, self._where)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened = None

    @property
    def objects(self) -> Objects:
        """The open store; its methods block.

        Raises:
            RuntimeError: If the store is not open.
        """
        if self._opened is None:
            raise RuntimeError("ObjectStore is not open: use 'async with ObjectStore(...)'")
        return self._opened

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none; one read.

        Raises:
            StoreError: If it cannot be read.
        """
        return await self.hop(self.objects.find, key)

    async def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key, and return what stands there: the first that was saved.

        Raises:
            StoreError: If it could not be written, tried three times.

        Cancellation: strikes when the image is saved, since it is paid for.
        """
        with CancelScope(shield=True):
            for pause in _PAUSES:
                try:
                    return await self.hop(self.objects.save, key, image)
                except StoreError:
                    await sleep(pause)
        return await self.hop(self.objects.save, key, image)

    async def keys(self) -> set[str]:
        """Return the keys of all images.

        Raises:
            StoreError: If they cannot be listed.
        """
        return await self.hop(lambda: {each.key for each in self.objects.done()})

    async def hop(self, function: Callable[..., R], *args: object) -> R:
        """Call function in a thread, whatever is cancelled meanwhile; a cancellation strikes after.

        It may be called twice, where a native ``Task.cancel()`` strikes, so twice must be as once.
        """
        call = partial(function, *args)
        interruption: BaseException | None = None
        with CancelScope(shield=True):
            while True:
                try:
                    result = await to_thread.run_sync(call, limiter=self._threads)
                    break
                except get_cancelled_exc_class() as exc:
                    interruption = exc
        if interruption is not None:
            raise interruption
        return result


def _done(key: str) -> str:
    return f"done/{key[:2]}/{key[2:4]}/{key}.json"
