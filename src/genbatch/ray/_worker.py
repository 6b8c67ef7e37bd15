"""Worker: what makes the images of one block after the other, many at once, on one machine.

1. A row has its image in the store before it exists; a block that comes again pays nothing again.
2. Each attempt begins when the coordinator admits it, and is reported whatever comes of it.
3. A stop ends the block: what is in flight, here and elsewhere, is saved, and then it is raised.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeVar

from anyio import CapacityLimiter, Lock, create_task_group, get_cancelled_exc_class, sleep

from genbatch._core import Success, stream
from genbatch._throttle import Throttle
from genbatch._values import (
    GenbatchError,
    Image,
    ImageRequest,
    RateLimited,
    Stopped,
    StoreError,
    Unavailable,
)
from genbatch.gemini import GeminiClient

from ._kept import StoredImage
from ._messages import BEAT, STOPS, Report
from ._objects import ObjectStore

T = TypeVar("T")


class Link(Protocol):
    """The coordinator as a worker reaches it; ask waits for the answer, tell does not."""

    def ask(self, method: str, *args: object, **options: object) -> Awaitable[Any]:
        """Call a method of the coordinator; Stopped says that it is gone."""

    def tell(self, method: str, *args: object) -> None:
        """Call a method of the coordinator, and do not wait for it; this never raises."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is to do.

    Attributes:
        store: Where images are saved.
        rows: Most rows under way in this worker: looked up, called for, and saved.
        price: US dollars an image, in place of the price table's.
        client: Arguments of GeminiClient; never its key, which is in the environment.
    """

    store: str
    rows: int
    price: float | None = None
    client: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A block on its way, as the coordinator knows it."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    numbers: count[int] = field(default_factory=count)


_batch: ContextVar[_Batch] = ContextVar("genbatch_ray_batch")


class Admitted(Throttle):
    """A throttle that is elsewhere: it asks the coordinator before each attempt."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call when the coordinator admits it, again where it is rejected.

        Cancellation: once the call has returned, nothing is awaited before its value is returned.
        """
        batch = _batch.get()
        number = next(batch.numbers)
        refusal = await self._link.ask("admit", batch.id, number)
        while refusal is None:
            try:
                value = await call()
            except RateLimited as exc:
                refusal = await self._link.ask("report", batch.id, number, Report(exc))
            except Exception as exc:
                self._link.tell("report", batch.id, number, Report(_light(exc)))
                raise
            except get_cancelled_exc_class():
                lost = GenbatchError("the call was cancelled", maybe_paid=True)
                self._link.tell("report", batch.id, number, Report(lost))
                raise
            else:
                self._link.tell("report", batch.id, number, _report(value))
                return value
        raise refusal


class Worker:
    """Makes images of rows.

    Args:
        work: What to do.
        link: To the coordinator.
    """

    def __init__(self, work: Work, link: Link) -> None:
        self._work = work
        self._link = link
        self._opening: Lock | None = None
        self._client: GeminiClient | None = None
        self._store: ObjectStore | None = None
        self._limiter: CapacityLimiter | None = None

    async def make(self, requests: list[tuple[str, ImageRequest]]) -> list[StoredImage | Exception]:
        """Return for each key and its request the image, or why there is none.

        Raises:
            GenbatchError: What has stopped the run.
            ImportError: If what the store's URL needs is not installed here.
        """
        batch = _Batch()
        _batch.set(batch)
        if (refusal := await self._link.ask("enter", batch.id)) is not None:
            await self._leave(batch, [], stopped=True)
            raise refusal
        saved: list[StoredImage] = []
        results: dict[int, StoredImage | Exception] = {}
        async with self._attended(batch):
            try:
                await self._open()
                stop = await self._stream(requests, results, saved)
            except Exception as exc:  # noqa: BLE001 - raised below, when all others know
                stop = exc
                self._link.tell("failed", exc if isinstance(exc, STOPS) else _light(exc))
            await self._leave(batch, saved, stopped=stop is not None)
        if stop is not None:
            raise stop
        return [results[index] for index in range(len(requests))]

    async def aclose(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            await self._client.__aexit__(None, None, None)

    async def _stream(
        self,
        requests: list[tuple[str, ImageRequest]],
        results: dict[int, StoredImage | Exception],
        saved: list[StoredImage],
    ) -> Exception | None:
        """Make the images; return what has stopped the run, if anything has."""
        stop: Exception | None = None
        work = self._work

        async def generate(item: tuple[str, ImageRequest]) -> StoredImage:
            return await self._make(*item, saved)

        async with stream(
            generate, requests, max_concurrent=work.rows, limiter=self._limiter
        ) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, Success):
                    results[outcome.index] = outcome.value
                    continue
                results[outcome.index] = outcome.error
                if isinstance(outcome.error, Unavailable | TimeoutError | StoreError):
                    self._link.tell("failed", _light(outcome.error))
                if isinstance(outcome.error, STOPS) and stop is None:
                    stop = outcome.error
                    outcomes.drain()  # what is in flight is paid, and saved
        return stop

    async def _make(self, key: str, request: ImageRequest, saved: list[StoredImage]) -> StoredImage:
        assert self._store is not None  # noqa: S101 - make has opened it
        assert self._client is not None  # noqa: S101 - the same
        if (found := await self._store.find(key)) is not None:
            return found
        image = await self._client.generate_image(request, price=self._work.price)
        stored = await self._store.save(key, image)
        saved.append(stored)
        return stored

    async def _open(self) -> None:
        if self._opening is None:
            self._opening = Lock()
            self._limiter = CapacityLimiter(self._work.rows)
        async with self._opening:
            if self._store is None:
                self._store = await ObjectStore(self._work.store).__aenter__()
            if self._client is None:
                client = GeminiClient(throttle=lambda _: Admitted(self._link), **self._work.client)
                self._client = await client.__aenter__()

    async def _leave(self, batch: _Batch, saved: list[StoredImage], *, stopped: bool) -> None:
        """Leave; after a stop, when all others have what they were sent."""
        with suppress(Stopped):  # the coordinator is gone, and what is saved is saved
            await self._link.ask("leave", batch.id, saved, stopped=stopped)

    @asynccontextmanager
    async def _attended(self, batch: _Batch) -> AsyncIterator[None]:
        """Let the coordinator know of a batch, and that it is alive, in the block."""
        self._link.tell("attend", batch.id)
        async with create_task_group() as tasks:
            tasks.start_soon(self._beat, batch)
            yield
            tasks.cancel_scope.cancel()

    async def _beat(self, batch: _Batch) -> None:
        while True:
            await sleep(BEAT)
            self._link.tell("beat", batch.id)


def _report(value: object) -> Report:
    """Return what came of an answer: an image, or why it has none."""
    if isinstance(value, Exception):
        return Report(_light(value), answered=True)
    return Report(cost=value.cost if isinstance(value, Image) else None)


def _light(error: Exception) -> Exception:
    """Return an error that any process can read: one of genbatch's as it is, others by name."""
    if isinstance(error, GenbatchError):
        return error
    return GenbatchError(f"{type(error).__name__}: {error}", maybe_paid=True)
