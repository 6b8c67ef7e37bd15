"""ObjectStore: a bucket that any number of processes fill at once, each image paid for once.

1. A key has exactly one image: its done object is created, never replaced.
2. A call begins after its key is claimed, and was found neither done nor refused by another.
3. An image handed in is durable when save returns, whatever is cancelled: in the bucket, or while
   the bucket fails, in a local folder from which the next process to open the store saves it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path, PosixPath
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio import CancelScope, CapacityLimiter, sleep
from anyio.lowlevel import checkpoint_if_cancelled
from pydantic_core import from_json, to_json

from genbatch._core import ParkingLot, waiting
from genbatch._money import Budget
from genbatch._store import FINAL, CallClock, Plan, run_to_end
from genbatch._values import (
    DamagedImage,
    Image,
    SavedImage,
    Stopped,
    StoreError,
    Usage,
    sniff_mime_type,
)

from ._claims import Claims
from ._ledger import SharedLedger
from ._objects import Objects, StoredImage
from ._places import Directory

R = TypeVar("R")

_THREADS = 16
SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory")
_PAUSES = (0.5, 2.0)  # seconds; a store that fails for a moment must not cost a paid image
_POLL = 1.0  # seconds between looks at what another process makes
_SEGMENT = 1000  # rows
_DETAILS = ("reason", "text", "status", "request_id")


def bucket_path(path: Path) -> BucketPath | None:
    """Return the URL that a command line has made a path of, None if it is a path."""
    scheme, colon, rest = path.as_posix().partition(":/")
    return BucketPath(f"{scheme}:/{rest}") if colon and scheme in SCHEMES else None


def local_folder(output: Path) -> Path:
    """Return where a machine keeps what it fetches and is told for an output: there, or at home."""
    if (bucket := bucket_path(output)) is None:
        return output
    digest = sha256(str(bucket).encode()).hexdigest()[:12]
    return Path.home() / ".genbatch" / "buckets" / digest


class BucketPath(PosixPath):
    """The URL of an image, where others have a path."""

    objects: Objects | None = None

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def absolute(self) -> Self:
        """Return itself: a URL depends on no directory."""
        return self

    def read_bytes(self) -> bytes:
        """Return the bytes of the object, which is read at each call."""
        if self.objects is None:
            raise StoreError(f"{self} can be read while its ObjectStore is open")
        place = self.objects.place
        data = place.read(str(self).removeprefix(place.uri("")))
        if data is None:
            raise FileNotFoundError(str(self))
        return data


@dataclass(slots=True)
class PendingObject:
    """A request whose image is being made, as PendingImage of a local store."""

    store: ObjectStore
    plan: Plan
    is_open: bool = True
    clock: CallClock = field(default_factory=CallClock)
    call: _Noted = field(default_factory=lambda: _Noted())

    async def note_attempt(self, price: float | None) -> None:
        """Nothing: the grant of the ledger has noted it already."""

    async def forget_attempt(self) -> None:
        """Nothing, as note_attempt."""

    async def save(self, image: Image) -> SavedImage:
        """Save the image of the call, and return when it is durable.

        Raises:
            StoreError: If the bucket does not take it; the message says where it is kept.

        Cancellation: strikes when the image is saved, since it is paid for.
        """
        self.is_open = False
        return await self.store.save_planned(self.plan, image, self.clock.elapsed)


@dataclass(slots=True)
class _Noted:
    overrun: tuple[str, int, float, float] | None = None


class ObjectStore:
    """A bucket that holds the images of many processes; enter it with ``async with``.

    Args:
        url: Of a bucket and a prefix, such as ``"s3://bucket/foxes"``, ``"gs://…"``, ``"az://…"``;
            or a directory.
        storage_options: Of the service, such as ``endpoint_url``, ``key``, ``secret`` and
            ``region``; what is not given is read from the environment.
        lease: Seconds without a sign of life after which others take over what a process claimed.
        aside: Local folder for images that the bucket does not take.
        retry_failed: As for Store.

    Raises:
        StoreError: On entering, if the bucket cannot be used; the message says what to set.
        ImportError: On entering, if obstore is not installed.
    """

    objects: Objects
    claims: Claims

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        lease: float = 30.0,
        aside: str | os.PathLike[str] | None = None,
        retry_failed: bool | Collection[str] = False,
    ) -> None:
        self.url = os.fspath(url)
        self._options = storage_options
        self._lease = lease
        self._aside = Path(aside) if aside else Path.home() / ".genbatch" / "aside"
        self._retry_failed = retry_failed
        self._threads = CapacityLimiter(_THREADS)
        self._running: set[str] = set()
        self._ended = ParkingLot()
        self._rows: list[dict[str, Any]] = []
        self._ledgers: list[SharedLedger] = []
        self.is_open = False

    @classmethod
    async def open(cls, where: str | os.PathLike[str]) -> Self:
        """Open the store without a session, for a coordinator; there is nothing to close."""
        store = cls(where)
        store.objects = await store.run_in_thread(Objects, where, None)
        return store

    async def __aenter__(self) -> Self:
        if self.is_open:
            raise RuntimeError("ObjectStore is open already")
        self.is_open = True
        try:
            await self.run_in_thread(self._open)
        except BaseException:
            self.is_open = False
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with CancelScope(shield=True):  # images of running calls are paid, and still to be saved
            while self._running:
                await self._ended.park()
        self.is_open = False
        await self.run_in_thread(self._close)

    async def find(self, key: str) -> StoredImage | None:
        """Return the image of a key, None if there is none; one read.

        Raises:
            StoreError: If it cannot be read.
        """
        return await self.run_in_thread(self.objects.find, key)

    async def save(
        self, key: str, image: Image, about: Mapping[str, Any] | None = None
    ) -> StoredImage:
        """Save an image under a key; return the one stored there, which is the first saved.

        Raises:
            StoreError: If three attempts to write it have failed.

        Cancellation: is delivered once the image is saved, since it is paid for.
        """
        return await self._write(self.objects.save, key, image, about)

    async def keep_damaged(self, key: str, data: bytes) -> str:
        """Keep what came in place of an image, as save, and return the name of its file."""
        return await self._write(self.objects.keep_damaged, key, data)

    async def account(self, budget: Budget, step: int) -> SharedLedger:
        """Return what the calls of a batch are paid from, over all processes."""
        make = (budget, self.objects, self.claims, step, self.run_in_thread)
        ledger: SharedLedger = await self.run_in_thread(SharedLedger, *make)
        self._ledgers.append(ledger)
        return ledger

    async def spent(self) -> tuple[float, int]:
        """Return the US dollars and images that all processes have spent or were granted."""
        granted = (await self.run_in_thread(self.objects.ledger)).values()
        images = round(sum(each["images"] for each in granted))
        return sum(each["dollars"] for each in granted), images

    async def save_planned(self, plan: Plan, image: Image, elapsed: float) -> SavedImage:
        """Save the image of a plan with all that is known of it, or keep it aside."""
        asked = json.loads(plan.asked or "{}")
        usage = asdict(image.usage) if image.usage else None
        about = {**asked, "elapsed": elapsed, "usage": usage, "made": _now()}
        try:
            row = await self._write(self.objects.save_row, plan.key, image, about)
        except StoreError as error:
            path = await self.run_in_thread(self._keep_aside, plan.key, image, about)
            raise StoreError(
                f"{error}; the image is kept as {path}, and saved by the next run here"
            ) from error
        self._rows.append(row)
        if len(self._rows) >= _SEGMENT:
            rows, self._rows = self._rows, []
            with suppress(StoreError):  # the images are saved, and found without an index
                await self.run_in_thread(self.objects.add_rows, rows)
        damaged = tuple(map(self.path_of, row.get("damaged", ())))
        return replace(self.image_of(row, resumed=False), damaged=damaged)

    def image_of(self, row: Mapping[str, Any], *, resumed: bool = True) -> SavedImage:
        """Return the image of a row."""
        usage = row.get("usage")
        return SavedImage(
            path=self.path_of(row["file"]),
            mime_type=row["mime_type"],
            size_mb=row["bytes"] / 1e6,
            sha256=row["sha256"],
            cost=row["cost"],
            resumed=resumed,
            model=row["model"],
            usage=Usage(**usage) if usage else None,
            text=row.get("text") or "",
            extras=tuple(map(self.path_of, row.get("extras") or ())),
            width=row.get("width"),
            height=row.get("height"),
        )

    def path_of(self, file: str) -> Path:
        """Return where an object is."""
        uri = self.objects.place.uri(file)
        if "://" not in uri:
            return Path(uri)
        path = BucketPath(uri)
        path.objects = self.objects
        return path

    @asynccontextmanager
    async def pending(self, plan: Plan) -> AsyncIterator[PendingObject | SavedImage]:
        """Make the image of a request in the block, claimed against all other processes.

        The block gets the image itself where another process has made it meanwhile.

        Raises:
            StoreError: If the bucket cannot be used.
            Stopped: If the batch drains while this waits.
        """
        await checkpoint_if_cancelled()
        while plan.key in self._running:
            with waiting():
                await self._ended.park()
        self._running.add(plan.key)
        claim = f"claims/{plan.key}.json"
        try:
            made = await self._claimed(claim, plan.key)
            pending = made or PendingObject(self, plan)
            try:
                yield pending
            except Stopped:
                raise  # says nothing of the request
            except Exception as exc:
                if isinstance(pending, PendingObject) and pending.is_open:
                    await self._fail(plan, exc)
                raise
        finally:
            try:
                await self.run_in_thread(self.claims.release, claim)
            finally:
                self._running.discard(plan.key)
                self._ended.unpark()

    async def forget_refusals(self, messages: Collection[str]) -> None:
        """Ask the requests again that were refused so, which says nothing of them."""
        await self.run_in_thread(self._forget, messages)

    async def run_in_thread(self, function: Callable[..., R], *args: object) -> R:
        """Call a function in a thread to its end; a cancellation is delivered afterwards."""
        return await run_to_end(function, *args, limiter=self._threads)

    async def _claimed(self, claim: str, key: str) -> SavedImage | None:
        """Claim a key, and return its image if there is one; raise why it was refused."""
        while True:
            is_own = await self.run_in_thread(self.claims.take, claim)
            row, failure = await self.run_in_thread(self._look, key)
            if row is not None:
                return self.image_of(row)
            if failure is not None and not self.retries(failure["kind"]):
                raise FINAL[failure["kind"]](failure["message"], **failure["detail"])
            if is_own:
                return None
            with waiting():
                await sleep(_POLL)

    def is_made(self, key: str) -> bool:
        """Return whether this process makes the image of a key now."""
        return key in self._running

    def retries(self, kind: str) -> bool:
        """Return whether what was refused for good with this kind of error is asked again."""
        wanted = self._retry_failed
        return wanted if isinstance(wanted, bool) else kind in wanted

    def _look(self, key: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        row = self.objects.row(key)
        return row, None if row is not None else self.objects.failure(key)

    async def _fail(self, plan: Plan, error: Exception) -> None:
        if isinstance(error, DamagedImage) and error.data is not None:
            error.file = await self.keep_damaged(plan.key, error.data)
        if type(error).__name__ in FINAL:
            found = {name: getattr(error, name, None) for name in _DETAILS}
            row = {
                **json.loads(plan.asked or "{}"),
                "key": plan.key,
                "kind": type(error).__name__,
                "message": str(error),
                "detail": {name: value for name, value in found.items() if value},
            }
            await self._write(self.objects.fail, plan.key, row)

    def _forget(self, messages: Collection[str]) -> None:
        for row in self.objects.failures():
            if row["kind"] == "Rejected" and row["message"] in messages:
                self.objects.place.remove(f"failed/{row['key']}.json")

    async def _write(self, function: Callable[..., R], *args: object) -> R:
        # Cancellation is delivered when the call is over, by run_in_thread.
        for pause in _PAUSES:
            with CancelScope(shield=True):
                try:
                    return await self.run_in_thread(function, *args)
                except StoreError:
                    await sleep(pause)
        return await self.run_in_thread(function, *args)

    def _open(self) -> None:
        self.objects = Objects(self.url, self._options)
        self.claims = Claims(self.objects.place, self._lease, self._give_back)
        try:
            self._save_kept()
        except BaseException:
            self.claims.close()
            raise

    def _give_back(self) -> None:
        for ledger in self._ledgers:
            ledger.give_back()

    def _close(self) -> None:
        try:
            rows, self._rows = self._rows, []
            if rows:
                self.objects.add_rows(rows)
            for ledger in self._ledgers:
                ledger.settle()
        finally:
            self._ledgers.clear()
            self.claims.close()

    def _keep_aside(self, key: str, image: Image, about: Mapping[str, Any]) -> Path:
        """Keep an image on the local disk, and what is known of it, which is written last."""
        folder = self._kept_in()
        local = Directory(folder)  # which writes durably
        names = [f"{key}-{n}{each.extension}" for n, each in enumerate((image, *image.extras), 1)]
        damaged = [f"{key}-{n}.damaged" for n in range(len(image.damaged))]
        whole = [each.data for each in (image, *image.extras)]
        for name, data in zip([*names, *damaged], [*whole, *image.damaged], strict=True):
            local.replace(name, data)
        known = {name: getattr(image, name) for name in ("mime_type", "model", "text", "cost")}
        row = {"key": key, "files": names, "damaged": damaged, "image": known, "about": about}
        local.replace(f"{key}.json", to_json(row))
        return folder / names[0]

    def _save_kept(self) -> None:
        """Save what the bucket did not take earlier."""
        folder = self._kept_in()
        for noted in sorted(folder.glob("*.json")):
            row = from_json(noted.read_bytes())
            paths = [folder / name for name in row["files"]]
            cut = [folder / name for name in row["damaged"]]
            first, *others = (path.read_bytes() for path in paths)
            extras = tuple(Image(data, sniff_mime_type(data) or "") for data in others)
            damaged = tuple(path.read_bytes() for path in cut)
            image = Image(first, **row["image"], extras=extras, damaged=damaged)
            self.objects.save(row["key"], image, row["about"])
            for path in (noted, *paths, *cut):
                path.unlink()

    def _kept_in(self) -> Path:
        return self._aside / sha256(self.url.encode()).hexdigest()[:12]


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
