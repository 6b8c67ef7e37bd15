"""One HTTP/1.1 connection: h11 over a plain socket, which only anyio waits for.

Streams would hide what makes an image cheap and safe here:

1. A body of known length is received into its place, not joined, copied or fed through a parser;
   and the task is woken once for a megabyte, not once for a packet.
2. A step takes a turn, and receives at most a piece: many answers at once do not stall the loop.
3. From the last byte of an answer on nothing is awaited, so no cancellation can take it. Closing
   and giving back a connection await nothing either.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

import anyio
import h11
import httpx

from ._ahead import Ahead
from ._turns import Turns

T = TypeVar("T")
Body: TypeAlias = bytes | bytearray | Ahead

# Of bytes in a body. Images take up to 20 MB as base64; more than this only fills the memory.
LARGEST_ANSWER = 64 * 2**20
_PIECE = 1024 * 1024  # bytes received in a step: half a millisecond at most
_WAKE = 1024 * 1024  # bytes that a wait is worth
_LARGE = 4 * _PIECE  # of a body: below, decoding it as it comes costs more than it spares
_HEAD = 64 * 1024
_TLS_RECORD = 2**14 + 2048  # bytes, at most, that TLS may have taken from the socket already


class Origin(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    port: int


class Connection:
    """A connected socket; whoever made it closes it.

    Attributes:
        origin: Server at the other end, perhaps through a proxy.
        idle_since: Time of the loop's clock at which its last answer ended.
        is_reusable: Whether it can carry another request.
    """

    def __init__(self, sock: socket.socket, origin: Origin, turns: Turns) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.is_reusable = False
        self._socket = sock
        self._turns = turns
        self._in_step = 0  # bytes received since the last turn
        self._wake_at = 1
        self._kept_back = 0  # bytes of the body that may not be in the socket any more

    def close(self) -> None:
        """Close at once; a task that waits for it gets a ReadError."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    def is_quiet(self) -> bool:
        """Return whether an idle one is still open: the server has neither closed nor spoken."""
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    async def exchange(self, request: h11.Request, content: bytes) -> tuple[h11.Response, Body]:
        """Send a request and return the head and the whole body of its answer.

        Raises:
            httpx.WriteError: If the request was not sent whole.
            httpx.ReadError: If the connection is lost.
            httpx.RemoteProtocolError: If the answer is cut off, or is no HTTP.
            httpx.DecodingError: If the answer is larger than LARGEST_ANSWER.
        """
        self.is_reusable = False
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        with errors_of_httpx():
            data = http.send(request) + http.send(h11.Data(data=content))
            http.send(h11.EndOfMessage())
            unsent = await self._send(data)
            try:
                return await self._receive(http)
            except (OSError, httpx.RemoteProtocolError):
                if unsent is not None:
                    raise httpx.WriteError(str(unsent)) from unsent
                raise

    async def tunnel(self, headers: list[tuple[str, str]]) -> None:
        """Have the proxy at the other end connect through to the origin.

        Raises:
            httpx.ProxyError: If it refuses.
        """
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        target = f"{host}:{self.origin.port}"
        request = h11.Request(method="CONNECT", target=target, headers=[("host", target), *headers])
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        with errors_of_httpx():
            await self._send(http.send(request))
            http.send(h11.EndOfMessage())
            response = await self._head(http)
        if not 200 <= response.status_code < 300:
            reason = response.reason.decode("latin-1")
            raise httpx.ProxyError(f"the proxy answered {response.status_code} {reason}")

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Encrypt the connection.

        Raises:
            httpx.ConnectError: If the server cannot, or is not who it should be.
        """
        self._socket = wrapped = context.wrap_socket(
            self._socket, server_hostname=self.origin.host, do_handshake_on_connect=False
        )
        self._kept_back = _TLS_RECORD
        try:
            await self._attempt(wrapped.do_handshake)
        except OSError as exc:
            raise httpx.ConnectError(str(exc)) from exc

    async def _send(self, data: bytes) -> OSError | None:
        """Send data; return the error if it cannot be sent whole."""
        rest = memoryview(data)
        try:
            while rest:
                send = partial(self._socket.send, rest[:_PIECE])
                rest = rest[await self._attempt(send, wait=anyio.wait_writable) :]
        # Not raised yet: a server may answer, and close, before it has read everything.
        except OSError as exc:
            return exc
        return None

    async def _receive(self, http: h11.Connection) -> tuple[h11.Response, Body]:
        response = await self._head(http)
        length = _length(response)
        if length is None:
            content = await self._rest(http)
            self.is_reusable = http.our_state is http.their_state is h11.DONE
            return response, content
        _check_size(length)
        first = http.trailing_data[0]
        body: Ahead | bytearray = Ahead(length) if length >= _LARGE else bytearray(length)
        place = body.content if isinstance(body, Ahead) else memoryview(body)
        begun = min(len(first), length)
        place[:begun] = first[:begun]
        await self._fill(place, begun, body.advance if isinstance(body, Ahead) else None)
        # DONE would be MUST_CLOSE if one of the two sides had said that it closes.
        self.is_reusable = http.our_state is h11.DONE and len(first) <= length
        return response, body

    async def _head(self, http: h11.Connection) -> h11.Response:
        while True:
            event = http.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                data = await self._some()
                if not data:
                    raise httpx.RemoteProtocolError("the server closed it without an answer")
                http.receive_data(data)

    async def _rest(self, http: h11.Connection) -> bytes:
        """Return a body that comes in chunks, or until the connection is closed."""
        pieces: list[bytes] = []
        size = 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self._some())
            elif isinstance(event, h11.Data):
                pieces.append(event.data)
                size += len(event.data)
                _check_size(size)
            else:
                return b"".join(pieces)

    async def _fill(
        self, body: memoryview, begun: int, advance: Callable[[int], None] | None
    ) -> None:
        rest = body[begun:]
        while rest:
            receive = partial(self._socket.recv_into, rest[:_PIECE])
            received = await self._attempt(receive, expected=len(rest) - self._kept_back)
            if not received:
                raise httpx.RemoteProtocolError(f"the answer was cut off {len(rest)} bytes early")
            self._in_step += received
            rest = rest[received:]
            if advance is not None:
                advance(len(body) - len(rest))

    async def _some(self) -> bytes:
        data = await self._attempt(partial(self._socket.recv, _HEAD))
        self._in_step += len(data)
        return data

    async def _attempt(
        self,
        operation: Callable[[], T],
        *,
        wait: Callable[[socket.socket], Awaitable[None]] = anyio.wait_readable,
        expected: int = 1,
    ) -> T:
        """Return what operation returns once the socket is ready for it.

        Args:
            operation: A call of the socket.
            wait: For what it waits if the socket itself does not say.
            expected: Bytes that will certainly come.
        """
        if self._in_step >= _PIECE:
            await self._turn()
        while True:
            ready = wait
            try:
                return operation()
            except ssl.SSLWantReadError:
                ready = anyio.wait_readable
            except ssl.SSLWantWriteError:
                ready = anyio.wait_writable
            except BlockingIOError:
                pass
            self._wake_for(max(1, min(expected, _WAKE)))
            await ready(self._socket)
            await self._turn()

    async def _turn(self) -> None:
        await self._turns.take()
        self._in_step = 0

    def _wake_for(self, size: int) -> None:
        """Have the socket count as readable from size bytes on, or at the end."""
        if size != self._wake_at:
            self._wake_at = size
            with suppress(OSError):  # Windows wakes for each packet
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _length(response: h11.Response) -> int | None:
    """Return the bytes a body announces, None where its end is told otherwise."""
    headers = dict(response.headers)
    if b"transfer-encoding" in headers or response.status_code in (204, 304):
        return None
    length = headers.get(b"content-length")
    return None if length is None else int(length)


def _check_size(size: int) -> None:
    if size > LARGEST_ANSWER:
        raise httpx.DecodingError(f"it is larger than {LARGEST_ANSWER // 2**20} MB")


@contextmanager
def errors_of_httpx() -> Iterator[None]:
    """Raise httpx's error for one of the socket or of h11."""
    try:
        yield
    except h11.RemoteProtocolError as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
    except h11.LocalProtocolError as exc:
        raise httpx.LocalProtocolError(str(exc)) from exc
    except (OSError, anyio.ClosedResourceError) as exc:
        raise httpx.ReadError(str(exc)) from exc
