"""A server that answers in every hostile way we know.

What a request is answered depends on a word in it: ``hostile-NAME`` meets one of the kinds,
anything else an image of its own.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

_END = b"IEND\xaeB`\x82"
_KIND = re.compile(rb"hostile-[a-z0-9-]*[a-z0-9]")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


# What is sent


def image_of(name: str, size: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + name.encode() + bytes(size) + _END


def part(image: bytes, write: Callable[[str], str] = str, **more: Any) -> dict[str, Any]:
    return {
        "inlineData": {"mimeType": "image/png", "data": write(base64.b64encode(image).decode())}
    } | more


def body_of(*parts: object, **more: Any) -> bytes:
    candidate = {"content": {"parts": list(parts)}, "finishReason": "STOP"}
    return json.dumps({"candidates": [candidate]} | more).encode()


def http(body: bytes, *headers: str, status: str = "200 OK", length: object = None) -> bytes:
    announced = f"content-length: {len(body) if length is None else length}"
    return "\r\n".join([f"HTTP/1.1 {status}", announced, *headers, "", ""]).encode() + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return CHUNKS + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + end


CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"  # ends when the connection does
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HTML = b"<!DOCTYPE html><title>Sign in</title>"


def unpadded(data: str) -> str:
    return data.rstrip("=")


def of_urls(data: str) -> str:
    return data.translate(str.maketrans("+/", "-_"))


def in_lines(data: str) -> str:
    return "\n".join(data[at : at + 76] for at in range(0, len(data), 76))


def bomb(wbits: int, megabytes: int = 2_000) -> bytes:
    """Return a small body that unpacks to so many megabytes of blanks; 31 is gzip, 15 deflate."""
    packing = zlib.compressobj(9, wbits=wbits)
    first, again = (
        packing.compress(b" " * 2**20) + packing.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + again * (megabytes - 1)


# How it is sent

Send = Callable[[socket.socket], object]  # an answer; the connection is kept unless it closes it


def then_close(wire: bytes) -> Send:
    def send(sock: socket.socket) -> None:
        sock.sendall(wire)
        sock.shutdown(socket.SHUT_RDWR)

    return send


def then_reset(wire: bytes) -> Send:
    def send(sock: socket.socket) -> None:
        sock.sendall(wire)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    return send


def half_closed(wire: bytes) -> Send:
    def send(sock: socket.socket) -> None:
        sock.sendall(wire)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)

    return send


def without_end(start: bytes, piece: bytes) -> Send:
    def send(sock: socket.socket) -> None:
        sock.sendall(start)
        while True:
            sock.sendall(piece * (2**18 // len(piece)))

    return send


def slowly(start: bytes, piece: bytes, seconds: float = 0.05) -> Send:
    def send(sock: socket.socket) -> None:
        sock.sendall(start)
        while True:
            time.sleep(seconds)
            sock.sendall(piece)

    return send


def in_pieces(wire: bytes, *sizes: int) -> Send:
    """Send the last bytes in pieces of these sizes, each a segment of its own."""

    def send(sock: socket.socket) -> None:
        left = wire
        for back in (sum(sizes[number:]) for number in range(len(sizes))):
            piece, left = left[: len(left) - back], left[len(left) - back :]
            sock.sendall(piece)
            time.sleep(0.002)
        sock.sendall(left)

    return send


Row = tuple[
    bytes | Send, str
]  # an answer, and the outcomes that a call for an image may have of it

LOST, BAD, LATE, FINE = "Unavailable", "InvalidResponse", "TimedOut", "image"
PNG = image_of("hostile")
WHOLE = body_of(part(PNG))
LARGE = part(image_of("hostile", 300_000))


def _framings() -> dict[str, Row]:
    short, trailers = len(WHOLE) - 10, b"0\r\na: b\r\n\r\n"
    return {
        "length-short": (http(WHOLE, length=short), BAD),
        "length-long": (then_close(http(WHOLE, length=short + 20)), LOST),
        "length-long-kept": (http(WHOLE, length=short + 20), LATE),
        "length-negative": (http(WHOLE, length=-1), LOST),
        "length-of-words": (http(WHOLE, length="many"), LOST),
        "length-doubled": (http(WHOLE, "content-length: 7"), LOST),
        "length-10-gb": (http(b"", length=10 * 2**30), BAD),
        "length-400-digits": (http(b"", length="9" * 400), LOST),
        "length-and-chunks": (http(b"0\r\n\r\n", "transfer-encoding: chunked"), BAD),
        "chunk-overflow": (CHUNKS + b"f" * 17 + b"\r\nx", f"{LOST} {LATE}"),
        "chunk-of-exabytes": (CHUNKS + b"f" * 15 + b"\r\nx", LATE),
        "chunk-of-words": (CHUNKS + b"many\r\nx", LOST),
        "chunk-cut": (then_close(CHUNKS + b"5\r\nab"), LOST),
        "chunks-of-one": (chunked(*(bytes([each]) for each in WHOLE)), FINE),
        "trailers": (chunked(WHOLE, end=trailers), FINE),
        "trailers-endless": (without_end(chunked(b"{}", end=b"0\r\n"), b"a: b\r\n"), LOST),
        "packed-and-chunked": (http(WHOLE, "transfer-encoding: gzip, chunked"), LOST),
        "two-in-one": (http(WHOLE) + http(body_of(part(image_of("nobody")))), FINE),
    }


def _heads() -> dict[str, Row]:
    return {
        "no-http": (b"SSH-2.0-server\r\n\r\n", LOST),
        "http-9": (b"HTTP/9.9 200 OK\r\n\r\n", LATE),
        "status-999": (http(b"", status="999 ?"), LOST),
        "switching": (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nxyz", LOST),
        "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", BAD),
        "not-modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "Rejected"),
        "partial": (http(WHOLE, status="206 Partial Content"), BAD),
        "interim-some": (CONTINUE * 5 + http(WHOLE), FINE),
        "interim-endless": (without_end(b"", CONTINUE), LOST),
        "interim-drip": (slowly(b"", CONTINUE), LATE),
        "headers-endless": (without_end(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), LOST),
        "header-endless": (without_end(b"HTTP/1.1 200 OK\r\na: ", b"b"), LOST),
        "header-nul": (http(WHOLE, "a: b\0c"), LOST),
        "cookies": (http(WHOLE, *["set-cookie: a=b"] * 500), FINE),
        "redirect-file": (http(b"", "location: file:///etc/passwd", status="302 ?"), "Rejected"),
        "redirect-host": (http(b"", "location: http://192.0.2.1/", status="307 ?"), "Rejected"),
    }


def _endings() -> dict[str, Row]:
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    return {
        "closes": (then_close(b""), LOST),
        "closes-in-head": (then_close(b"HTTP/1.1 200"), LOST),
        "resets": (then_reset(b""), LOST),
        "resets-in-head": (then_reset(b"HTTP/1.1 200"), LOST),
        "resets-in-body": (then_reset(http(WHOLE)[:-9]), LOST),
        "half-closes": (half_closed(http(WHOLE)[:-9]), LOST),
        "half-closes-whole": (half_closed(http(WHOLE)), FINE),
        "silent": (b"", LATE),
        "drips": (slowly(b"", b"H"), LATE),
        "drips-body": (slowly(http(b"", length=10**6), b" "), LATE),
        "endless": (without_end(OPEN, b"x"), f"{BAD} {LATE}"),
        "endless-chunks": (without_end(CHUNKS, chunk), f"{BAD} {LATE}"),
        "endless-small-chunks": (without_end(CHUNKS, b"1\r\nx\r\n"), f"{BAD} {LATE}"),
    }


def _packed() -> dict[str, Row]:
    packed, in_gzip = gzip.compress(WHOLE), "content-encoding: gzip"
    return {
        "packed": (http(packed, in_gzip), FINE),
        "packed-cut": (http(packed[:-9], in_gzip), BAD),
        "packed-unknown": (http(WHOLE, "content-encoding: br"), BAD),
        "bomb": (http(bomb(31), in_gzip), BAD),
        "bomb-deflate": (http(bomb(15), "content-encoding: deflate"), BAD),
        "bomb-in-a-bomb": (http(gzip.compress(bomb(31)), "content-encoding: gzip, gzip"), BAD),
        "bomb-unsaid": (http(bomb(31)), BAD),
    }


def _bodies() -> dict[str, Row]:
    unbelievable = b'{"promptTokenCount": %b, "candidatesTokenCount": 1e999}' % (b"9" * 4000)
    return {
        "empty": (http(b""), BAD),
        "html": (http(HTML, "content-type: text/html"), BAD),
        "html-large": (http(HTML + b" " * 40_000_000), BAD),
        "array": (http(b"[" + WHOLE + b"]"), BAD),
        "events": (http(b"data: " + WHOLE + b"\r\n\r\n"), BAD),
        "error": (http(b'{"error": {"code": 503, "message": "later"}}'), LOST),
        "nested": (http(b"[" * 30_000_000), BAD),
        "nested-objects": (http(b'{"a":' * 6_000_000), BAD),
        "parts": (http(body_of(*[{}] * 3_000_000)), BAD),
        "parts-of-images": (http(body_of(*[part(b"x")] * 500_000)), BAD),
        "parts-and-image": (http(body_of(*[{"text": ""}] * 90_000, LARGE)), FINE),
        "text-of-30-mb": (http(body_of({"text": "x" * 30_000_000}, LARGE)), FINE),
        "key-of-40-mb": (http(b'{"' + b"x" * 40_000_000 + b'": 1}'), "NoImage"),
        "utf-16": (http(WHOLE.decode().encode("utf-16")), BAD),
        "byte-order-mark": (http(b"\xef\xbb\xbf" + WHOLE), f"{BAD} {FINE}"),
        "nul": (http(body_of({"text": "a\0b"}, LARGE)), FINE),
        "surrogates": (http(body_of({"text": "\ud800"}, LARGE)), FINE),
        "nan": (http(body_of(LARGE, usageMetadata={"promptTokenCount": float("nan")})), FINE),
        "huge": (http(WHOLE[:-1] + b', "usageMetadata": ' + unbelievable + b"}"), FINE),
    }


def _images() -> dict[str, Row]:
    image = base64.b64decode(LARGE["inlineData"]["data"])
    twice = {"candidates": json.loads(WHOLE)["candidates"] * 2}
    split = http(body_of(part(image_of("hostile", 4_500_001), unpadded)))
    local = {"fileData": {"fileUri": "file:///etc/passwd"}}
    elsewhere = {"fileData": {"fileUri": "http://192.0.2.1/x", "mimeType": "image/png"}}
    return {
        "data-of-0": (http(body_of({"inlineData": {"data": 0}}, {"data": 0}, LARGE)), FINE),
        "thoughts": (http(body_of(part(image_of("thought"), thought=True), LARGE)), FINE),
        "candidates": (http(json.dumps(twice).encode()), FINE),
        "escapes": (http(body_of(LARGE).replace(b"A", b"\\u0041")), FINE),
        "unpadded": (http(body_of(part(image, unpadded))), FINE),
        "of-urls": (http(body_of(part(image, of_urls))), FINE),
        "in-lines": (http(body_of(part(image, in_lines))), FINE),
        "split": (in_pieces(split, 65_536, 3, 1, 1, 1, 1, 60), FINE),
        "file-elsewhere": (http(body_of(elsewhere)), "NoImage"),
        "file-local": (http(body_of(local)), "NoImage"),
        "script": (http(body_of(part(b"\x89PNG\r\n\x1a\n<script>"))), "DamagedImage"),
        "cut": (http(body_of(part(PNG[:-1]))), "DamagedImage"),
        "no-base64": (http(body_of({"inlineData": {"data": "*" * 30_000_000}})), "DamagedImage"),
        "no-bytes": (http(body_of(part(b""))), BAD),
    }


def kinds() -> dict[str, Row]:
    """Return all of them, by name; they take much memory."""
    return _framings() | _heads() | _endings() | _packed() | _bodies() | _images()


# The server


@contextmanager
def serving(kinds: Mapping[str, Row]) -> Iterator[str]:
    """Serve in threads while the block runs, and yield the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        threading.Thread(target=_accept, args=[listener, kinds], daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, kinds: Mapping[str, Row]) -> None:
    with suppress(OSError):
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_converse, args=[sock, kinds], daemon=True).start()


def _converse(sock: socket.socket, kinds: Mapping[str, Row]) -> None:
    with sock, suppress(OSError):
        while request := _request(sock):
            kind = _KIND.search(request)
            if kind is not None:
                answer, _ = kinds[kind[0].decode().removeprefix("hostile-")]
                sock.sendall(answer) if isinstance(answer, bytes) else answer(sock)
                continue
            prompt = re.search(rb"a cat, [\w -]+", request)
            sock.sendall(http(body_of(part(image_of(prompt[0].decode() if prompt else "nobody")))))
            if b"that closes" in request:
                time.sleep(0.002)
                return


def _request(sock: socket.socket) -> bytes:
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return received
        if not (piece := sock.recv(65_536)):
            return b""
        received += piece
