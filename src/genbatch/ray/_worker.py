"""Worker: makes the images of a dataset's blocks on one machine, many at once.

1. An image is stored before its row is returned; a block that is run again pays nothing again.
2. Each attempt begins when the coordinator admits it, and is always reported.
3. A stop ends the block: what is in flight, here and elsewhere, is saved, then the stop is raised.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from socket import gethostname
from typing import Any, NamedTuple, Protocol, TypeVar

from anyio import CapacityLimiter, Lock, create_task_group, get_cancelled_exc_class, sleep

from genbatch._bucket import ObjectStore, StoredImage
from genbatch._core import Success, stream
from genbatch._throttle import Throttle
from genbatch._values import (
    DamagedImage,
    GenbatchError,
    Image,
    ImageRequest,
    RateLimited,
    Stopped,
    StoreError,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import GeminiClient

from ._coordinator import HEARTBEAT, STOPS, Report

T = TypeVar("T")


class Link(Protocol):
    """How a worker reaches the coordinator."""

    def ask(self, method: str, *args: object, **options: object) -> Awaitable[Any]:
        """Call a method of the coordinator and return its answer; raise Stopped if it is gone."""

    def tell(self, method: str, *args: object) -> None:
        """Call a method of the coordinator without waiting for it; this never raises."""


@dataclass(frozen=True, slots=True)
class Work:
    """The settings of a worker.

    Attributes:
        store: Where images are saved.
        rows: Most rows in progress in this worker: being looked up, called for or saved.
        price: US dollars per image, overriding the price table.
        client: Arguments of GeminiClient, without the key, which is in the environment.
    """

    store: str
    rows: int
    price: float | None = None
    client: dict[str, Any] = field(default_factory=dict)


# The id of the current block, and the numbers of its calls.
_block: ContextVar[tuple[str, count[int]]] = ContextVar("genbatch_ray_block")


class RemoteThrottle(Throttle):
    """The coordinator's throttle, asked before each attempt."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call when the coordinator admits it, again if it is rejected.

        Cancellation: once the call has returned, nothing is awaited before its value is returned.
        """
        block, numbers = _block.get()
        number = next(numbers)
        refusal = await self._link.ask("admit", block, number)
        while refusal is None:
            try:
                value = await call()
            except RateLimited as exc:
                refusal = await self._link.ask("report", block, number, Report(exc))
            except Exception as exc:
                self._link.tell("report", block, number, Report(_light(exc)))
                raise
            except get_cancelled_exc_class():
                lost = GenbatchError("the call was cancelled", maybe_paid=True)
                self._link.tell("report", block, number, Report(lost))
                raise
            else:
                self._link.tell("report", block, number, _report(value))
                return value
        raise refusal


class _Opened(NamedTuple):
    """What a worker opens once, for all its blocks."""

    store: ObjectStore
    client: GeminiClient
    limiter: CapacityLimiter


class Worker:
    """Makes images of rows.

    Args:
        work: Its settings.
        link: Reaches the coordinator.
    """

    def __init__(self, work: Work, link: Link) -> None:
        self._work = work
        self._link = link
        self._opening = Lock()
        self._opened: _Opened | None = None

    async def make(self, requests: list[tuple[str, ImageRequest]]) -> list[StoredImage | Exception]:
        """Return the image of each key and request, or the error why there is none.

        Raises:
            GenbatchError: The error that has stopped the run.
            ImportError: If the store's URL needs a package that is not installed.
        """
        block = secrets.token_hex(8)
        _block.set((block, count()))
        if (refusal := await self._link.ask("enter", block)) is not None:
            await self._leave(block, [], stopped=True)
            raise refusal
        saved: list[StoredImage] = []
        results: dict[int, StoredImage | Exception] = {}
        async with self._attended(block):
            try:
                stop = await self._stream(await self._open(), requests, results, saved)
            except Exception as exc:  # noqa: BLE001 - raised below, once all others know
                stop = exc
                self._link.tell("failed", exc if isinstance(exc, STOPS) else _light(exc))
            failed = sum(isinstance(each, Exception) for each in results.values())
            await self._leave(block, saved, stopped=stop is not None, failed=failed)
        if stop is not None:
            raise stop
        return [results[index] for index in range(len(requests))]

    async def aclose(self) -> None:
        """Close the client's connections."""
        if self._opened is not None:
            await self._opened.client.__aexit__(None, None, None)

    async def _stream(
        self,
        opened: _Opened,
        requests: list[tuple[str, ImageRequest]],
        results: dict[int, StoredImage | Exception],
        saved: list[StoredImage],
    ) -> Exception | None:
        """Make the images; return what has stopped the run, if anything has."""
        stop: Exception | None = None

        async def generate(item: tuple[str, ImageRequest]) -> StoredImage:
            key, request = item
            if (found := await opened.store.find(key)) is not None:
                return found
            try:
                image = await opened.client.generate_image(request, price=self._work.price)
            except DamagedImage as error:
                if error.data is not None:
                    error.file = await opened.store.keep_damaged(key, error.data)
                error.data = None  # a row has its name
                raise
            stored = await opened.store.save(key, image)
            saved.append(stored)
            return stored

        async with stream(
            generate, requests, max_concurrent=self._work.rows, limiter=opened.limiter
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

    async def _open(self) -> _Opened:
        async with self._opening:
            if self._opened is None:
                store = await ObjectStore.open(self._work.store)
                client = self._client()
                limiter = CapacityLimiter(self._work.rows)
                self._opened = _Opened(store, await client.__aenter__(), limiter)
        return self._opened

    def _client(self) -> GeminiClient:
        try:
            return GeminiClient(throttle=lambda _: RemoteThrottle(self._link), **self._work.client)
        except Unauthorized as exc:  # before any call: there is no key to refuse
            name = "GEMINI_API_KEY (or GOOGLE_API_KEY)"
            raise Unauthorized(
                f"no API key on the machine {gethostname()}: set {name} where the cluster's "
                "machines are created, on each of them"
            ) from exc

    async def _leave(
        self, block: str, saved: list[StoredImage], *, stopped: bool, failed: int = 0
    ) -> None:
        """Leave; after a stop, wait until all others have saved what they had in flight."""
        with suppress(Stopped):  # without the coordinator there is nothing to leave
            await self._link.ask("leave", block, saved, stopped=stopped, failed=failed)

    @asynccontextmanager
    async def _attended(self, block: str) -> AsyncIterator[None]:
        """Have the coordinator attend a block, and keep it alive, inside."""
        self._link.tell("attend", block)
        async with create_task_group() as tasks:
            tasks.start_soon(self._beat, block)
            yield
            tasks.cancel_scope.cancel()

    async def _beat(self, block: str) -> None:
        while True:
            await sleep(HEARTBEAT)
            self._link.tell("beat", block)


def _report(value: object) -> Report:
    """Return the report of an answer: an image, or the error why it has none."""
    if isinstance(value, Exception):
        return Report(_light(value), answered=True)
    if not isinstance(value, Image):
        return Report()
    return Report(cost=value.cost, images=value.images)


def _light(error: Exception) -> Exception:
    """Return an error that any process can unpickle: genbatch's own, others by name."""
    if isinstance(error, DamagedImage):
        error = copy(error)
        error.data = None
    if isinstance(error, GenbatchError):
        return error
    return GenbatchError(f"{type(error).__name__}: {error}", maybe_paid=True)
