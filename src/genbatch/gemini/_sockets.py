"""Sockets: connected to whichever address of a host answers first, as RFC 8305 has it in short.

anyio connects streams, but their sockets end with them: what closes one may shut the connection
down, also for a second handle of it.
"""

from __future__ import annotations

import os
import socket
from itertools import zip_longest
from typing import Any

import anyio
import httpx

_HEAD_START = 0.25  # seconds that an address has before the next one is tried as well


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a connected socket that does not block.

    Raises:
        httpx.ConnectError: If it cannot be connected.
    """
    race = _Race()
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        await race.run(found)
    except OSError as exc:
        raise httpx.ConnectError(str(exc)) from exc
    except BaseException:
        if race.winner is not None:
            race.winner.close()
        raise
    if race.winner is None:
        raise httpx.ConnectError(str(race.errors[0])) from race.errors[0]
    return race.winner


class _Race:
    """Attempts to connect to addresses, of which the first to succeed ends the others."""

    def __init__(self) -> None:
        self.winner: socket.socket | None = None
        self.errors: list[OSError] = []

    async def run(self, found: list[Any]) -> None:
        """Connect to the first address, and after a while or its failure to the next as well."""
        async with anyio.create_task_group() as tasks:
            for family, _, protocol, _, address in _alternating(found):
                over = anyio.Event()
                tasks.start_soon(self._attempt, tasks, over, family, protocol, address)
                with anyio.move_on_after(_HEAD_START):
                    await over.wait()

    async def _attempt(
        self, tasks: Any, over: anyio.Event, family: int, protocol: int, address: Any
    ) -> None:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM, protocol)
            try:
                await _connect(sock, address)
                if self.winner is None:
                    self.winner = sock
                    tasks.cancel_scope.cancel()
            finally:
                if self.winner is not sock:
                    sock.close()
        except OSError as exc:
            self.errors.append(exc)
            over.set()


async def _connect(sock: socket.socket, address: Any) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.connect(address)
    except BlockingIOError:
        await anyio.wait_writable(sock)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code)) from None


def _alternating(found: list[Any]) -> list[Any]:
    """Return addresses, the preferred family first and in turn with the other."""
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    return [each for pair in zip_longest(first, others) for each in pair if each is not None]
