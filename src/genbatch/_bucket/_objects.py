"""The shared store: objects that any number of machines write at once.

1. A done object names an image that is complete: it is written last. Of two, the first wins.
2. What save has returned is durable; saving the same again changes nothing.
3. Finding what is done takes no read per object: names are listed, and the rest comes from segments
   of the index, which copy done objects by the thousand. Losing a segment costs time only.

Layout: ``images/ab/cd/<sha256>.<ext>``, ``done/ab/cd/<key>.json`` beside it with all that is known,
``index/<random>.jsonl``, ``rows/<random>.jsonl``, ``failed/<key>.json``, ``ledger/<run>.json``,
``money.json``, ``damaged/ab/cd/<key>-<sha256>.<ext>``, ``tmp/``; and of running processes
``sessions/<id>.json``, ``claims/<key>.json``, ``blocks/<digest>.json``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from typing import Any, Self

from pydantic_core import from_json, to_json

from genbatch._values import Image, StoreError, extension_of

from ._places import open_place

_THREADS = 16
_SEGMENT = 10_000  # rows
_ROW_BYTES = 300  # about, of the index
_MOST_SEGMENTS = 64  # above this they are merged into one
_FEW = 1000  # keys: as many as a bucket lists in one request
MONEY = "money.json"  # what all processes have spent or were granted, see SharedLedger


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
        where: A directory, created if missing, or the URL of a bucket and a prefix, such as
            ``"s3://bucket/foxes"``.
        options: Of a bucket; see ObjectStore.

    Raises:
        StoreError: If it cannot be written to, or cannot create objects exclusively.
        ImportError: If the URL needs a package that is not installed.
    """

    def __init__(
        self, where: str | os.PathLike[str], options: Mapping[str, Any] | None = None
    ) -> None:
        self.place = open_place(where, options)

    def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none; one read."""
        row = self.row(key)
        return None if row is None else self._image(row)

    def row(self, key: str) -> dict[str, Any] | None:
        """Return all that is known of the image of a key, None if there is none; one read."""
        data = self.place.read(_done(key))
        if data is None:
            return None
        try:
            row: dict[str, Any] = from_json(data)
            self._image(row)
        except (ValueError, KeyError, TypeError) as exc:
            where = self.place.uri(_done(key))
            raise StoreError(f"{where} is damaged: remove it, and its image is made again") from exc
        return row

    def save(self, key: str, image: Image, about: Mapping[str, Any] | None = None) -> StoredImage:
        """Save an image under a key; return the one stored there, which is the first saved.

        Args:
            key: Of the request.
            image: Its image.
            about: What else to keep beside it.
        """
        return self._image(self.save_row(key, image, about))

    def save_row(
        self, key: str, image: Image, about: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Save an image, as save; return all that is known of the one stored there."""
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
            "damaged": [self.keep_damaged(key, data) for data in image.damaged],
            "text": image.text,
            "response_id": image.response_id,
            "width": image.width,
            "height": image.height,
            **(about or {}),
        }
        if self.place.create(_done(key), to_json(row)):
            return row
        first = self.row(key)
        if first is None:
            raise StoreError(f"{self.place.uri(_done(key))} was removed while it was written")
        return first

    def keep_damaged(self, key: str, data: bytes) -> str:
        """Keep what came in place of the image of a key, and return the name of its file."""
        digest = hashlib.sha256(data).hexdigest()
        name = f"damaged/{key[:2]}/{key[2:4]}/{key}-{digest}{extension_of(data)}"
        self.place.create(name, data)  # False where it is there already
        return name

    def done(self) -> Iterator[StoredImage]:
        """Yield every image, in no order; those missing from the index are added to it."""
        yield from map(self._image, self._complete("index"))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all that is known of every image, in no order, as done does."""
        yield from self._complete("rows")

    def _complete(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of an index, then those that it lacks, which are added to it."""
        left = self.keys()
        segments = [name for name in self.place.names(kind) if name.endswith(".jsonl")]
        fresh: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_THREADS) as threads:
            for rows in threads.map(partial(self._segment, kind), segments):
                for row in rows:
                    if row["key"] in left:  # a row in two segments comes once
                        left.remove(row["key"])
                        yield row
            for each in threads.map(self.row, sorted(left)):
                if each is not None:
                    fresh.append(each)
                    yield each
        self._add(kind, map(to_json, map(_brief, fresh) if kind == "index" else fresh))
        if len(segments) > _MOST_SEGMENTS:
            self._merge(kind, segments)

    def indexed(self, most: float = inf) -> Iterator[dict[str, Any]]:
        """Yield what the index knows; a segment that another process merges meanwhile is missing.

        Args:
            most: Bytes to read at most; of a larger index nothing is yielded.
        """
        segments = [name for name in self.place.names("index") if name.endswith(".jsonl")]
        if len(segments) * _SEGMENT * _ROW_BYTES > most and self._size(segments) > most:
            return
        with ThreadPoolExecutor(_THREADS) as threads:
            for rows in threads.map(partial(self._segment, "index"), segments):
                yield from rows

    def _size(self, segments: list[str]) -> int:
        """Return about how many bytes segments have, by the first few of them."""
        read = [len(self.place.read(f"index/{name}") or b"") for name in segments[:3]]
        return sum(read) * len(segments) // len(read)

    def fail(self, key: str, row: Mapping[str, Any]) -> None:
        """Note that a request was refused for good."""
        self.place.replace(f"failed/{key}.json", to_json(row))

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return why a request was refused for good, None if it was not."""
        data = self.place.read(f"failed/{key}.json")
        return None if data is None else from_json(data)

    def failures(self, made: Container[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield all requests that were refused for good, but for keys that were made later."""
        names = self.place.under("failed") or []
        with ThreadPoolExecutor(_THREADS) as threads:
            keys = (name.removesuffix(".json") for name in names)
            left = (key for key in keys if key not in made)
            yield from filter(None, threads.map(self.failure, left))

    def add_segments(self, images: Iterable[StoredImage]) -> None:
        """Copy done objects into the index."""
        # Without the uri, since the store may be moved.
        self._add("index", (to_json(image, exclude={"uri"}) for image in images))

    def add_rows(self, rows: Collection[Mapping[str, Any]]) -> None:
        """Copy all that is known of images into both indexes."""
        self._add("index", map(to_json, map(_brief, rows)))
        self._add("rows", map(to_json, rows))

    def _add(self, kind: str, lines: Iterable[bytes]) -> None:
        found = list(lines)
        for first in range(0, len(found), _SEGMENT):
            segment = b"\n".join(found[first : first + _SEGMENT])
            self.place.replace(f"{kind}/{secrets.token_hex(8)}.jsonl", segment)

    def keys(self) -> set[str]:
        """Return the keys of all done objects, by listing names: of a few in one request."""
        found = [self.place.under("done", _FEW)]
        if found[0] is None:
            with ThreadPoolExecutor(_THREADS) as threads:
                shards = [f"done/{name}" for name in self.place.names("done")]
                found = list(threads.map(self.place.under, shards))
        return {name[:-5] for names in found for name in names or () if name.endswith(".json")}

    def ledger(self) -> dict[str, dict[str, float]]:
        """Return what each run has spent or was granted."""
        names = self.place.names("ledger")
        found = {name: self.place.read(f"ledger/{name}") for name in names}
        runs = {name.removesuffix(".json"): from_json(data) for name, data in found.items() if data}
        if (shared := self.place.read(MONEY)) is not None:
            runs |= from_json(shared)
        return runs

    def note(self, run: str, spent: dict[str, float]) -> None:
        """Replace the record of what a run has spent or was granted."""
        self.place.replace(f"ledger/{run}.json", to_json(spent))

    def _segment(self, kind: str, name: str) -> list[dict[str, Any]]:
        data = self.place.read(f"{kind}/{name}") or b""
        return [from_json(line) for line in data.splitlines()]

    def _merge(self, kind: str, segments: list[str]) -> None:
        """Merge segments into one; a kill at any point leaves each row in at least one."""
        lines = b"\n".join(filter(None, (self.place.read(f"{kind}/{name}") for name in segments)))
        self.place.replace(f"{kind}/{secrets.token_hex(8)}.jsonl", lines)
        for name in segments:
            self.place.remove(f"{kind}/{name}")

    def _keep(self, image: Image) -> str:
        """Write the bytes of an image to a file named by their digest; return the name."""
        sha256 = hashlib.sha256(image.data).hexdigest()
        for turn in count(1):
            number = "" if turn == 1 else f".{turn}"
            name = f"images/{sha256[:2]}/{sha256[2:4]}/{sha256}{number}{image.extension}"
            if self.place.create(name, image.data) or self.place.read(name) == image.data:
                return name
        raise AssertionError  # every name is taken by a foreign file

    def _image(self, row: Mapping[str, Any]) -> StoredImage:
        return StoredImage.of(row, self.place.uri(str(row["file"])))


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the index has of a row."""
    names = (*(name for name in StoredImage.__slots__ if name != "uri"), "width", "height")
    return {name: row.get(name) for name in names}


def _done(key: str) -> str:
    return f"done/{key[:2]}/{key[2:4]}/{key}.json"
