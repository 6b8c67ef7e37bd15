"""Servers of objects for tests: moto, which speaks S3, and Azurite, which speaks Azure's API."""

from __future__ import annotations

import base64
import hmac
import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

_SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=x"
_ACCOUNT = "devstoreaccount1"
# Of Azurite's one account, as its documentation has it.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True, slots=True)
class ObjectServer:
    """A server with a bucket ``bucket``.

    Attributes:
        endpoint: Its URL.
        bucket: URL of the bucket.
        environment: What a process needs to use it.
    """

    endpoint: str
    bucket: str
    environment: dict[str, str]


@contextmanager
def moto() -> Iterator[ObjectServer]:
    """Run moto's server."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    code = "from moto.server import main; main()"
    with _running([sys.executable, "-c", code, "-p", str(port)]):
        _create(Request(f"{endpoint}/bucket", method="PUT", headers={"Authorization": _SIGNED}))
        yield ObjectServer(endpoint, "s3://bucket", s3_environment(endpoint))


@contextmanager
def azurite(folder: Path) -> Iterator[ObjectServer]:
    """Run Azurite, which is installed into a folder unless it is in PATH."""
    program = shutil.which("azurite-blob") or folder / "node_modules" / ".bin" / "azurite-blob"
    if not Path(program).exists():
        command = ["npm", "install", "--silent", "--prefix", folder, "azurite"]
        subprocess.run(command, check=True)
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
    options = "--silent --disableTelemetry --skipApiVersionCheck --inMemoryPersistence".split()
    with _running([str(program), *options, "--blobPort", str(port)], folder):
        date, version = formatdate(usegmt=True), "2021-08-06"
        signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
        signed += f"/{_ACCOUNT}/{_ACCOUNT}/bucket\nrestype:container"
        key = base64.b64decode(_KEY)
        signature = base64.b64encode(hmac.digest(key, signed.encode(), "sha256")).decode()
        headers = {"x-ms-date": date, "x-ms-version": version}
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{signature}"
        _create(Request(f"{endpoint}/bucket?restype=container", method="PUT", headers=headers))
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
        }
        yield ObjectServer(endpoint, "az://bucket", environment)


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return what a process needs to use a server of S3 that checks no signature."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }


def read(server: ObjectServer, name: str) -> tuple[str, bytes]:
    """Return the content type and the bytes of an object of moto, without genbatch."""
    request = Request(f"{server.endpoint}/bucket/{name}", headers={"Authorization": _SIGNED})
    with urlopen(request) as answer:
        return answer.headers["Content-Type"], answer.read()


class HoldingProxy:
    """A proxy that holds the first PUT of an image for ever: half of it, or all but the answer.

    Args:
        endpoint: Of the server behind it.
        is_whole: Whether the server gets all of it.
    """

    def __init__(self, endpoint: str, *, is_whole: bool) -> None:
        self.holds = Event()
        self._released = Event()
        behind = urlsplit(endpoint).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_held = (
                    self.command == "PUT" and "/images/" in self.path and not proxy.holds.is_set()
                )
                if is_held:
                    proxy.holds.set()
                connection = http.client.HTTPConnection(behind)
                connection.putrequest(self.command, self.path, skip_host=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body[: len(body) // 2] if is_held and not is_whole else body)
                if is_held and not is_whole:
                    proxy._released.wait()
                    connection.close()
                    return
                answer = connection.getresponse()
                data = answer.read()
                if is_held:
                    proxy._released.wait()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                if answer.getheader("Content-Length") is None:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Drop what is held, and serve no more."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def answering(status: int, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """Run a server that gives every request the same answer, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def _running(command: list[str], folder: Path | None = None) -> Iterator[None]:
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=silent, stderr=silent, cwd=folder) as process:
        try:
            yield
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _create(request: Request) -> None:
    """Create a bucket as soon as its server answers."""
    for _ in range(600):
        try:
            urlopen(request).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{request.full_url} does not answer")
