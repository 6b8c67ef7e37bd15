"""HTTP for every service: a stack of httpcore's connections behind one transport of httpx.

1. A call takes the connection that was put aside last, or opens one. There are never more
   connections than calls at once, and the cost of a call does not depend on how many there are.
   Where the process may open no more files, calls wait for room.
2. Once a read has returned the last byte of an answer, nothing is awaited, so that no cancellation
   can lose the answer. The connection is put aside as it is; a later call gives it back to
   httpcore, or closes it.
3. Every read yields to the event loop, and the size of a head, with all that precedes it, and of a
   body are bounded: a server that never stops sending runs into the caller's deadline.
4. A connection closes every stream that was opened for it, also after a cancelled handshake.
5. Errors are httpcore's, except httpx's DecodingError for a complete answer that cannot be used.
"""

from __future__ import annotations

import errno
import math
import os
import ssl
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from io import BytesIO
from logging import DEBUG, WARNING, getLogger
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

import anyio
import httpcore
import httpx
from anyio.lowlevel import checkpoint

from genbatch._core import waiting
from genbatch._logs import log

if TYPE_CHECKING:
    import httpx2

_log = getLogger("genbatch.client")

# Bytes in a body. Images take up to 20 MB as base64.
LARGEST_ANSWER = 64 * 2**20
_LARGEST_HEAD = 256 * 1024  # bytes before the end of a head, interim answers included
# Seconds: longer than most pauses between calls, shorter than servers and routers keep idle
# connections.
_KEPT_IDLE = 30.0
_READ = 64 * 1024  # h11 parses a whole read without yielding: larger ones would lengthen floods
_MOST_LINES = 200  # in a read; where there are more, it is parsed in pieces of _LINES_READ
_LINES_READ = 512
_BODY_READ = 2**20  # where a length was announced, nothing is parsed
_EITHER = zlib.MAX_WBITS | 32  # gzip or deflate
_CUT_OFF = "its compressed body is cut off"
_TURN = 2**20  # bytes that a call may read before it lets the others have a turn
_RESERVE = 24  # files and sockets kept free: for saving, the journal, name servers, and an app


class AnswerTooLarge(httpx.DecodingError):
    """An answer has more than LARGEST_ANSWER bytes. It came, so it is paid for."""


class _OutOfFiles(httpcore.ConnectError):
    """The process, or the system, may open no more files."""


class CapturedBody:
    """The body of a successful answer, None until it has come, and its headers."""

    __slots__ = ("body", "headers")

    def __init__(self) -> None:
        self.body: str | bytes | None = None
        self.headers: Mapping[str, str] = {}

    def take(self) -> str | bytes:
        """Return the body and drop it: tracebacks keep a frame's variables alive."""
        body, self.body = self.body or b"", None
        return body


_captured: ContextVar[CapturedBody] = ContextVar("captured")

_is_exchanging: ContextVar[bool] = ContextVar("is_exchanging", default=False)


def _is_of_others(_: object) -> bool:
    return not _is_exchanging.get()


# httpcore's records show the headers of answers, in which a server may echo the key.
for _name in ("connection", "http11", "proxy", "socks"):
    getLogger(f"httpcore.{_name}").addFilter(_is_of_others)


@contextmanager
def captured_body() -> Iterator[CapturedBody]:
    """Capture the body of a successful answer in the block; the answer itself gets ``{}``.

    httpx and a service's own library would decode and copy it.
    """
    captured = CapturedBody()
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)


