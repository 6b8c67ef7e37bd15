"""A server for the wire benchmark: a process of its own, so that the client's time is its own.

What it answers is in the model's name: ``bytes-1500000-delay-0.05`` is an image of so many bytes
after so many seconds. Answers are made once and kept, so that serving costs little.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

MODEL = "bytes-{size}-delay-{delay}"
_TARGET = re.compile(rb"bytes-(\d+)-delay-([\d.]+):")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[int]:
    """Run the server while the block runs, over TLS with a certificate; the port it listens on."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.wire_server",
        *map(str, filter(None, [certificate])),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@cache
def answer(size: int) -> bytes:
    """Return a whole HTTP answer that brings an image of size bytes, none that shrinks."""
    image = b"\x89PNG\r\n\x1a\n" + os.urandom(size - 16) + b"IEND\xaeB`\x82"
    part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(image).decode()}}
    content = {
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 1120},
        "modelVersion": "a model",
        "responseId": "an answer",
    }
    body = json.dumps(content).encode()
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=UTF-8\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Conversation(asyncio.Protocol):
    """One connection: whole requests in, one answer each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or len(body) < int(length[1] if length else 0):
            return
        self.received = b""
        target = _TARGET.search(head)
        assert target is not None, head
        size, delay = int(target[1]), float(target[2])
        loop = asyncio.get_running_loop()
        loop.call_later(delay, self.transport.write, answer(size))


async def main() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    tls = None
    if len(sys.argv) > 1:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[1])
    server = await loop.create_server(Conversation, "127.0.0.1", 0, backlog=2048, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
