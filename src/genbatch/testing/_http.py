"""A small HTTP/1.1 server over h11 that can go wrong on request; it knows nothing of any service.

Its sockets are plain ones and only anyio waits for them, because two faults need what streams hide:
a reset without a FIN before it, and a look at whether the client has hung up.
"""

from __future__ import annotations

import errno
import math
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote

import anyio
import anyio.abc
import h11

from genbatch._values import FAKE_HEADER

JsonObject: TypeAlias = dict[str, Any]

JSON = {"content-type": "application/json; charset=UTF-8"}
_BACKLOG = 2048
_LARGEST_BODY = 100_000_000  # bytes of a request
_CHUNK = 64 * 1024
_PIECE = 1024 * 1024  # bytes of a file that are in memory at once
# Browsers tell the site of the page that sends a request, and the server's name as that page has
# it.
_LOOPBACK = re.compile(r"(127(\.\d{1,3}){3}|localhost|\[::1\])(:\d{1,5})?")
_OTHER_TASK = (
    "the fake was left by another task than entered it, as in a fixture of pytest-asyncio: "
    "enter it with `with`, or give it thread=True"
)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def check(is_right: bool, message: str) -> None:
    """Raise ValueError with message unless an option is right."""
    if not is_right:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How one call goes wrong, or one request about files and batches.

    A call is billed if its image is made: always, unless the fault answers something else
    (status, body) or resets the connection at once. The same rule decides whether a file is stored
    or a batch created. For a row of a batch only status, body, edit and late count.

    Attributes:
        status: HTTP status to answer with; from 300 on with an error body of the service's shape.
        delay: Seconds to wait before answering, added to the server's latency.
        headers: Headers added to the response, or replacing its own.
        body: Sent in place of the image, a mapping as JSON. Status 200 by default.
        late: Whether to carry out the request first, so that it is billed, and only then go wrong.
        edit: Called with the JSON of the answer, which it may change; what it returns is sent.
            For a call it runs in a thread, once the image is made, and may wait there.
        truncate: Announce the whole body, send this many bytes of it, then close the connection.
        reset: Close with a TCP reset and no answer; with truncate, after that part of the body.
        drip: (bytes, seconds): send the body in pieces of this many bytes, this far apart.
        drip_head: Whether drip applies to the status line and the headers too.

    Raises:
        ValueError: If a value is out of range.
    """

    status: int | None = None
    delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, object] | None = None
    late: bool = False
    edit: Callable[[JsonObject], object] | None = None
    truncate: int | None = None
    reset: bool = False
    drip: tuple[int, float] | None = None
    drip_head: bool = False

    def __post_init__(self) -> None:
        status, truncate, drip = self.status, self.truncate, self.drip
        check(status is None or 200 <= status <= 599, f"status must be in 200..599, got {status}")
        check(self.delay >= 0, f"delay must be >= 0, got {self.delay}")
        check(truncate is None or truncate >= 0, f"truncate must be >= 0, got {truncate}")
        is_drip = drip is None or (drip[0] >= 1 and drip[1] >= 0)
        check(is_drip, f"drip must be (bytes >= 1, seconds >= 0), got {drip}")
        check(drip is not None or not self.drip_head, "drip_head needs drip, which says how fast")


NO_FAULT = Fault()


def cuts_before_answer(fault: Fault) -> bool:
    """Return whether the connection is reset before the first byte of an answer."""
    return fault.reset and fault.truncate is None


class Disconnected(Exception):
    """The client closed or reset the connection, or sent something that is not HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, received to its last byte; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Path of the target, unquoted."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """Fields of the query."""
        return dict(parse_qsl(self.target.partition("?")[2]))

    @property
    def is_local(self) -> bool:
        """Whether it is for this machine, and not from a page of a web site elsewhere."""
        origin = self.headers.get("origin", "http://localhost").partition("://")[2]
        return all(map(_LOOPBACK.fullmatch, (self.host, origin)))

    @property
    def host(self) -> str:
        """Host and port by which the client reached the server."""
        return self.headers.get("host", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response before it is framed.

    Attributes:
        status: HTTP status.
        body: The whole body.
        headers: JSON's by default.
        file: Size in bytes of a file that is the body, and what reads it, while it is sent, from
            one byte up to another.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    file: tuple[int, Callable[[int, int], Awaitable[bytes]]] | None = None


Answer: TypeAlias = Callable[[Request, "ServerConnection"], Awaitable[None]]
# Of a status and a message, which may be empty.
ErrorReply: TypeAlias = Callable[[int, str], Reply]


class ServerConnection:
    """One client's connection; whoever accepted its socket closes that.

    Only one task reads at a time: next_request(), or between requests the watch for a hang-up.

    Args:
        sock: The accepted socket.
        error_reply: Makes the reply to a request that is not HTTP or too large.
    """

    def __init__(self, sock: socket.socket, error_reply: ErrorReply) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # some systems refuse it where the client has gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._error_reply = error_reply
        self._http = h11.Connection(h11.SERVER)
        self._method = ""

    # Requests

    async def next_request(self) -> Request | None:
        """Return the next request, None where there can be no further one.

        Raises:
            Disconnected: If the client goes away in the middle of one.
        """
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        try:
            return await self._read_request()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._refuse(error)
            return None

    async def _read_request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            match await self._next_event():
                case h11.Request() as head:
                    self._method = head.method.decode()
                    size = int(_headers(head).get("content-length", "0"))
                case h11.Data(data=piece):
                    body += piece
                    size = len(body)
                case h11.EndOfMessage() if head is not None:
                    return Request(self._method, head.target.decode(), _headers(head), bytes(body))
                case _:  # the client has closed between two requests
                    return None
            if size > _LARGEST_BODY:
                message = f"Request payload size exceeds the limit: {_LARGEST_BODY} bytes."
                raise h11.RemoteProtocolError(message, error_status_hint=413)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._send_all(self._http.send(go_on) or b"")
            self._http.receive_data(await self._receive())
        return event

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        reply = self._error_reply(error.error_status_hint, str(error))
        await self.send(replace(reply, headers={**reply.headers, "connection": "close"}))
        # Closing with unread bytes would reset the connection and take the answer with it.
        with suppress(OSError):  # the client has reset it already
            self._socket.shutdown(socket.SHUT_WR)
        while await self._receive():
            pass

    # Responses

    async def send(
        self,
        reply: Reply,
        fault: Fault = NO_FAULT,
        *,
        before_last: Callable[[], None] = lambda: None,
    ) -> None:
        """Send reply, damaged as fault says.

        Args:
            reply: The response to send.
            fault: What goes wrong on the way; its status and body are not looked at.
            before_last: Called once, just before the last bytes are sent, or the reset.

        Raises:
            Disconnected: If the client has gone, or the fault ends the connection.
        """
        if cuts_before_answer(fault):
            before_last()
        else:
            await self._send_pieces(reply, fault, before_last)
        if fault.reset:
            # Linger on, for 0 seconds: closing then sends RST in place of FIN.
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            with suppress(OSError):  # the client has reset it already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if fault.reset or fault.truncate is not None:
            raise Disconnected
        self._http.send(h11.EndOfMessage())

    async def _send_pieces(
        self, reply: Reply, fault: Fault, before_last: Callable[[], None]
    ) -> None:
        size = len(reply.body) if reply.file is None else reply.file[0]
        if self._method == "HEAD" or reply.status in (204, 304):
            size = 0
        ours = {"date": formatdate(usegmt=True), FAKE_HEADER: "true", **reply.headers}
        theirs = {name.lower(): value for name, value in fault.headers.items()}
        headers = ours | theirs | {"content-length": str(size)}
        response = h11.Response(status_code=reply.status, headers=list(headers.items()))
        head = self._http.send(response) or b""
        total = len(head) + (size if fault.truncate is None else min(fault.truncate, size))
        for start, end in pairwise(_cuts(len(head), total, fault)):
            begin, stop = max(0, start - len(head)), max(0, end - len(head))
            if reply.file is None:
                part = reply.body[begin:stop]
            else:
                part = await reply.file[1](begin, stop)
            piece = head[start:end] + (self._http.send(h11.Data(data=part)) or b"")
            if end == total:
                before_last()
            await self._send_all(piece)
            if fault.drip and end < total:
                await pause(fault.drip[1])

    # The client

    @asynccontextmanager
    async def watched(self, *, on_hang_up: Callable[[], None]) -> AsyncIterator[None]:
        """Watch the client while the block runs, which must not read.

        Raises:
            ExceptionGroup: Of Disconnected, if the client hangs up: on_hang_up is called at once,
                then the block is cancelled and waited for.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, on_hang_up)
            yield
            tasks.cancel_scope.cancel()

    async def _watch(self, on_hang_up: Callable[[], None]) -> None:
        with suppress(Disconnected):
            while received := await self._receive():
                self._http.receive_data(received)  # the next request, early
        on_hang_up()
        raise Disconnected

    def has_hung_up(self) -> bool:
        """Return whether the client has closed, as the socket tells without waiting."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # The socket

    async def _receive(self) -> bytes:
        while True:
            await anyio.wait_readable(self._socket)
            try:
                return self._socket.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Disconnected from error

    async def _send_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise Disconnected from error


@asynccontextmanager
async def serving(
    host: str, port: int, answer: Answer, error_reply: ErrorReply
) -> AsyncIterator[tuple[str, anyio.abc.TaskGroup]]:
    """Serve while the block runs, in one task group, so that leaving it leaves nothing behind.

    Args:
        host: Loopback address to listen on.
        port: Port to listen on, 0 for a free one.
        answer: Called with each request and the connection to answer it on.
        error_reply: Makes the reply to a request that is not HTTP or too large.

    Yields:
        The base URL, and the task group.

    Raises:
        ValueError: If host is not a loopback address.

    Failure: an error in the block arrives bare, one in answer in an ExceptionGroup.
    """
    name = f"[{host}]" if ":" in host else host
    is_loopback = _LOOPBACK.fullmatch(name) is not None
    check(is_loopback, f"host must be a loopback address such as 127.0.0.1, got {host!r}")
    failure: BaseException | None = None
    with _left_by_its_task(), _listen(host, port) as listener:
        bound, port = listener.getsockname()[:2]
        url = f"http://[{bound}]:{port}" if ":" in bound else f"http://{bound}:{port}"
        async with anyio.create_task_group() as tasks:
            converse = partial(_converse, answer, error_reply)
            tasks.start_soon(_accept, listener, lambda sock: tasks.start_soon(converse, sock))
            try:
                yield url, tasks
            # Kept out of the task group, which would wrap it; cancellation passes through.
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # or the traceback, this frame and the error keep each other alive


@contextmanager
def _left_by_its_task() -> Iterator[None]:
    task = anyio.get_current_task()
    try:
        yield
    except RuntimeError as error:
        if anyio.get_current_task() == task:
            raise
        raise RuntimeError(_OTHER_TASK) from error


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


async def _accept(listener: socket.socket, begin: Callable[[socket.socket], object]) -> None:
    while True:
        await anyio.wait_readable(listener)
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                await anyio.sleep(0.1)  # the connection stays queued; do not spin on it
            continue  # otherwise the client has gone before it was accepted
        begin(sock)


async def _converse(answer: Answer, error_reply: ErrorReply, sock: socket.socket) -> None:
    with sock:
        connection = ServerConnection(sock, error_reply)
        try:
            while request := await connection.next_request():
                if request.is_local:
                    await answer(request, connection)
                else:
                    await connection.send(error_reply(403, "The fake serves this machine only."))
        except* Disconnected:
            pass  # the client's choice, at any time


async def pause(seconds: float) -> None:
    """Sleep for seconds, which may be infinite."""
    # Not every event loop takes infinity for a delay.
    await (anyio.sleep_forever() if seconds == math.inf else anyio.sleep(seconds))


def _cuts(head: int, total: int, fault: Fault) -> Iterator[int]:
    """Yield where the pieces of a response begin, and the end of the last one, in bytes."""
    yield 0
    if fault.drip:
        size = fault.drip[0]
        yield from range(size if fault.drip_head else head + size, total, size)
    else:
        # The last piece fits the buffers of the socket, so that sending it is not waiting for the
        # client.
        yield from range(_PIECE, total - _CHUNK, _PIECE)
        if total - head > _CHUNK:
            yield total - _CHUNK
    yield total


def _headers(head: h11.Request) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
