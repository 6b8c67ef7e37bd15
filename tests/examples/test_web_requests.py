"""What the web example answers, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from genbatch.testing import FakeGemini
from support.servers import app_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(folder: Path, anyio_backend: Any) -> Any:
    """A client of the app, without a connection."""
    async with FakeGemini(image_size=8) as fake:
        app = app_of(fake, folder)
        async with (
            app.router.lifespan_context(app) as state,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(with_state(app, state)), base_url="http://studio"
            ) as client,
        ):
            yield client


def with_state(app: Any, state: Any) -> Any:
    async def call(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"state": dict(state)}, receive, send)

    return call


async def test_the_page_loads_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        answer = await http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "https://" not in answer.text


async def test_images_are_served_and_nothing_else_of_their_folder(
    http: httpx.AsyncClient, folder: Path
) -> None:
    (folder / "fox.png").write_bytes(b"an image")
    (folder / "index.html").write_text("a gallery")
    (folder.parent / "secret.png").write_bytes(b"a secret")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / ".genbatch" / "hidden.png").write_bytes(b"hidden")
    answer = await http.get("/images/fox.png")
    assert (answer.content, answer.headers["content-type"]) == (b"an image", "image/png")
    for path in (
        "index.html",
        "results.jsonl",
        "link.png",
        "../secret.png",
        "%2e%2e/secret.png",
        "%2e%2e%2fsecret.png",
        ".genbatch/hidden.png",
        ".genbatch/journal.sqlite",
        "",
        "%00.png",
        f"{'x' * 300}.png",
    ):
        assert (await http.get(f"/images/{path}")).status_code == 404, path


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'[" "]',
        b"[1]",
        b'{"a": "fox"}',
        b"not json",
        b"[" * 10_000,
        b'["a fox"' + 100 * b',"a fox"' + b"]",
    ],
)
async def test_what_is_no_list_of_prompts_is_refused(
    http: httpx.AsyncClient, folder: Path, content: bytes
) -> None:
    headers = {"content-type": "application/json"}
    answer = await http.post("/batches", content=content, headers=headers)
    assert answer.status_code == 422
    assert list(folder.glob("*.png")) == []


async def test_other_sites_cannot_start_batches(http: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await http.post("/batches", content=b'["a fox"]', headers={"content-type": kind})
        assert answer.status_code == 415
