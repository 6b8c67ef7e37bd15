"""Files and batches of a FakeGemini by hand, without the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from google import genai
from google.genai import types
from google.genai.client import AsyncClient

from genbatch.testing import FakeGemini
from support.wire import KEY, MODEL, asking

UPLOAD = "/upload/v1beta/files"
CREATE = f"/v1beta/models/{MODEL}:batchGenerateContent"
ENDS = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


@asynccontextmanager
async def sdk_of(server: FakeGemini) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient(timeout=30, verify=False) as http:
        options = types.HttpOptions(
            base_url=server.url, api_version="v1beta", httpx_async_client=http
        )
        yield genai.Client(api_key=KEY["x-goog-api-key"], http_options=options).aio


def row(key: str, prompt: str | None = None) -> bytes:
    return json.dumps({"key": key, "request": asking(prompt or f"prompt of {key}")}).encode()


def rows(*keys: str) -> bytes:
    return b"".join(row(key) + b"\n" for key in keys)


async def start_upload(client: httpx.AsyncClient, size: int | None, **file: str) -> httpx.Response:
    headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    if size is not None:
        headers["x-goog-upload-header-content-length"] = str(size)
    return await client.post(UPLOAD, headers=headers, json={"file": file})


async def send_chunk(
    client: httpx.AsyncClient, url: str, command: str, offset: int = 0, content: bytes = b""
) -> httpx.Response:
    headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
    return await client.post(url, headers=headers, content=content)


async def upload(client: httpx.AsyncClient, content: bytes, **file: str) -> dict[str, Any]:
    """Return the file that content has become."""
    started = await start_upload(client, len(content), **file)
    url = started.headers["x-goog-upload-url"]
    answer = await send_chunk(client, url, "upload, finalize", 0, content)
    described: dict[str, Any] = answer.json()["file"]
    return described


async def create(client: httpx.AsyncClient, file: str, name: str = "a batch") -> httpx.Response:
    batch = {"displayName": name, "inputConfig": {"fileName": file}}
    return await client.post(CREATE, json={"batch": batch})


async def submit(client: httpx.AsyncClient, content: bytes) -> str:
    """Upload content, create a batch of it, and return its name."""
    file = await upload(client, content)
    name: str = (await create(client, file["name"])).json()["name"]
    return name


async def reached(client: httpx.AsyncClient, name: str, *states: str) -> dict[str, Any]:
    """Return the operation of a batch as soon as its state is one of those, or the end."""
    with anyio.fail_after(60):
        while True:
            operation: dict[str, Any] = (await client.get(f"/v1beta/{name}")).json()
            state = operation["metadata"]["state"].removeprefix("BATCH_STATE_")
            if state in (states or ENDS):
                return operation


async def run(client: httpx.AsyncClient, content: bytes) -> dict[str, Any]:
    """Return the operation of a batch of content once it has ended."""
    return await reached(client, await submit(client, content))


async def lines_of(client: httpx.AsyncClient, operation: dict[str, Any]) -> list[bytes]:
    """Return the lines that answer a batch."""
    file = operation["metadata"]["output"]["responsesFile"]
    answer = await client.get(f"/download/v1beta/{file}:download?alt=media")
    return answer.raise_for_status().content.splitlines()


async def answers_of(
    client: httpx.AsyncClient, operation: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Return key and content of the lines that answer a batch."""
    lines: Iterable[Any] = map(json.loads, await lines_of(client, operation))
    return [(line["key"], line) for line in lines]
