"""One HTTP/1.1 connection of a FakeGemini: h11 over a non-blocking socket.

The socket is a plain one and only anyio waits for it, because two faults need what streams hide:
a reset without a FIN before it, and a look at whether the client has hung up.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate

import anyio
import h11

from ._faults import Fault, cuts_before_answer
from ._wire import Reply, error_reply

_CHUNK = 64 * 1024
_PIECE = 1024 * 1024  # bytes of a file that are in memory at once
_NO_FAULT = Fault()


class Disconnected(Exception):
    """The client closed or reset the connection, or what it sent is no HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, received to its last byte; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One client's connection; whoever made it closes it.

    Only one task reads at a time: next_request(), or between requests the watch for a hang-up.
    """

    def __init__(self, sock: socket.socket, max_body: int) -> None:
        sock.setblocking(False)
        with suppress(OSError):  # some systems refuse it where the client has gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._max_body = max_body
        self._http = h11.Connection(h11.SERVER)
        self._method = ""

    def close(self) -> None:
        """Close the socket; no task may be waiting for it."""
        self._socket.close()

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
                await self.send(error_reply(error.error_status_hint, str(error)))
            return None

    async def _read_request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            match await self._next_event():
                case h11.Request() as head:
                    self._method = head.method.decode()
                    announced = _headers(head).get("content-length", "0")
                    too_large = int(announced) > self._max_body
                case h11.Data(data=piece):
                    body += piece
                    too_large = len(body) > self._max_body
                case h11.EndOfMessage() if head is not None:
                    return Request(self._method, head.target.decode(), _headers(head), bytes(body))
                case _:  # the client has closed between two requests
                    return None
            if too_large:
                await self._refuse_body()
                return None

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._send_all(self._http.send(go_on) or b"")
            self._http.receive_data(await self._receive())
        return event

    async def _refuse_body(self) -> None:
        message = f"Request payload size exceeds the limit: {self._max_body} bytes."
        reply = error_reply(413, message)
        await self.send(Reply(413, reply.body, {**reply.headers, "connection": "close"}))
        # Closing with unread bytes would reset the connection and take the answer with it.
        with suppress(OSError):  # the client has reset it already
            self._socket.shutdown(socket.SHUT_WR)
        while await self._receive():
            pass

    async def send(
        self,
        reply: Reply,
        fault: Fault = _NO_FAULT,
        *,
        before_last: Callable[[], None] = lambda: None,
    ) -> None:
        """Send reply, damaged as fault says.

        Args:
            reply: What to answer.
            fault: What goes wrong on the way; its status and body are not looked at.
            before_last: Called once, just before the last bytes are sent, or the reset.

        Raises:
            Disconnected: If the client has gone.
        """
        pieces = [b""] if cuts_before_answer(fault) else self._frame(reply, fault)
        for number, piece in enumerate(pieces, 1):
            if number == len(pieces):
                before_last()
            await self._send_all(piece)
            if fault.drip and number < len(pieces):
                await pause(fault.drip[1])
        self._end(fault)

    async def send_file(
        self,
        reply: Reply,
        size: int,
        read: Callable[[int, int], Awaitable[bytes]],
        fault: Fault = _NO_FAULT,
    ) -> None:
        """Send reply with a body that is read piece by piece, damaged as fault says.

        Args:
            reply: What to answer, its body apart.
            size: Bytes of the body.
            read: Called with where a piece begins and how long it is.
            fault: What goes wrong on the way; its status, body and drip_head are not looked at.

        Raises:
            Disconnected: If the client has gone.
        """
        await self._send_all(self._head(reply, fault, size))
        longest, seconds = fault.drip or (_PIECE, 0.0)
        end = size if fault.truncate is None else min(fault.truncate, size)
        for start in range(0, end, longest):
            piece = await read(start, min(longest, end - start))
            await self._send_all(self._http.send(h11.Data(data=piece)) or b"")
            if fault.drip and start + longest < end:
                await pause(seconds)
        self._end(fault)
        self._http.send(h11.EndOfMessage())

    def _end(self, fault: Fault) -> None:
        """Leave the connection as fault says, after what it let through."""
        if fault.reset:
            self._reset_on_close()
        if fault.reset or fault.truncate is not None:
            raise Disconnected

    def _reset_on_close(self) -> None:
        # Linger on, for 0 seconds: closing then sends RST in place of FIN.
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        with suppress(OSError):  # the client has reset it already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _frame(self, reply: Reply, fault: Fault) -> list[bytes]:
        """Return the bytes of a response, in the pieces they are sent in."""
        without_body = self._method == "HEAD" or reply.status in (204, 304)
        body = b"" if without_body else reply.body
        head = self._head(reply, fault, len(body))
        rest = (self._http.send(h11.Data(data=body)) or b"")[: fault.truncate]
        self._http.send(h11.EndOfMessage())
        wire = head + rest
        if fault.drip:
            size = fault.drip[0]
            first = size if fault.drip_head else len(head) + size
        else:
            # One piece, or two: the last then fits the buffers of the socket, so that sending it
            # is not waiting for the client.
            size = _CHUNK
            first = len(head) + (max(len(rest) - _CHUNK, 0) or len(rest))
        later = [wire[start : start + size] for start in range(first, len(wire), size)]
        return [wire[:first], *later]

    def _head(self, reply: Reply, fault: Fault, size: int) -> bytes:
        """Return the status line and the headers of a response whose body is size bytes."""
        ours = {"date": formatdate(usegmt=True), **reply.headers}
        theirs = {name.lower(): value for name, value in fault.headers.items()}
        headers = ours | theirs | {"content-length": str(size)}
        response = h11.Response(status_code=reply.status, headers=list(headers.items()))
        return self._http.send(response) or b""

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
        """Return whether the client has closed, told by the socket and without waiting."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

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


async def pause(seconds: float) -> None:
    """Sleep for seconds, which may be infinite."""
    # Not every event loop takes infinity for a delay.
    await (anyio.sleep_forever() if seconds == math.inf else anyio.sleep(seconds))


def _headers(head: h11.Request) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