class ConnectionStack(httpx.AsyncBaseTransport):
    """A stack of connections. An answer is read whole; a request's timeouts do not apply.

    Constructing one loads certificates, which blocks for some 20 ms.

    Args:
        trust_env: Whether to use the proxies of the environment or the system.
        most: Most connections at once.

    Attributes:
        certificates: The trusted ones: SSL_CERT_FILE's or SSL_CERT_DIR's where set, else the
            system's and certifi's.

    Raises:
        ValueError: If a proxy of the environment is malformed or not supported.
    """

    def __init__(self, *, trust_env: bool = False, most: float = math.inf) -> None:
        self.certificates = httpx.create_ssl_context()
        if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
            self.certificates.load_default_certs()
        self._proxies = _proxies_of_environment(self.certificates) if trust_env else {}
        self._turns = anyio.Lock()  # a fair one
        self._room = anyio.CapacityLimiter(most)
        self._was_full = False
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._is_closed = False

    def client(self) -> httpx.AsyncClient:
        """Return a client over the stack that asks for no compression: images hardly shrink."""
        headers = {"accept-encoding": "identity"}
        return httpx.AsyncClient(
            transport=self, headers=headers, follow_redirects=False, trust_env=False
        )

    @property
    def most(self) -> float:
        """Most connections at once, as far as is known."""
        return self._room.total_tokens

    @asynccontextmanager
    async def room(self) -> AsyncGenerator[None]:
        """Wait until there may be one more connection, and keep that for the block.

        Raises:
            Stopped: If the batch of this call drains meanwhile.
        """
        try:
            self._room.acquire_nowait()
        except anyio.WouldBlock:
            if not self._was_full:
                self._was_full = True
                message = "calls wait: the limit of open files allows no more than %d at once"
                log(_log, WARNING, message, self.most)
            with waiting():
                await self._room.acquire()
        try:
            yield
        finally:
            self._room.release()

    async def turn(self) -> None:
        """Wait for a pass of the event loop in which no other call takes a large step.

        Calls that begin together, or answers that arrive together, would block it one after the
        other.
        """
        async with self._turns:
            pass

    def proxy_for(self, url: httpx.URL) -> httpx.Proxy | None:
        """Return the proxy to a server, None where it is reached directly."""
        proxy = self._proxies.get(url.scheme)
        bypassed = proxy is not None and proxy_bypass(f"{url.host}:{url.port or _port_of(url)}")
        return None if bypassed else proxy

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=_Content(await request.aread()),
        )
        kept = await self._take(asked.url.origin)
        if kept is not None:
            try:
                return _response_of(*await self._exchange(kept, asked))
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                # The server closed it while the request was on its way.
                if kept.has_received or self._is_closed:
                    raise
        opened = _Connection(asked.url.origin, self.proxy_for(url), self.certificates, self._turns)
        return _response_of(*await self._exchange(opened, asked))

    async def _take(self, origin: httpcore.Origin) -> _Connection | None:
        oldest = anyio.current_time() - _KEPT_IDLE
        while self._idle and self._idle[0].idle_since < oldest:
            await self._idle.popleft().aclose()
        while self._idle:
            connection = self._idle.pop()
            can_carry = False
            try:
                can_carry = await connection.can_carry(origin)
            finally:
                if not can_carry:
                    await connection.aclose()
            if can_carry:
                return connection
        return None

    async def _exchange(
        self, connection: _Connection, asked: httpcore.Request
    ) -> tuple[httpcore.Response, bytes]:
        self._busy.add(connection)
        try:
            answer = await connection.exchange(asked)
        except BaseException as exc:
            if isinstance(exc, _OutOfFiles):  # the rest of the process has opened more than before
                others = len(self._busy) - 1 + len(self._idle)
                self._room.total_tokens = min(self.most, others or self.most)
            await connection.aclose()
            raise
        finally:
            self._busy.discard(connection)
        connection.idle_since = anyio.current_time()
        self._idle.append(connection)
        return answer

    async def aclose(self) -> None:
        """Close every connection; calls that are under way fail with a ReadError."""
        self._is_closed = True
        for connection in (*self._idle, *self._busy):
            await connection.aclose()
        self._idle.clear()


