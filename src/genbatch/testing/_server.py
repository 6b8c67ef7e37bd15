"""FakeGemini: a loopback server that speaks the Gemini wire.

1. A call is in flight from the last byte of its request until just before the last bytes of its
   answer are sent, or its client hangs up: clients that hold k calls never make it k + 1.
2. An image counts as paid once it is made, whether or not its bytes arrive.
3. Everything runs in one task group, so leaving the block leaves nothing behind.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.to_thread

from ._draw import draw
from ._faults import Fault, cuts_before_answer, reply_in_place
from ._http import Connection, Disconnected, Request, pause
from ._wire import (
    Call,
    Reply,
    called_model,
    dimensions,
    error_reply,
    image_reply,
    json_reply,
    parse_call,
    refusal,
    seed_of,
)

_BACKLOG = 2048
_LARGEST_BODY = 100_000_000  # bytes of a request
_KEPT_BODY = 16_000  # bytes of a request that the list of calls keeps
_KEPT_CALLS = 10_000
_DRAWING_THREADS = 4
_NO_FAULT = Fault()
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a server has counted.

    Attributes:
        calls: generateContent requests received, right or wrong.
        images: Images made, that is, paid for.
        in_flight: Calls being answered now.
        peak: Most calls that were ever in flight at once.
    """

    calls: int
    images: int
    in_flight: int
    peak: int


class FakeGemini:
    """A server on this machine that answers generateContent with drawn images.

    Enter it with ``async with``, under asyncio or trio, and point a client at ``url``. Any
    non-empty API key and any model that is not retired will do. ``GET /stats`` answers the stats.

    Args:
        latency: Seconds each call takes, or a function that tells them for a call.
        image_size: Longer side of the images in pixels; the request's aspect ratio decides the
            other.
        faults: What goes wrong, call by call (None: nothing, as after the last), or a function
            that tells it for a call. Calls refused as wrong use none up.
        port: Port to listen on, 0 for a free one.
        host: Address to listen on.

    Raises:
        ValueError: If image_size is below 1 or latency below 0.
        OSError: On entering, if host and port cannot be listened on.

    Cancellation: leaving the block cancels every call and closes every connection.
    Failure: an error in the block arrives bare; one in latency or faults cancels the block and
    arrives in an ExceptionGroup.
    """

    def __init__(
        self,
        *,
        latency: float | Callable[[Call], float] = 0.0,
        image_size: int = 512,
        faults: Iterable[Fault | None] | Callable[[Call], Fault | None] = (),
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be >= 1, got {image_size}")
        if not callable(latency) and not latency >= 0:
            raise ValueError(f"latency must be >= 0, got {latency}")
        self._latency = latency
        self._image_size = image_size
        self._faults = faults if callable(faults) else _one_by_one(faults)
        self._address = host, port
        self._url: str | None = None
        self._stack = AsyncExitStack()
        self._drawing = anyio.CapacityLimiter(_DRAWING_THREADS)
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._in_flight: set[Connection] = set()
        self._received = self._images = self._peak = 0

    @property
    def url(self) -> str:
        """Base URL, such as ``http://127.0.0.1:8080``."""
        if self._url is None:
            raise RuntimeError("FakeGemini is not running: enter it with `async with`")
        return self._url

    @property
    def stats(self) -> Stats:
        """The counters as they are now."""
        return Stats(self._received, self._images, len(self._in_flight), self._peak)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The last 10,000 calls, oldest first; a body beyond 16 kB is not kept: empty here."""
        return tuple(self._calls)

    async def __aenter__(self) -> Self:
        if self._url is not None:
            raise RuntimeError("FakeGemini is running already")
        await self._stack.enter_async_context(self._running())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(exc_type, exc_value, traceback)
        finally:
            self._url = None

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        failure: BaseException | None = None
        with _listen(*self._address) as listener:
            self._url = _url(listener)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._accept, listener, tasks)
                try:
                    yield
                # Kept out of the task group, which would wrap it; cancellation passes through.
                except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
                    failure = error
                tasks.cancel_scope.cancel()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or the traceback, this frame and the error keep each other alive

    async def _accept(self, listener: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    await anyio.sleep(0.1)  # the connection stays queued; do not spin on it
                continue  # otherwise the client has gone before it was accepted
            tasks.start_soon(self._converse, Connection(sock, _LARGEST_BODY))

    async def _converse(self, connection: Connection) -> None:
        try:
            while request := await connection.next_request():
                model = called_model(request.method, request.target)
                if model is None:
                    await connection.send(self._page(request))
                else:
                    await self._serve_call(model, request, connection)
        except* Disconnected:
            pass  # the client's choice, at any time
        finally:
            connection.close()

    def _page(self, request: Request) -> Reply:
        if request.method == "GET" and request.target == "/stats":
            return json_reply(asdict(self.stats))
        return error_reply(404, f"{request.method} {request.target} is not served here.")

    async def _serve_call(self, model: str, request: Request, connection: Connection) -> None:
        self._received += 1
        number = self._received
        with self._counted(connection) as release:
            async with connection.watched(on_hang_up=release):
                call = await self._parse(number, model, request)
                reply, fault = await self._answer(call)
                await connection.send(reply, fault, before_last=release)

    @contextmanager
    def _counted(self, connection: Connection) -> Iterator[Callable[[], None]]:
        """Count the connection's call as in flight until the block ends or release is called."""
        self._in_flight.add(connection)
        if len(self._in_flight) > self._peak:
            # A client may hang up and call again on another connection before this server has
            # looked at the first: that is no new peak.
            gone = [each for each in self._in_flight if each.has_hung_up()]
            self._in_flight.difference_update(gone)
        self._peak = max(self._peak, len(self._in_flight))
        release = partial(self._in_flight.discard, connection)
        try:
            yield release
        finally:
            release()

    async def _parse(self, number: int, model: str, request: Request) -> Call:
        parse = partial(parse_call, number, model, request.headers, request.body)
        if len(request.body) <= _KEPT_BODY:
            call = parse()
            self._calls.append(call)
        else:  # input images: slow enough to parse to hold up the event loop
            call = await anyio.to_thread.run_sync(parse, limiter=self._drawing)
            self._calls.append(replace(call, body={}))
        return call

    async def _answer(self, call: Call) -> tuple[Reply, Fault]:
        if (error := refusal(call)) is not None:
            return error, _NO_FAULT
        fault = self._faults(call) or _NO_FAULT
        latency = self._latency(call) if callable(self._latency) else self._latency
        await pause(latency + fault.delay)
        if cuts_before_answer(fault):
            return Reply(500, b""), fault  # which no client sees
        if (reply := reply_in_place(fault)) is not None:
            return reply, fault
        reply = await anyio.to_thread.run_sync(self._make, call, limiter=self._drawing)
        self._images += 1
        return replace(reply, status=fault.status or 200), fault

    def _make(self, call: Call) -> Reply:
        width, height = dimensions(call, self._image_size)
        seed = seed_of(call)
        return image_reply(
            call, draw(call.prompt, model=call.model, seed=seed, width=width, height=height)
        )


def _one_by_one(faults: Iterable[Fault | None]) -> Callable[[Call], Fault | None]:
    remaining = iter(faults)
    return lambda _call: next(remaining, None)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
