"""A fake of an OpenAI-compatible images endpoint, for openai_images.py and its test.

Shows nothing of genbatch: it is a small HTTP server in threads that answers each prompt with a
square of one colour, or first with the statuses that it is told to fail with.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def serving(failures: Iterable[int] = ()) -> Iterator[str]:
    """Serve in the block, and yield the URL; the first requests fail with the statuses given."""
    statuses = iter(failures)

    class Endpoint(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            image = base64.b64encode(square(request["prompt"])).decode()
            body = json.dumps({"data": [{"b64_json": image}]}).encode()
            self.send_response(next(statuses, 200))
            self.send_header("retry-after", "0.01")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


def square(text: str, size: int = 64) -> bytes:
    """Return a PNG of the colour that a text stands for."""
    row = b"\0" + size * zlib.crc32(text.encode()).to_bytes(4)[:3]
    header = struct.pack(">2I5B", size, size, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(size * row), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
