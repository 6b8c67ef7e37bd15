"""The stack of connections, against a server that says exactly what a test tells it to."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import socket
import ssl
import sys
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import certifi
import httpcore
import httpx
import pytest
from anyio.streams.tls import TLSListener

from genbatch import GeminiClient, ImageRequest, _http
from genbatch._http import ConnectionStack, body_pieces, captured_body
from genbatch.gemini import image_from, parse_answer
from genbatch.testing import FakeGemini
from support.backends import until
from support.certificates import write_certificate

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * 8192  # 2 MB


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Server:
    """Answers the requests of all connections in turn; None closes instead."""

    def __init__(self, answers: Iterable[bytes | None]) -> None:
        self.answers = iter(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.streams: list[anyio.abc.ByteStream] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/path"

    async def converse(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        self.streams.append(stream)
        async with stream:
            while request := await self._request(stream):
                self.requests.append(request)
                reply = next(self.answers, b"")
                if reply is None:
                    return
                await stream.send(reply)
                if b"connection: close" in reply.partition(b"\r\n\r\n")[0]:
                    return

    async def _request(self, stream: anyio.abc.ByteStream) -> bytes:
        received = b""
        while True:
            head, found, body = received.partition(b"\r\n\r\n")
            length = [int(line[15:]) for line in head.lower().split(b"\r\n") if b"-length" in line]
            if found and len(body) >= sum(length):
                return received
            try:
                received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return b""


@asynccontextmanager
async def serving(
    *answers: bytes | None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(answers)
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if tls:
        listener = TLSListener(listener, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.converse)
        yield server
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def stack_client(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with ConnectionStack(**options).client() as client:
        yield client


def stack_of(client: httpx.AsyncClient) -> ConnectionStack:
    assert isinstance(client._transport, ConnectionStack)
    return client._transport


def socket_of(connection: _http._Connection) -> socket.socket:
    assert connection._stream is not None
    found: Any = connection._stream.get_extra_info("socket")
    return socket.socket(fileno=socket.dup(found.fileno()))


async def kept(client: httpx.AsyncClient) -> int:
    """Return how many connections can carry another request."""
    idle = list(stack_of(client)._idle)
    return sum([await each.can_carry(each._http._origin) for each in idle])


async def post(client: httpx.AsyncClient, server: Server, content: bytes = b"{}") -> bytes:
    response = await client.request("POST", server.url, headers={"a": "b"}, content=content)
    assert response.status_code == 200
    return response.content


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks


@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=["empty", "small", "big"])
async def test_body_arrives_whole_however_its_end_is_told(body: bytes) -> None:
    to_the_end = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body
    early = b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
    replies = [answer(body), early + answer(body), chunked(body, 10_007), to_the_end, answer(body)]
    async with serving(*replies) as server, stack_client() as client:
        for _ in replies:
            assert await post(client, server) == body
    assert server.connections == 2  # the fourth answer closed the first


async def test_request_is_sent_as_it_is_and_asks_for_no_packing() -> None:
    async with serving(answer(b"")) as server, stack_client() as client:
        await post(client, server, BIG)
    head, _, content = server.requests[0].partition(b"\r\n\r\n")
    assert content == BIG
    assert head.startswith(b"POST /path HTTP/1.1\r\n")
    assert b"\r\na: b\r\n" in head
    assert b"accept-encoding: identity" in head.lower()
    assert b"cookie" not in head.lower()


async def test_body_of_a_good_answer_is_set_aside_and_that_of_an_error_is_not() -> None:
    replies = [answer(b"image"), answer(b"bad", status="400 Bad Request"), answer(b"next")]
    async with serving(*replies) as server, stack_client() as client:
        with captured_body() as captured:
            assert await post(client, server) == b"{}"
            assert captured.body == b"image"
            captured.body = None
            response = await client.request("POST", server.url)
            assert (response.status_code, response.content) == (400, b"bad")
            assert captured.body is None
        assert await post(client, server) == b"next"


@pytest.mark.parametrize(
    "last",
    [
        answer(b"", "connection: close"),
        answer(b"") + b"more",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    ],
)
async def test_connection_that_cannot_carry_another_request_is_not_kept(last: bytes) -> None:
    async with serving(last, answer(b"")) as server, stack_client() as client:
        await post(client, server)
        assert await kept(client) == 0
        await post(client, server)
        assert await kept(client) == 1
    assert server.connections == 2


async def test_call_that_connects_while_it_is_closed_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = httpcore.AnyIOBackend.connect_tcp
    opened: list[Any] = []

    async def closing(*args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        opened.append(await connect(*args, **options))
        await stack_of(client).aclose()
        return opened[0]  # type: ignore[no-any-return]

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", closing)
    async with serving(answer(b"late")) as server, stack_client() as client:
        with pytest.raises(httpcore.ConnectError, match="closed"):
            await post(client, server)
        with pytest.raises(httpcore.ReadError):
            await opened[0].read(1)
        assert server.requests == []


async def test_connection_that_the_server_has_closed_meanwhile_is_replaced() -> None:
    async with serving(answer(b"one"), answer(b"two")) as server, stack_client() as client:
        assert await post(client, server) == b"one"
        (idle,) = stack_of(client)._idle
        with socket_of(idle) as sock:
            sock.shutdown(1)  # the server sees the end, and closes its side
        while await idle.can_carry(idle._http._origin):
            await anyio.lowlevel.checkpoint()
        assert await post(client, server) == b"two"
    assert server.connections == 2


async def test_bytes_that_come_on_an_idle_connection_retire_it() -> None:
    async with serving(answer(b"one"), answer(b"two")) as server, stack_client() as client:
        assert await post(client, server) == b"one"
        (idle,) = stack_of(client)._idle
        # Not by the stream: the server may still be in its own call of send.
        theirs = server.streams[0].extra(anyio.abc.SocketAttribute.raw_socket)
        os.write(theirs.fileno(), answer(b"late"))
        with socket_of(idle) as sock:
            await anyio.wait_readable(sock)
        assert await post(client, server) == b"two"
    assert server.connections == 2


async def test_connection_that_was_idle_for_long_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_http, "_KEPT_IDLE", -1.0)
    async with serving(answer(b""), answer(b"")) as server, stack_client() as client:
        await post(client, server)
        await post(client, server)
        assert len(stack_of(client)._idle) == 1
    assert server.connections == 2


async def test_connection_to_one_server_is_not_used_for_another() -> None:
    async with (
        serving(answer(b"one")) as first,
        serving(answer(b"two")) as second,
        stack_client() as client,
    ):
        assert await post(client, first) == b"one"
        assert await post(client, second) == b"two"


@pytest.mark.parametrize(
    "reply", [answer(b"x" * 101), chunked(b"x" * 101, 10), b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 101]
)
async def test_answer_that_is_too_large_is_refused(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "LARGEST_ANSWER", 100)
    async with serving(reply, answer(b"x" * 100)) as server, stack_client() as client:
        with pytest.raises(httpx.DecodingError, match="larger than"):
            await post(client, server)
        assert len(await post(client, server)) == 100


async def test_announced_size_alone_takes_no_memory_and_no_time() -> None:
    huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n"
    async with serving(huge) as server, stack_client() as client:
        with pytest.raises(httpx.DecodingError):
            await post(client, server)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_packed_answer_is_unpacked_within_bounds(
    pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = [pack(BIG), pack(BIG)[:-9], pack(BIG + b"x"), b"not packed"]
    monkeypatch.setattr(_http, "LARGEST_ANSWER", len(BIG))
    replies = [answer(body, "content-encoding: gzip") for body in packed]
    async with serving(*replies) as server, stack_client() as client:
        assert await post(client, server) == BIG
        for _ in packed[1:]:
            with pytest.raises(httpx.DecodingError):
                await post(client, server)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bytes])
async def test_streamed_body_comes_in_small_pieces_however_well_it_was_packed(pack: Any) -> None:
    body = bytes(50 * 2**20) + BIG
    coding = "identity" if pack is bytes else "gzip"

    async def pieces_of(packed: bytes) -> list[bytes]:
        async def sent() -> AsyncIterator[bytes]:
            for start in range(0, len(packed), 65_536):
                yield packed[start : start + 65_536]

        answer = httpx.Response(200, headers={"content-encoding": coding}, content=sent())
        return [piece async for piece in body_pieces(answer)]

    pieces = await pieces_of(pack(body))
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 2**20
    if pack is not bytes:
        with pytest.raises(httpx.DecodingError, match="cut off"):
            await pieces_of(pack(body)[:-5])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (None, httpcore.RemoteProtocolError),
        (answer(b"")[:12], httpcore.RemoteProtocolError),
        (answer(BIG, "connection: close")[:-1], httpcore.RemoteProtocolError),
        (chunked(b"cut off", 3)[:-3], httpcore.RemoteProtocolError),
        (b"SSH-2.0-server\r\n\r\n", httpcore.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", httpcore.RemoteProtocolError),
    ],
)
async def test_answer_that_is_no_whole_http_is_a_protocol_error(
    reply: bytes | None, expected: type[Exception]
) -> None:
    async with serving(reply, answer(b"fine")) as server, stack_client() as client:
        async with anyio.create_task_group() as tasks:
            if reply and b"close" not in reply:
                tasks.start_soon(close_soon, server, client)
            with pytest.raises(expected):
                await post(client, server)
        assert not stack_of(client)._busy
        assert await post(client, server) == b"fine"


async def close_soon(server: Server, client: httpx.AsyncClient) -> None:
    """Have the server see the end of the connection once it has answered."""
    while not server.requests:
        await anyio.lowlevel.checkpoint()
    for connection in stack_of(client)._busy:
        with socket_of(connection) as sock:
            sock.shutdown(1)


async def test_refused_connection_is_a_connect_error() -> None:
    async with serving() as server:
        pass
    async with stack_client() as client:
        with pytest.raises(httpcore.ConnectError):
            await post(client, server)


class Deaf(httpcore.AsyncMockStream):
    """A server that reads nothing, as one that has answered early and closes."""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        raise httpcore.WriteError("reset")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What a server answers that reads nothing."""
    answers: list[bytes] = []

    async def connect_tcp(*_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return Deaf(answers)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    return answers


async def test_early_answer_to_a_request_that_is_not_read_whole_is_returned(
    unread: list[bytes],
) -> None:
    unread.append(answer(b"too much", "connection: close", status="413 Payload Too Large"))
    async with stack_client() as client:
        response = await client.post("http://x/", content=BIG)
    assert (response.status_code, response.content) == (413, b"too much")


async def test_request_that_was_not_sent_whole_and_not_answered_is_a_write_error(
    unread: list[bytes],
) -> None:
    async with stack_client() as client:
        with pytest.raises(httpcore.WriteError):
            await client.post("http://x/", content=BIG)


async def test_closing_ends_calls_under_way() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n") as server:
        client = ConnectionStack().client()

        async def close() -> None:
            while not server.requests:
                await anyio.lowlevel.checkpoint()
            await client._transport.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            with pytest.raises(httpcore.ReadError):
                await post(client, server)
        await client.aclose()


async def test_cancelled_call_closes_its_connection_at_once() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n", answer(b"fine")) as server, stack_client() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post, client, server)
                while not server.requests:
                    await anyio.lowlevel.checkpoint()
                (busy,) = stack_of(client)._busy
                scope.cancel()
        assert busy._stream is not None
        assert busy._stream.get_extra_info("socket").fileno() == -1
        assert await post(client, server) == b"fine"
    assert server.connections == 2


async def test_no_proxy_is_used_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "")
    async with serving(answer(b"direct")) as server, stack_client() as client:
        assert await post(client, server) == b"direct"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_http_proxy_is_asked_for_the_whole_url(
    name: str, environment: pytest.MonkeyPatch
) -> None:
    async with serving(answer(b"proxied"), answer(b"again")) as proxy:
        environment.setenv(name, f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        async with stack_client(trust_env=True) as client:
            for body in (b"proxied", b"again"):
                response = await client.request("POST", "http://service.invalid/path?a=b")
                assert response.content == body
    head = proxy.requests[0]
    assert head.startswith(b"POST http://service.invalid/path?a=b HTTP/1.1\r\n")
    assert b"proxy-authorization: basic bwu6cebzcw==\r\n" in head.lower()
    assert proxy.connections == 1


async def test_server_named_in_no_proxy_is_reached_directly(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    environment.setenv("NO_PROXY", "elsewhere,127.0.0.1")
    async with serving(answer(b"direct")) as server, stack_client(trust_env=True) as client:
        assert await post(client, server) == b"direct"


@pytest.mark.parametrize("url", ["socks4://user:secret@proxy:1", "ftp://u:secret@proxy", "http://"])
async def test_proxy_that_cannot_be_used_is_refused_on_entering(
    url: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", url)
    with pytest.raises(ValueError, match="prox") as caught:
        await GeminiClient("a-key", trust_env=True).__aenter__()
    assert "secret" not in str(caught.value)


def test_trust_env_is_refused_beside_an_http_client() -> None:
    with pytest.raises(ValueError, match="trust_env or http_client"):
        GeminiClient("a-key", trust_env=True, http_client=httpx.AsyncClient())


def test_socks_proxy_needs_its_extra(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("ALL_PROXY", "socks5://user:secret@proxy:1")
    environment.setattr(_http, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"genbatch\[socks\]"):
        ConnectionStack(trust_env=True)


def test_proxies_are_chosen_by_scheme_and_show_no_password(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "http://user:secret@secure:8")
    environment.setenv("ALL_PROXY", "other")
    stack = ConnectionStack(trust_env=True)
    secure, other = map(stack.proxy_for, map(httpx.URL, ("https://x", "http://x")))
    assert secure is not None
    assert other is not None
    assert (secure.url.host, secure.url.port) == ("secure", 8)
    assert (other.url.host, other.url.port, other.raw_auth) == ("other", None, None)
    assert "secret" not in repr(secure)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients trust the certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


def secure(server: Server) -> str:
    return server.url.replace("http:", "https:")


@pytest.mark.usefixtures("trusted")
async def test_https_carries_large_bodies_both_ways(server_tls: ssl.SSLContext) -> None:
    replies = [answer(BIG), chunked(BIG, 9_973), answer(b"small")]
    async with serving(*replies, tls=server_tls) as server, stack_client() as client:
        for body in (BIG, BIG, b"small"):
            response = await client.request("POST", secure(server), content=BIG)
            assert response.content == body
    assert server.requests[0].endswith(BIG)
    assert server.connections == 1


def test_trusted_are_the_certificates_of_the_system_and_of_certifi(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    trusted, system, bundled = (
        {*context.get_ca_certs(binary_form=True)}
        for context in (
            ConnectionStack().certificates,
            ssl.create_default_context(),
            ssl.create_default_context(cafile=certifi.where()),
        )
    )
    assert trusted == system | bundled > set()


async def test_server_that_is_not_who_it_should_be_is_refused(server_tls: ssl.SSLContext) -> None:
    async with serving(answer(b""), tls=server_tls) as server:
        async with stack_client() as client:
            with pytest.raises(httpcore.ConnectError, match="certificate"):
                await client.request("POST", secure(server))
    assert server.requests == []


class Tunnel(Server):
    """A proxy that connects through to where it is asked to."""

    async def converse(self, stream: anyio.abc.ByteStream) -> None:
        request = await self._request(stream)
        self.requests.append(request)
        host, _, port = request.split()[1].decode().rpartition(":")
        async with stream, await anyio.connect_tcp(host, int(port)) as through:
            await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.pipe, stream, through)
                await self.pipe(through, stream)

    async def pipe(self, source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        try:
            async for piece in source:
                await target.send(piece)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        await target.aclose()


@pytest.mark.usefixtures("trusted")
async def test_https_goes_through_a_proxy_that_sees_none_of_it(
    server_tls: ssl.SSLContext, environment: pytest.MonkeyPatch
) -> None:
    async with (
        serving(answer(BIG), answer(b"again"), tls=server_tls) as server,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tunnel = Tunnel([])
        tasks.start_soon(listener.serve, tunnel.converse)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        environment.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        async with stack_client(trust_env=True) as client:
            for body in (BIG, b"again"):
                response = await client.request("POST", secure(server), headers={"key": "K"})
                assert response.content == body
        tasks.cancel_scope.cancel()
    (request,) = tunnel.requests
    assert request.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: basic" in request.lower()
    assert b"key:" not in request.lower()
    assert b"proxy-authorization" not in server.requests[0].lower()


@pytest.mark.usefixtures("trusted")
async def test_proxy_that_refuses_to_connect_is_a_proxy_error(
    environment: pytest.MonkeyPatch,
) -> None:
    refusal = answer(b"who?", status="407 Proxy Authentication Required")
    async with serving(refusal) as proxy:
        environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with stack_client(trust_env=True) as client:
            with pytest.raises(httpcore.ProxyError, match="407 Proxy Authentication"):
                await client.request("POST", "https://service.invalid/")


async def test_kept_connection_that_closes_unannounced_is_replaced_within_the_call() -> None:
    async with serving(answer(b"one"), None, answer(b"two")) as server, stack_client() as client:
        assert await post(client, server) == b"one"
        assert await post(client, server) == b"two"
    assert server.connections == 2
    assert len(server.requests) == 3


async def test_call_on_a_fresh_connection_is_not_made_again() -> None:
    async with serving(None, answer(b"")) as server, stack_client() as client:
        with pytest.raises(httpcore.RemoteProtocolError):
            await post(client, server)
        assert len(server.requests) == 1


async def test_call_whose_answer_has_begun_is_not_made_again() -> None:
    async with serving(answer(b"one"), answer(b"")[:12]) as server, stack_client() as client:
        await post(client, server)
        server.requests.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close_soon, server, client)
            with pytest.raises(httpcore.RemoteProtocolError):
                await post(client, server)
        assert len(server.requests) == 1


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize("end", [70, 65_535, 65_536, 65_537, 131_072, 262_144, 1_048_576])
@pytest.mark.parametrize("framed", ["announced", "chunked"])
async def test_two_answers_in_one_write_never_reach_two_calls(end: int, framed: str) -> None:
    """Where the first ends with a read, the second waits in one buffer or another."""
    body = b"x" * (end - len(HEAD) - 5)
    first = answer(body) if framed == "announced" else chunked(body, 8_000)
    replies = [first + answer(b"of nobody"), answer(b"second")]
    async with serving(*replies) as server, stack_client() as client:
        assert await post(client, server) == body
        assert await post(client, server) == b"second"
    assert server.connections == 2


async def flood(stream: anyio.abc.ByteStream, start: bytes, piece: bytes, sent: list[int]) -> None:
    async with stream:
        await stream.receive()
        try:
            await stream.send(start)
            while True:
                await stream.send(piece * (20_000 // len(piece)))
                sent[0] += 1
        except anyio.BrokenResourceError:
            pass


@asynccontextmanager
async def flooding(start: bytes, piece: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve answers that never end."""
    sent = [0]
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, lambda stream: flood(stream, start, piece, sent))
        yield f"http://127.0.0.1:{port}/", sent
        tasks.cancel_scope.cancel()


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"", CONTINUE), (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), (b"HTTP/1.1 200 OK\r\na: ", b"b")],
    ids=["interim answers", "headers", "a header"],
)
async def test_head_without_an_end_is_refused(start: bytes, piece: bytes) -> None:
    async with flooding(start, piece) as (url, _), stack_client() as client:
        with pytest.raises(httpcore.RemoteProtocolError):
            await client.post(url)


async def test_chunks_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "LARGEST_ANSWER", 1000)
    async with flooding(CHUNKS, b"1\r\nx\r\n") as (url, _), stack_client() as client:
        with pytest.raises(httpx.DecodingError, match="larger"):
            await client.post(url)


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n\r\n", CHUNKS], ids=["to the end", "chunks"]
)
async def test_flood_ends_with_its_scope(start: bytes) -> None:
    piece = b"1\r\nx\r\n" if start == CHUNKS else b"x"
    async with flooding(start, piece) as (url, sent), stack_client() as client:
        with anyio.fail_after(60), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.post, url)
                await until(lambda: sent[0] > 20)
                scope.cancel()
        assert scope.cancelled_caught
        assert not stack_of(client)._busy


@pytest.mark.parametrize("lines", [b"1\r\nx\r\n", CONTINUE], ids=["chunks", "interim answers"])
async def test_flood_of_lines_is_parsed_in_small_pieces(lines: bytes) -> None:
    flood = lines * (65_536 // len(lines))
    stream = _http._Stream(Scripted([flood, b"x" * 65_536]), anyio.Lock())
    pieces = []
    while sum(map(len, pieces)) < len(flood):
        pieces.append(await stream.read(65_536))
    assert b"".join(pieces) == flood
    assert max(map(len, pieces)) <= 512
    assert await stream.read(65_536) == b"x" * 65_536  # what is no flood comes in one piece again


class Scripted(httpcore.AsyncMockStream):
    """A server whose answer comes in the pieces told."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await anyio.lowlevel.checkpoint()
        return await super().read(max_bytes, timeout)


@pytest.mark.parametrize("size", [2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20, 2**22 - 1, 2**22 + 1])
@pytest.mark.parametrize("framed", ["announced", "chunked"])
async def test_image_is_the_same_however_its_answer_is_split(
    size: int, framed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = random.Random(size)
    image = b"\x89PNG\r\n\x1a\n" + pick.randbytes(size) + b"IEND\xaeB`\x82" + b"+"
    for padded in (True, False):
        data = base64.b64encode(image).decode()
        part = {"inlineData": {"data": data if padded else data.rstrip("=")}}
        body = json.dumps({"candidates": [{"content": {"parts": [part]}}]}).encode()
        wire = answer(body) if framed == "announced" else chunked(body, 40_009)
        # The last bytes, and those of the image, by themselves too.
        cuts = {0, len(wire), *(len(wire) - back for back in (1, 2, 5, 9, 10, 11, 12, 13))}
        cuts |= {pick.randrange(len(wire)) for _ in range(pick.randrange(30))}
        ends = sorted(cuts)
        pieces = [wire[begin:end] for begin, end in pairwise(ends)]

        async def connect_tcp(*_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            return Scripted(pieces)  # noqa: B023

        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
        async with stack_client() as client:
            found = (await client.post("http://x/")).content
        assert found == body
        assert image_from(parse_answer(found, "a-model"), ImageRequest("a cup")).data == image


@pytest.mark.parametrize("how", ["cancelled", "refused"])
async def test_handshake_that_does_not_end_leaves_no_socket(how: str) -> None:
    async def mute(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if how == "cancelled":
                await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
        stack_client() as client,
    ):
        tasks.start_soon(listener.serve, mute)
        url = f"https://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        found: list[_http._Connection] = []

        def is_open() -> bool:
            found[:] = [each for each in stack_of(client)._busy if each._stream is not None]
            return bool(found)

        async with anyio.create_task_group() as calls:
            calls.start_soon(raised, client.post(url))
            await until(is_open)
            sock = found[0]._stream.get_extra_info("socket")  # type: ignore[union-attr]
            if how == "cancelled":
                calls.cancel_scope.cancel()
        assert sock.fileno() == -1
        tasks.cancel_scope.cancel()


async def raised(call: Any) -> None:
    """Make a call that fails."""
    with pytest.raises(httpcore.NetworkError):
        await call


@pytest.mark.usefixtures("trusted")
async def test_server_of_another_name_is_refused(server_tls: ssl.SSLContext) -> None:
    async with serving(answer(b""), tls=server_tls) as server, stack_client() as client:
        with pytest.raises(httpcore.ConnectError, match="certificate"):
            await client.post(secure(server).replace("127.0.0.1", "localhost"))
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_old_tls_is_refused(server_tls: ssl.SSLContext) -> None:
    server_tls.minimum_version = server_tls.maximum_version = ssl.TLSVersion.TLSv1_1
    server_tls.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(answer(b""), tls=server_tls) as server, stack_client() as client:
        with pytest.raises(httpcore.ConnectError):
            await client.post(secure(server))
    assert server.requests == []


@asynccontextmanager
async def proxying(proxy: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if tls:
        listener = TLSListener(listener, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.converse)
        yield port
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("trusted")
async def test_proxy_itself_may_be_spoken_to_over_tls(
    server_tls: ssl.SSLContext, environment: pytest.MonkeyPatch
) -> None:
    tunnel = Tunnel([])
    async with (
        serving(answer(BIG), tls=server_tls) as server,
        proxying(tunnel, server_tls) as port,
    ):
        environment.setenv("HTTPS_PROXY", f"https://me:secret@127.0.0.1:{port}")
        async with stack_client(trust_env=True) as client:
            assert (await client.post(secure(server))).content == BIG
    assert b"proxy-authorization: basic bwu6c2vjcmv0" in tunnel.requests[0].lower()


class Socks(Tunnel):
    """A SOCKS proxy that asks for a password."""

    async def converse(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            assert 2 in (await stream.receive())[2:]
            await stream.send(b"\x05\x02")
            self.requests.append(await stream.receive())
            await stream.send(b"\x01\x00")
            asked = await stream.receive()
            host, port = str(ip_address(asked[4:-2])), int.from_bytes(asked[-2:])
            await stream.send(b"\x05\x00\x00\x01" + bytes(6))
            async with (
                await anyio.connect_tcp(host, port) as through,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self.pipe, stream, through)
                await self.pipe(through, stream)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_socks_proxy_connects_through(
    scheme: str, server_tls: ssl.SSLContext, environment: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("socksio")
    proxy = Socks([])
    tls = server_tls if scheme == "https" else None
    async with serving(answer(BIG), answer(b"next"), tls=tls) as server, proxying(proxy) as port:
        environment.setenv("ALL_PROXY", f"socks5://me:secret@127.0.0.1:{port}")
        async with stack_client(trust_env=True) as client:
            for body in (BIG, b"next"):
                url = server.url.replace("http:", f"{scheme}:")
                assert (await client.post(url)).content == body
    assert proxy.requests == [b"\x01\x02me\x06secret"]
    assert server.connections == 1


class Front(Tunnel):
    """Speaks TLS for a server in plain."""

    def __init__(self, url: str) -> None:
        super().__init__([])
        self.to = httpx.URL(url)

    async def converse(self, stream: anyio.abc.ByteStream) -> None:
        async with (
            stream,
            await anyio.connect_tcp(self.to.host, self.to.port or 80) as through,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self.pipe, stream, through)
            await self.pipe(through, stream)


# The command has an event loop of its own.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_command_line_uses_the_proxies_of_the_environment(
    server_tls: ssl.SSLContext, certificate: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\n")
    tunnel = Tunnel([])
    async with (
        FakeGemini(image_size=8) as fake,
        proxying(Front(fake.url), server_tls) as port,
        proxying(tunnel) as proxy,
    ):
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "GEMINI_API_KEY": "a-key",
            "HTTPS_PROXY": f"http://me:secret@127.0.0.1:{proxy}",
            "SSL_CERT_FILE": str(certificate),
        }
        url = f"https://127.0.0.1:{port}"
        command = [sys.executable, "-m", "genbatch", "run", str(prompts), "--base-url", url]
        done = await anyio.run_process(command, cwd=tmp_path, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert fake.stats.images == 1
    (request,) = tunnel.requests
    assert request.startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: basic bwu6c2vjcmv0" in request.lower()
    assert b"secret" not in done.stdout + done.stderr
