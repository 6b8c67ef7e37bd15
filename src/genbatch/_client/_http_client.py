"""HttpClient: what the clients of services over HTTP share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import anyio
from anyio import to_thread

from genbatch._core import LoopGuard
from genbatch._money import load_prices
from genbatch._throttle import Throttle
from genbatch._watch import check_listener
from genbatch.events import OnEvent

from ._retry import Throttles
from ._wire import check_options

if TYPE_CHECKING:
    import httpx
    import httpx2

    from .http import HttpWire

W = TypeVar("W", bound="HttpWire")

_FILE_THREADS = 4


class HttpClient(ABC, Generic[W]):
    """A client's options, its connections while it is open, and its throttles.

    Args: See GeminiClient.

    Attributes:
        on_event: Listens to its calls.
    """

    def __init__(
        self,
        *,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None,
        trust_env: bool,
        throttle: Throttle | Callable[[str], Throttle] | None,
        max_retries: int,
        timeout: float | None,
        on_event: OnEvent | None,
    ) -> None:
        check_listener(on_event)
        self.on_event = on_event
        check_options(max_retries, timeout, http_client, trust_env=trust_env)
        self._http_client = http_client
        self._trust_env = trust_env
        self._throttles = Throttles(throttle)
        self._max_retries = max_retries
        self._wire: W | None = None
        self._guard = LoopGuard(self)

    @abstractmethod
    def _connect(self) -> W:
        """Return the wire of an open client; called in a thread."""

    async def __aenter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(self._guard)
            if self._wire is not None:
                raise RuntimeError(f"{type(self).__name__} is open already")
            # Not anyio's default limiter, which the whole app shares. Made here, since it belongs
            # to the event loop that first uses it.
            self._threads = anyio.CapacityLimiter(_FILE_THREADS)
            # Imports, certificates and prices take a second, too long for the event loop.
            self._wire = await to_thread.run_sync(self._open, limiter=self._threads)
            self._held = held.pop_all()
        return self

    def _open(self) -> W:
        load_prices()
        return self._connect()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            # A cancelled app must not leave sockets open; closing waits for no peer.
            with self._held, anyio.CancelScope(shield=True):
                await wire.aclose()

    def _opened(self) -> W:
        if self._wire is None:
            name = type(self).__name__
            raise RuntimeError(f"{name} is not open: use 'async with {name}(...)'")
        self._guard.check()
        return self._wire

    @property
    def http_client(self) -> httpx.AsyncClient | httpx2.AsyncClient:
        """What sends its requests while it is open, such as for OpenTelemetry to instrument.

        Raises:
            RuntimeError: If the client is not open.
        """
        http: httpx.AsyncClient | httpx2.AsyncClient = self._opened().http
        return http

    @property
    def throttles(self) -> Mapping[str, Throttle]:
        """The throttles of the models called so far, by full id."""
        return self._throttles

    @property
    def max_connections(self) -> float:
        """Most connections at once, by the limit of open files; further calls wait.

        Infinite while the client is not open, and with an http_client of one's own.
        """
        return math.inf if self._wire is None else self._wire.most_connections