class _Connection(httpcore.AsyncNetworkBackend):
    """A connection of httpcore, and its network backend, so that it knows the stream it opens.

    Args:
        origin: The server.
        proxy: The proxy to it, if any.
        certificates: The trusted ones.
        turns: A fair lock for the reads of all connections.

    Attributes:
        idle_since: When its last answer ended, by the event loop's clock.
    """

    def __init__(
        self,
        origin: httpcore.Origin,
        proxy: httpx.Proxy | None,
        certificates: ssl.SSLContext,
        turns: anyio.Lock,
    ) -> None:
        self.idle_since = 0.0
        self._turns = turns
        self._stream: _Stream | None = None
        self._answer: httpcore.Response | None = None
        self._is_spent = False
        self._is_closed = False
        pool = httpcore.AsyncConnectionPool(
            ssl_context=certificates, proxy=_for_httpcore(proxy), network_backend=self
        )
        self._http = pool.create_connection(origin)

    @property
    def has_received(self) -> bool:
        """Whether any of the answer to the last request has come."""
        return self._stream is not None and self._stream.received > 0

    async def can_carry(self, origin: httpcore.Origin) -> bool:
        """Return whether an idle connection can carry a request: still open, nothing to read."""
        if self._is_spent or self._answer is None or not self._http.can_handle_request(origin):
            return False
        await self._answer.aclose()  # gives it back to httpcore
        return self._http.is_available() and not self._http.has_expired()

    async def exchange(self, asked: httpcore.Request) -> tuple[httpcore.Response, bytes]:
        """Send a request and return its answer's head and whole body.

        Raises:
            httpcore.WriteError: If the request was not fully sent, and not answered.
            httpcore.NetworkError: If the connection cannot be opened, or is lost.
            httpcore.ProtocolError: If the answer is cut off or malformed.
            AnswerTooLarge: If the answer is larger than LARGEST_ANSWER.
        """
        if self._stream is not None:
            self._stream.begin()
        token = _is_exchanging.set(True)
        try:
            answer = await self._http.handle_async_request(asked)
            assert self._stream is not None  # noqa: S101 - narrows the type
            body = self._stream.expect(_length_of(answer))
            stream: Any = answer.stream
            async for piece in stream:
                body.write(piece)
        except (httpcore.ReadError, httpcore.RemoteProtocolError) as exc:
            if self._stream is not None and self._stream.is_unsent:
                raise httpcore.WriteError(str(exc)) from exc
            raise
        finally:
            _is_exchanging.reset(token)
        _check_size(body.tell())
        self._stream.begin()  # or an idle connection would hold the body
        self._answer = answer
        # httpcore would give what came after this answer, in the same read, to the next request.
        self._is_spent = bool(stream._connection._h11_state.trailing_data[0])
        return answer, body.getvalue()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> _Stream:
        try:
            stream = await httpcore.AnyIOBackend().connect_tcp(host, port)
        except httpcore.ConnectError as exc:
            cause = _first_cause(exc)
            is_full = getattr(cause, "errno", None) in (errno.EMFILE, errno.ENFILE)
            raise (_OutOfFiles if is_full else httpcore.ConnectError)(str(cause)) from exc
        self._stream = _Stream(stream, self._turns)
        if self._is_closed:
            await self.aclose()
            raise httpcore.ConnectError("the client was closed")
        log(_log, DEBUG, "a connection to %s:%d was opened", host, port)
        return self._stream

    async def aclose(self) -> None:
        """Close it; a call that is reading from it gets a ReadError."""
        self._is_closed = True
        if self._stream is not None:
            # Shielded: it waits for no peer. httpcore leaves it open in a cancelled handshake.
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()


