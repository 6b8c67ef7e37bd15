"""What every store of images can do, whatever it is made of, and the local one seen so.

1. find of a key that save has returned for gives the image that save returned.
2. Of all that are saved under a key, the first is kept, and every save returns that one.
3. What save has returned is there after any death of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, Self

from anyio import CancelScope, Lock

from genbatch._store import Plan, Store, Wanted
from genbatch._values import Image, ImageRequest, SavedImage, StoreError


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in a store; holds no bytes.

    Attributes:
        key: SHA-256, in hex, of all that was asked for.
        file: Its name in the store.
        sha256: Hex digest of its bytes.
        bytes: How many they are.
        mime_type: True type, read from the bytes.
        model: Full id of the model asked, None where unknown.
        cost: US dollars by the price table, None where unknown.
        uri: Where it is for anybody else: an absolute path, or a URL.
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
        """Return what a row of an index, or a done object, tells."""
        return cls(
            row["key"],
            row["file"],
            row["sha256"],
            row["bytes"],
            row["mime_type"],
            row["model"],
            row["cost"],
            uri,
        )

    def row(self) -> dict[str, object]:
        """Return what of says it of."""
        return {
            "key": self.key,
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "mime_type": self.mime_type,
            "model": self.model,
            "cost": self.cost,
        }  # and not where it is: the store may be moved


class KeyedStore(Protocol):
    """A store of images by key; an ObjectStore is one, and a JournalStore."""

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none."""

    async def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key, and return what stands there: the first that was saved."""

    async def keys(self) -> set[str]:
        """Return the keys of all images."""


class JournalStore:
    """An open Store seen as images by key; the keys are its caller's, in place of requests.

    Args:
        store: Open; best one of its own, since what it says of prompts says keys here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._planning = Lock()
        self._batch: int | None = None
        self._positions = count()

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none."""
        return await self._store.hop(self._find, key)

    async def save(self, key: str, image: Image) -> StoredImage:
        """Save an image under a key, and return what stands there: the first that was saved."""
        with CancelScope(shield=True):  # it is paid for
            async with self._planning:
                plan = await self._store.hop(self._plan, key)
            async with self._store.pending(plan) as pending:
                saved = pending.saved or await pending.save(image)
        return _stored(key, saved)

    async def keys(self) -> set[str]:
        """Return the keys of all images."""
        return await self._store.hop(self._keys)

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
            known = journal.nth(key, 0)
        return None if known is None else Plan(key, known.name, item=known.item)

    def _plan(self, key: str) -> Plan:
        """Return the plan of a key, made if there is none."""
        if (plan := self._known(key)) is not None:
            return plan
        archive = self._store.archive
        if self._batch is None:
            self._batch = archive.begin_batch("")
        wanted = Wanted.of(next(self._positions), ImageRequest(key), key)
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
