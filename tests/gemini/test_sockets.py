"""Connecting to a host of several addresses, some of which do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import httpx
import pytest

from genbatch.gemini import _sockets
from genbatch.gemini._sockets import open_socket
from support.backends import until

pytestmark = pytest.mark.anyio

Addresses = list[tuple[str, int]]


@pytest.fixture
def listening() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address at which nobody answers: the queue of its server is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()


@pytest.fixture
def refused() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Addresses:
    """What any host resolves to."""
    addresses: Addresses = []

    async def getaddrinfo(host: object, port: object, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(_sockets.anyio, "getaddrinfo", getaddrinfo)
    return addresses


async def test_a_socket_is_connected_and_sends_at_once(listening: tuple[str, int]) -> None:
    with await open_socket("localhost", listening[1]) as sock:
        assert sock.getpeername() == listening
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_next_address_is_tried_where_one_refuses(
    listening: tuple[str, int],
    refused: tuple[str, int],
    known: Addresses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sockets, "_HEAD_START", 60.0)
    known += [refused, listening]
    with await open_socket("host", 80) as sock:
        assert sock.getpeername() == listening


async def test_the_next_address_is_tried_where_one_does_not_answer(
    listening: tuple[str, int],
    silent: tuple[str, int],
    known: Addresses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sockets, "_HEAD_START", 0.0)
    known += [silent, silent, listening]
    with await open_socket("host", 80) as sock:
        assert sock.getpeername() == listening


async def test_where_no_address_answers_the_first_error_is_told(
    refused: tuple[str, int], known: Addresses
) -> None:
    known += [refused, refused]
    with pytest.raises(httpx.ConnectError, match="Connection refused"):
        await open_socket("host", 80)


async def test_a_host_that_does_not_exist_is_a_connect_error() -> None:
    with pytest.raises(httpx.ConnectError):
        await open_socket("host.invalid", 80)


async def test_a_cancelled_attempt_leaves_no_socket_behind(
    silent: tuple[str, int], known: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []

    class Counted(socket.socket):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            opened.append(self)

    monkeypatch.setattr(_sockets, "_HEAD_START", 0.0)
    monkeypatch.setattr(_sockets.socket, "socket", Counted)
    known += [silent, silent]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_socket, "host", 80)
        await until(lambda: len(opened) == 2)
        tasks.cancel_scope.cancel()
    assert [sock.fileno() for sock in opened] == [-1, -1]


def test_families_take_turns() -> None:
    found = [(6, "a"), (6, "b"), (6, "c"), (4, "d")]
    assert [name for _, name in _sockets._alternating(found)] == ["a", "d", "b", "c"]
