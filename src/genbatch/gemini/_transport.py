"""The client's own connections: lanes, of which each call has one to itself.

1. A call takes the lane that was given back last, or opens one: there are never more than there
   are calls at once, and what a call costs does not depend on how many there are.
2. A lane is given back when its answer is whole, and closed if the call ended in any other way.
3. The body of a good answer is set aside as the bytes that came: on its way through the SDK it
   would be decoded and copied several times.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from logging import DEBUG, getLogger
from typing import NamedTuple

import anyio
import h11
import httpx

from genbatch._logs import log

from ._ahead import Ahead
from ._connection import LARGEST_ANSWER, Body, Connection, Origin, errors_of_httpx
from ._proxy import Proxies, Proxy
from ._sockets import open_socket
from ._turns import Turns

_log = getLogger("genbatch.client")

# Longer than most pauses between calls, shorter than a server or a router keeps idle ones.
_KEPT_IDLE = 30.0


class Aside:
    """Where the body of a good answer is set down, None where none has come."""

    __slots__ = ("body",)

    def __init__(self) -> None:
        self.body: str | Body | None = None

    def take(self) -> str | Body:
        """Return the body and forget it."""
        body, self.body = self.body, None
        return b"" if body is None else body


_aside: ContextVar[Aside] = ContextVar("aside")


@contextmanager
def set_aside() -> Iterator[Aside]:
    """Have lanes keep the body of a good answer back while the block runs."""
    aside = Aside()
    token = _aside.set(aside)
    try:
        yield aside
    finally:
        _aside.reset(token)


def open_http_client(turns: Turns, *, trust_env: bool = False) -> LaneClient:
    """Return a client over lanes that follows no redirect and limits nothing.

    Building the certificates blocks for some 20 ms.

    Args:
        turns: For the steps of every call.
        trust_env: Take proxies, and nothing else, from the environment.

    Raises:
        ValueError: If a proxy of the environment cannot be used.
    """
    return LaneClient(Lanes(turns, Proxies() if trust_env else None))


class LaneClient(httpx.AsyncClient):
    """Hands requests to lanes as they are.

    What httpx does in between, redirects, cookies, authentication, environment, is what this
    client must not do, and costs as much as sending the request.
    """

    def __init__(self, lanes: Lanes) -> None:
        super().__init__(transport=lanes, follow_redirects=False, trust_env=False)
        self._lanes = lanes
        self.certificates = lanes.certificates

    async def request(  # type: ignore[override]  # of all that httpx takes, the SDK gives this
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """Send a request and return its answer, read whole. Timeouts do not apply."""
        content = content or b""
        sent = {
            **(headers or {}),
            "host": _address(url).host,
            "content-length": str(len(content)),
            # Unpacking megabytes would stall the loop, and images hardly shrink.
            "accept-encoding": "identity",
        }
        return await self._lanes.call(method.upper(), url, [*sent.items()], content)


class Lanes(httpx.AsyncBaseTransport):
    """A stack of idle connections.

    Args:
        turns: For the steps of every call.
        proxies: How servers are reached, None: directly.
    """

    def __init__(self, turns: Turns, proxies: Proxies | None) -> None:
        self._turns = turns
        self._proxies = proxies
        self.certificates = httpx.create_ssl_context(trust_env=False)
        self.certificates.set_alpn_protocols(["http/1.1"])
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers.multi_items()
        return await self.call(request.method, str(request.url), headers, request.read())

    async def call(
        self, method: str, url: str, headers: list[tuple[str, str]], content: bytes
    ) -> httpx.Response:
        """Send a request over a lane and return its answer, read whole.

        Raises:
            httpx.HTTPError: If the server cannot be reached, or its answer is no whole one.
        """
        origin, target, _ = _address(url)
        proxy = self._proxies.of(*origin) if self._proxies else None
        if proxy and origin.scheme == "http":
            target, headers = url, [*headers, *proxy.headers]
        with errors_of_httpx():
            request = h11.Request(method=method, target=target, headers=headers)
        connection = self._take(origin) or await self._open(origin, proxy)
        self._busy.add(connection)
        try:
            answer, body = await connection.exchange(request, content)
        finally:
            self._give_back(connection)
        return _response_of(answer, body)

    def _take(self, origin: Origin) -> Connection | None:
        oldest = anyio.current_time() - _KEPT_IDLE
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.origin == origin and connection.is_quiet():
                return connection
            connection.close()
        return None

    async def _open(self, origin: Origin, proxy: Proxy | None) -> Connection:
        host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
        connection = Connection(await open_socket(host, port), origin, self._turns)
        log(_log, DEBUG, "a connection to %s:%d was opened", host, port)
        try:
            if origin.scheme == "https":
                if proxy:
                    await connection.tunnel(proxy.headers)
                await connection.start_tls(self.certificates)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.is_reusable and not self._closed:
            connection.idle_since = anyio.current_time()
            self._idle.append(connection)
        else:
            connection.close()

    async def aclose(self) -> None:
        """Close every connection; calls that are under way fail with a ReadError."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()


class _Address(NamedTuple):
    origin: Origin
    target: str
    host: str


@lru_cache(maxsize=64)  # there is one for each model
def _address(url: str) -> _Address:
    """Return where a request goes, what its first line names, and its Host header."""
    parsed = httpx.URL(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    origin = Origin(parsed.scheme, parsed.raw_host.decode("ascii"), port)
    return _Address(origin, parsed.raw_path.decode("ascii"), parsed.netloc.decode("ascii"))


def _response_of(answer: h11.Response, body: Body) -> httpx.Response:
    if dict(answer.headers).get(b"content-encoding", b"identity").lower() != b"identity":
        body = _unpacked(body)
    aside = _aside.get(None)
    if answer.status_code == 200 and aside is not None:
        aside.body = body
        return httpx.Response(200, content=b"{}")
    headers = [(name, value) for name, value in answer.headers if name != b"content-encoding"]
    return httpx.Response(answer.status_code, headers=headers, content=_bytes_of(body))


def _bytes_of(body: Body) -> bytes:
    return bytes(body.content if isinstance(body, Ahead) else body)


def _unpacked(body: Body) -> bytes:
    """Return what gzip or deflate packed: not asked for, but a server may still do so."""
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # tells the two apart by their heads
    try:
        content = unpacking.decompress(_bytes_of(body), LARGEST_ANSWER)
    except zlib.error as exc:
        raise httpx.DecodingError(str(exc)) from exc
    if not unpacking.eof:
        raise httpx.DecodingError("its packed body is cut off or too large")
    return content