class _Stream(httpcore.AsyncNetworkStream):
    """The network stream of a connection, with bounds on its reads.

    Attributes:
        received: Bytes returned since the request began.
        is_unsent: Whether the request could not be fully sent.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, turns: anyio.Lock) -> None:
        self._stream = stream
        self._turns = turns
        self._tls: Any = None
        self._left = b""  # read, and not yet returned
        self._size = _READ
        self._held = b""  # to be written together with what follows
        self._in_turn = 0
        self.begin()

    def begin(self) -> None:
        """Begin a request."""
        self._body: BytesIO | None = None
        self._most = _READ
        self.received = 0
        self.is_unsent = False

    def expect(self, length: int | None) -> BytesIO:
        """Return the buffer for the body, of the length that the head announces if it does.

        bytes(n) is untouched memory, which BytesIO writes into and returns without a copy: the
        kernel provides it page by page as the body comes, and not at once.
        """
        _check_size(length or 0)
        self._most = _READ if length is None else _BODY_READ
        self._body = BytesIO(bytes(length or 0))
        return self._body

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # Errors raised in here close httpcore's generators properly.
        if self._body is not None:
            _check_size(self._body.tell())
        elif self.received > _LARGEST_HEAD:
            raise httpcore.RemoteProtocolError("the head of the answer has no end")
        if self._left:
            await checkpoint()
        else:
            self._left = await self._receive()
            is_flood = self._most == _READ and self._left.count(b"\n") > _MOST_LINES
            self._size = _LINES_READ if is_flood else self._most
        piece, self._left = self._left[: self._size], self._left[self._size :]
        self.received += len(piece)
        return piece

    async def _receive(self) -> bytes:
        if self._in_turn >= _TURN:
            self._in_turn = 0
            async with self._turns:
                pass
        data = await self._stream.read(self._most)
        if self._tls is not None and data:
            data = self._with_decrypted(data)
        self._in_turn += len(data)
        return data

    def _with_decrypted(self, data: bytes) -> bytes:
        """Return data, one TLS record, and the others that have come with it."""
        pieces, size = [data], len(data)
        while size < self._most:
            try:
                piece = self._tls.read(self._most - size)
            except ssl.SSLError:  # no whole record is left; an error shows again at the next read
                break
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer.endswith(b"\r\n\r\n") and not self._held:
            self._held = (
                buffer  # a head, sent with what follows: httpcore writes an end even if it is empty
            )
            return
        buffer, self._held = self._held + buffer, b""
        try:
            await self._stream.write(buffer)
        except httpcore.WriteError:
            self.is_unsent = (
                True  # httpcore ignores it: a server may answer before it has read everything
            )
            raise

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Stream:
        self._stream = await self._stream.start_tls(ssl_context, server_hostname)
        self._tls = self._stream.get_extra_info("ssl_object")
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._left:
            return True
        return self._stream.get_extra_info(info)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Content:
    """The content of a request. httpcore's own is a generator, which a cancelled call leaves."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._rest = iter((content,))

    def __aiter__(self) -> _Content:
        self._rest = iter((self._content,))
        return self

    async def __anext__(self) -> bytes:
        for piece in self._rest:
            return piece
        raise StopAsyncIteration


def _first_cause(exc: BaseException) -> BaseException:
    """Return why connecting to the first address failed."""
    while cause := exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc.__cause__:
        exc = cause
    return exc


