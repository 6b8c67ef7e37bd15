"""Lanes against a server on loopback that says exactly what a test tells it to."""

from __future__ import annotations

import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import h11
import httpx
import pytest
from anyio.streams.tls import TLSListener
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from genbatch.gemini import GeminiClient, _connection, _transport
from genbatch.gemini._connection import Connection, Origin
from genbatch.gemini._proxy import Proxies
from genbatch.gemini._transport import LaneClient, Lanes, open_http_client, set_aside
from genbatch.gemini._turns import Turns

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * 8192  # 2 MB
POST = h11.Request(
    method="POST", target="/", headers=[("host", "x"), ("content-length", str(len(BIG)))]
)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Server:
    """Answers the requests of all connections in turn; None closes instead."""

    def __init__(self, answers: Iterable[bytes | None]) -> None:
        self.answers = iter(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/path"

    async def converse(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
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
async def lanes_client(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(Turns(), **options) as client:
        yield client


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
    async with serving(*replies) as server, lanes_client() as client:
        for _ in replies:
            assert await post(client, server) == body
    assert server.connections == 2  # the fourth answer closed the first


async def test_request_is_sent_as_it_is_and_asks_for_no_packing() -> None:
    async with serving(answer(b"")) as server, lanes_client() as client:
        await post(client, server, BIG)
    head, _, content = server.requests[0].partition(b"\r\n\r\n")
    assert content == BIG
    assert head.startswith(b"POST /path HTTP/1.1\r\n")
    assert b"\r\na: b\r\n" in head
    assert b"accept-encoding: identity" in head.lower()
    assert b"cookie" not in head.lower()


async def test_body_of_a_good_answer_is_set_aside_and_that_of_an_error_is_not() -> None:
    replies = [answer(b"image"), answer(b"bad", status="400 Bad Request"), answer(b"next")]
    async with serving(*replies) as server, lanes_client() as client:
        with set_aside() as aside:
            assert await post(client, server) == b"{}"
            assert aside.take() == b"image"
            response = await client.request("POST", server.url)
            assert (response.status_code, response.content) == (400, b"bad")
            assert aside.body is None
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
    async with serving(last, answer(b"")) as server, lanes_client() as client:
        await post(client, server)
        assert not lanes_of(client)._idle
        await post(client, server)
        assert len(lanes_of(client)._idle) == 1
    assert server.connections == 2


async def test_call_that_ends_after_closing_leaves_no_connection() -> None:
    async with serving(answer(b"late")) as server:
        client = open_http_client(Turns())
        await client.aclose()
        assert await post(client, server) == b"late"
        assert not lanes_of(client)._idle


async def test_connection_that_the_server_has_closed_meanwhile_is_replaced() -> None:
    async with serving(answer(b"one"), answer(b"two")) as server, lanes_client() as client:
        assert await post(client, server) == b"one"
        (idle,) = lanes_of(client)._idle
        idle._socket.shutdown(1)  # the server sees the end, and closes its side
        while idle.is_quiet():
            await anyio.lowlevel.checkpoint()
        assert await post(client, server) == b"two"
    assert server.connections == 2


def lanes_of(client: httpx.AsyncClient) -> Lanes:
    assert isinstance(client, LaneClient)
    return client._lanes


async def test_connection_that_was_idle_for_long_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_transport, "_KEPT_IDLE", -1.0)
    async with serving(answer(b""), answer(b"")) as server, lanes_client() as client:
        await post(client, server)
        await post(client, server)
        assert len(lanes_of(client)._idle) == 1
    assert server.connections == 2


async def test_connection_to_one_server_is_not_used_for_another() -> None:
    async with (
        serving(answer(b"one")) as first,
        serving(answer(b"two")) as second,
        lanes_client() as client,
    ):
        assert await post(client, first) == b"one"
        assert await post(client, second) == b"two"


@pytest.mark.parametrize(
    "reply", [answer(b"x" * 101), chunked(b"x" * 101, 10), b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 101]
)
async def test_answer_that_is_too_large_is_refused(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "LARGEST_ANSWER", 100)
    async with serving(reply, answer(b"x" * 100)) as server, lanes_client() as client:
        with pytest.raises(httpx.DecodingError, match="larger than"):
            await post(client, server)
        assert len(await post(client, server)) == 100


async def test_announced_size_alone_takes_no_memory_and_no_time() -> None:
    huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n"
    async with serving(huge) as server, lanes_client() as client:
        with pytest.raises(httpx.DecodingError):
            await post(client, server)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_packed_answer_is_unpacked_within_bounds(
    pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = [pack(BIG), pack(BIG)[:-9], pack(BIG + b"x"), b"not packed"]
    monkeypatch.setattr(_transport, "LARGEST_ANSWER", len(BIG))
    replies = [answer(body, "content-encoding: gzip") for body in packed]
    async with serving(*replies) as server, lanes_client() as client:
        assert await post(client, server) == BIG
        for _ in packed[1:]:
            with pytest.raises(httpx.DecodingError):
                await post(client, server)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (None, httpx.RemoteProtocolError),
        (answer(b"")[:12], httpx.RemoteProtocolError),
        (answer(BIG, "connection: close")[:-1], httpx.RemoteProtocolError),
        (chunked(b"cut off", 3)[:-3], httpx.RemoteProtocolError),
        (b"SSH-2.0-server\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
async def test_answer_that_is_no_whole_http_is_a_protocol_error(
    reply: bytes | None, expected: type[Exception]
) -> None:
    async with serving(reply, answer(b"fine")) as server, lanes_client() as client:
        async with anyio.create_task_group() as tasks:
            if reply and b"close" not in reply:
                tasks.start_soon(close_soon, server, client)
            with pytest.raises(expected):
                await post(client, server)
        assert not lanes_of(client)._busy
        assert await post(client, server) == b"fine"


async def close_soon(server: Server, client: httpx.AsyncClient) -> None:
    """Have the server see the end of the connection once it has answered."""
    while not server.requests:
        await anyio.lowlevel.checkpoint()
    for connection in lanes_of(client)._busy:
        connection._socket.shutdown(1)


async def test_refused_connection_is_a_connect_error() -> None:
    async with serving() as server:
        pass
    async with lanes_client() as client:
        with pytest.raises(httpx.ConnectError):
            await post(client, server)


async def test_early_answer_to_a_request_that_is_not_read_whole_is_returned() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(answer(b"too much", "connection: close", status="413 Payload Too Large"))
    theirs.shutdown(socket.SHUT_RD)
    connection = Connection(ours, Origin("http", "x", 80), Turns())
    head, body = await connection.exchange(POST, BIG)
    assert (head.status_code, body) == (413, b"too much")
    theirs.close()
    with pytest.raises(httpx.WriteError):
        await connection.exchange(POST, BIG)
    connection.close()


async def test_closing_ends_calls_under_way() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n") as server:
        client = open_http_client(Turns())

        async def close() -> None:
            while not server.requests:
                await anyio.lowlevel.checkpoint()
            await client._transport.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            with pytest.raises(httpx.ReadError):
                await post(client, server)
        await client.aclose()


async def test_cancelled_call_closes_its_connection_at_once() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n", answer(b"fine")) as server, lanes_client() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post, client, server)
                while not server.requests:
                    await anyio.lowlevel.checkpoint()
                (busy,) = lanes_of(client)._busy
                scope.cancel()
        assert busy._socket.fileno() == -1
        assert await post(client, server) == b"fine"
    assert server.connections == 2


async def test_steps_do_not_share_a_pass_of_the_loop() -> None:
    turns = Turns()
    passes = 0
    steps: list[int] = []

    async def beat() -> None:
        nonlocal passes
        while len(steps) < 50:
            await anyio.lowlevel.checkpoint()
            passes += 1

    async def step() -> None:
        for _ in range(5):
            await turns.take()
            steps.append(passes)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        for _ in range(10):
            tasks.start_soon(step)
    # The beat is not the first in each pass: two steps of two passes may see the same count.
    assert max(map(steps.count, steps)) <= 2


async def test_no_proxy_is_used_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "")
    async with serving(answer(b"direct")) as server, lanes_client() as client:
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
        async with lanes_client(trust_env=True) as client:
            for body in (b"proxied", b"again"):
                response = await client.request("POST", "http://service.invalid/path?a=b")
                assert response.content == body
    head = proxy.requests[0]
    assert head.startswith(b"POST http://service.invalid/path?a=b HTTP/1.1\r\n")
    assert b"proxy-authorization: Basic bWU6cEBzcw==\r\n" in head
    assert proxy.connections == 1


async def test_server_named_in_no_proxy_is_reached_directly(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    environment.setenv("NO_PROXY", "elsewhere,127.0.0.1")
    async with serving(answer(b"direct")) as server, lanes_client(trust_env=True) as client:
        assert await post(client, server) == b"direct"


@pytest.mark.parametrize(
    "url", ["socks5://user:secret@proxy:1", "https://u:secret@proxy", "http://"]
)
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


def test_proxies_are_chosen_by_scheme_and_show_no_password(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "http://user:secret@secure:8")
    environment.setenv("ALL_PROXY", "other")
    proxies = Proxies()
    secure, other = proxies.of("https", "x", 443), proxies.of("http", "x", 80)
    assert secure is not None
    assert other is not None
    assert (secure.host, secure.port) == ("secure", 8)
    assert (other.host, other.port, other.headers) == ("other", 80, [])
    assert "secret" not in repr(secure)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "genbatch test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(pem)
    )
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients trust the certificate."""
    context = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_options: context)


def secure(server: Server) -> str:
    return server.url.replace("http:", "https:")


@pytest.mark.usefixtures("trusted")
async def test_https_carries_large_bodies_both_ways(server_tls: ssl.SSLContext) -> None:
    replies = [answer(BIG), chunked(BIG, 9_973), answer(b"small")]
    async with serving(*replies, tls=server_tls) as server, lanes_client() as client:
        for body in (BIG, BIG, b"small"):
            response = await client.request("POST", secure(server), content=BIG)
            assert response.content == body
    assert server.requests[0].endswith(BIG)
    assert server.connections == 1


async def test_server_that_is_not_who_it_should_be_is_refused(server_tls: ssl.SSLContext) -> None:
    async with serving(answer(b""), tls=server_tls) as server:
        async with lanes_client() as client:
            with pytest.raises(httpx.ConnectError, match="certificate"):
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
        except anyio.BrokenResourceError:
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
        async with lanes_client(trust_env=True) as client:
            for body in (BIG, b"again"):
                response = await client.request("POST", secure(server), headers={"key": "K"})
                assert response.content == body
        tasks.cancel_scope.cancel()
    (request,) = tunnel.requests
    assert request.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: Basic" in request
    assert b"key" not in request
    assert b"proxy-authorization" not in server.requests[0]


@pytest.mark.usefixtures("trusted")
async def test_proxy_that_refuses_to_connect_is_a_proxy_error(
    environment: pytest.MonkeyPatch,
) -> None:
    refusal = answer(b"who?", status="407 Proxy Authentication Required")
    async with serving(refusal) as proxy:
        environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with lanes_client(trust_env=True) as client:
            with pytest.raises(httpx.ProxyError, match="407 Proxy Authentication"):
                await client.request("POST", "https://service.invalid/")
