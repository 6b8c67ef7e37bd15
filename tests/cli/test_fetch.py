"""Input images that are https URLs, or files that the service has."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from genbatch.cli import _fetch
from genbatch.cli._fetch import FetchedImages
from support.certificates import write_certificate
from support.commands import Genbatch, Serve, images, started

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


class Pictures:
    """An https server of a few paths, and the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.arrived, self.released = threading.Event(), threading.Event()
        pictures = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pictures.asked.append(self.path)
                status, headers, body = pictures.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(write_certificate(folder / "certificate.pem"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        match path.partition("?")[0]:
            case "/fox.png" | "/owl":
                return 200, {}, PNG
            case "/moved":
                return 302, {"location": "/fox.png"}, b""
            case "/plain":
                return 302, {"location": "http://127.0.0.1:1/fox.png"}, b""
            case "/loop":
                return 302, {"location": "/loop"}, b""
            case "/page":
                return 200, {"content-type": "image/png"}, b"<html>"
            case "/slow":
                self.arrived.set()
                self.released.wait(60)
                return 200, {}, PNG
            case "/large":
                return 200, {}, PNG + bytes(1000)
        return 404, {}, b""

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pictures(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pictures]:
    folder = tmp_path_factory.mktemp("tls")
    started = Pictures(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "certificate.pem"))
    yield started
    started.close()


def parts_of(call: Any) -> list[dict[str, Any]]:
    return [part for part in call.body["contents"][0]["parts"] if "text" not in part]


def test_an_image_is_fetched_once_before_paying(
    genbatch: Genbatch, serve: Serve, pictures: Pictures
) -> None:
    fake = serve()
    url = f"{pictures.url}/fox.png?key=secret"
    rows = [{"prompt": "a hat", "images": url}, {"prompt": "a scarf", "images": [url]}]
    rows.append({"prompt": "both", "images": [url, f"{pictures.url}/moved"]})
    Path("a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for runs in (1, 2):
        done = genbatch("run", "a.jsonl", "--fresh" if runs == 1 else "--yes")
        assert done.returncode == 0
        assert fake.stats.images == 3
        assert sorted(pictures.asked) == ["/fox.png", "/fox.png?key=secret", "/moved"]
    assert sorted(len(parts_of(call)) for call in fake.calls) == [1, 1, 2]
    assert len(list(Path("genbatch-out/.genbatch/inputs").iterdir())) == 2
    assert genbatch("verify").returncode == 0


def test_an_image_that_cannot_be_fetched_is_an_error_of_its_row(
    genbatch: Genbatch, serve: Serve, pictures: Pictures
) -> None:
    fake = serve()
    Path("a.csv").write_text(
        f"prompt,images\nx,{pictures.url}/fox.png\ny,{pictures.url}/gone.png?key=secret\n"
    )
    for options in ([], ["--dry-run"]):
        done = genbatch("run", "a.csv", *options)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            f"genbatch: a.csv:3: images: cannot fetch {pictures.url}/gone.png: status 404"
        )
    assert fake.stats.calls == 0


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/plain", "only https is fetched"),
        ("/loop", "more than 5 redirects"),
        ("/page", "it is not a PNG, JPEG, WebP, HEIC or HEIF image"),
        ("/large", "larger than 0 MB"),
    ],
)
def test_what_is_fetched_is_bounded(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    monkeypatch.setattr(_fetch, "_MOST_BYTES", 1000)
    found = FetchedImages(Path("out"))
    place = found.place(pictures.url + path)
    with pytest.raises(ValueError, match=f"{path}: {why}"):
        found.fetch(place)
    assert not place.exists()
    with pytest.raises(ValueError, match=why):
        found.place(pictures.url + path)
    assert len(pictures.asked) <= 6


def test_a_certificate_that_nobody_trusts_is_refused(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    found = FetchedImages(Path("out"))
    with pytest.raises(ValueError, match="certificate"):
        found.fetch(found.place(f"{pictures.url}/fox.png"))


def test_urls_for_all_prompts_and_on_standard_input(
    genbatch: Genbatch, serve: Serve, pictures: Pictures
) -> None:
    fake = serve()
    Path("a.txt").write_text("a hat\n")
    image = ["--image", f"{pictures.url}/owl"]
    assert genbatch("run", "a.txt", *image).returncode == 0
    row = json.dumps({"prompt": "a scarf", "images": f"{pictures.url}/owl"})
    assert genbatch("run", "-", input=f"{row}\n").returncode == 0
    assert [len(parts_of(call)) for call in fake.calls] == [1, 1]
    assert pictures.asked == ["/owl"]
    refused = genbatch("run", "a.txt", "--image", "http://x.test/a.png")
    assert (refused.returncode, len(images("genbatch-out"))) == (2, 2)


def test_files_that_the_service_has_are_sent_by_name(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    Path("a.jsonl").write_text(
        '{"prompt": "a hat", "images": "files/abc-123; gs://bucket/fox.png"}\n'
    )
    genbatch("run", "a.jsonl")
    (call,) = fake.calls
    assert [part["fileData"] for part in parts_of(call)] == [
        {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc-123"},
        {"fileUri": "gs://bucket/fox.png", "mimeType": "image/png"},
    ]
    Path("files").mkdir()
    Path("files/abc-123").write_bytes(PNG)
    assert genbatch("run", "a.jsonl", "--dry-run").returncode == 0
    Path("b.txt").write_text("a hat\n")
    assert genbatch("run", "b.txt", "--image", "files/abc-123", "-o", "b").returncode == 0
    assert "inlineData" in parts_of(fake.calls[-1])[0]
    missing = genbatch("run", "b.txt", "--image", "files/none.png")
    assert missing.returncode == 2
    assert "files/none.png: no such file" in missing.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_the_fetching_of_images(
    pictures: Pictures, genbatch: Genbatch, serve: Serve, backend: str
) -> None:
    fake = serve()
    row = {"prompt": "add a hat", "images": [f"{pictures.url}/slow"]}
    Path("p.jsonl").write_text(json.dumps(row) + "\n")
    with started(["run", "p.jsonl", "--backend", backend], stdin=subprocess.DEVNULL) as process:
        assert pictures.arrived.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130  # though the answer has not come
        assert process.stderr
        assert "Traceback" not in process.stderr.read()
    assert not list(Path("genbatch-out").rglob("*.part"))
    assert fake.stats.calls == 0
    pictures.released.set()
    assert genbatch("run", "p.jsonl").returncode == 0
    assert fake.stats.calls == 1


def test_for_a_bucket_it_is_fetched_to_the_home_of_the_user(
    genbatch: Genbatch, serve: Serve, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    fake = serve()
    Path("a.jsonl").write_text(json.dumps({"prompt": "a hat", "images": f"{pictures.url}/owl"}))
    done = genbatch("run", "a.jsonl", "-o", "memory://hats", "--yes")
    assert done.returncode == 0, done.stderr
    assert fake.stats.images == 1
    (kept,) = Path("home/.genbatch/buckets").glob("*/.genbatch/inputs/*")
    assert kept.read_bytes() == PNG
    assert not Path("memory:").exists()