def most_connections() -> float:
    """Return how many connections the limit of open files allows this process; blocks."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    try:
        opened = len(os.listdir("/dev/fd"))
    except OSError:
        opened = 0
    return max(1, limit - opened - _RESERVE)


def _length_of(answer: httpcore.Response) -> int | None:
    """Return the announced length of a body in bytes, None where it is framed otherwise."""
    headers = {name.lower(): value for name, value in answer.headers}
    if b"transfer-encoding" in headers or b"content-length" not in headers:
        return None
    return int(headers[b"content-length"])


def _check_size(size: int) -> None:
    if size > LARGEST_ANSWER:
        raise AnswerTooLarge(f"it is larger than {LARGEST_ANSWER // 2**20} MB")


def _response_of(answer: httpcore.Response, body: bytes) -> httpx.Response:
    headers = httpx.Headers(answer.headers)
    if headers.pop("content-encoding", "identity").lower() != "identity":
        body = _unpacked(body)
    captured = _captured.get(None)
    if answer.status == 200 and captured is not None:
        captured.body, captured.headers = body, headers
        return httpx.Response(200, content=b"{}")
    headers.pop("set-cookie", None)  # httpx would send it back
    headers.pop("transfer-encoding", None)
    return httpx.Response(answer.status, headers=headers, content=body)


async def read_body(answer: httpx.Response | httpx2.Response) -> bytes:
    """Return the body of a streamed answer, unpacked.

    Raises:
        httpx.DecodingError: If it is larger than LARGEST_ANSWER, packed or unpacked.
    """
    body = bytearray()
    with anyio.CancelScope() as scope:
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > LARGEST_ANSWER:
                # An error raised here would leave httpx's generators behind, of which trio warns.
                scope.cancel()
    _check_size(len(body))
    return _unpacked(bytes(body)) if _is_packed(answer) else bytes(body)


async def body_pieces(answer: httpx.Response | httpx2.Response) -> AsyncGenerator[bytes]:
    """Yield the body of a streamed answer as it comes, unpacked, in pieces of 1 MB at most.

    Raises:
        httpx.DecodingError: If it is packed, and cut off or malformed.
    """
    is_packed = _is_packed(answer)
    unpacking = zlib.decompressobj(_EITHER)
    async for piece in answer.aiter_raw():
        while is_packed and (unpacked := _unpack(unpacking, piece, _BODY_READ)):
            yield unpacked
            piece = unpacking.unconsumed_tail
        if not is_packed:
            yield piece
    if is_packed and not unpacking.eof:
        raise httpx.DecodingError(_CUT_OFF)


def _is_packed(answer: httpx.Response | httpx2.Response) -> bool:
    return answer.headers.get("content-encoding", "identity").lower() != "identity"


def _unpacked(body: bytes) -> bytes:
    """Return a gzip or deflate body decompressed: not asked for, but a server may send it."""
    unpacking = zlib.decompressobj(_EITHER)
    content = _unpack(unpacking, body, LARGEST_ANSWER + 1)
    _check_size(len(content))
    if not unpacking.eof:
        raise httpx.DecodingError(_CUT_OFF)
    return content


def _unpack(unpacking: Any, body: bytes, most: int) -> bytes:
    try:
        return unpacking.decompress(body, most)  # type: ignore[no-any-return]
    except zlib.error as exc:
        raise httpx.DecodingError(str(exc)) from exc


def _proxies_of_environment(certificates: ssl.SSLContext) -> dict[str, httpx.Proxy]:
    """Return the proxies by the scheme of the URLs they are for."""
    urls = getproxies()
    return {
        scheme: _proxy(url, certificates)
        for scheme in ("http", "https")
        if (url := urls.get(scheme) or urls.get("all"))
    }


def _proxy(url: str, certificates: ssl.SSLContext) -> httpx.Proxy:
    parsed = httpx.URL(url if "://" in url else f"http://{url}")
    # No message shows the URL: it may hold a password.
    if parsed.scheme not in ("http", "https", "socks5", "socks5h"):
        raise ValueError(f"a proxy must be http, https or socks5, got {parsed.scheme}://")
    if not parsed.host:
        raise ValueError("a proxy of the environment has no host: set it to http://HOST:PORT")
    if parsed.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ValueError("a SOCKS proxy needs the extra: pip install 'genbatch[socks]'")
    return httpx.Proxy(parsed, ssl_context=certificates if parsed.scheme == "https" else None)


def _for_httpcore(proxy: httpx.Proxy | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
    )
    return httpcore.Proxy(url, auth=proxy.raw_auth, ssl_context=proxy.ssl_context)


def _port_of(url: httpx.URL) -> int:
    return 443 if url.scheme == "https" else 80
