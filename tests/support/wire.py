"""Calls of a FakeGemini by hand, without the client."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from genbatch.testing import FakeGemini, Fault

MODEL = "gemini-nano-banana-2.1"
PATH = f"/v1beta/models/{MODEL}:generateContent"
VERTEX_PATH = f"/v1beta1/projects/p/locations/l/publishers/google/models/{MODEL}:generateContent"
KEY = {"x-goog-api-key": "canary"}


def asking(prompt: str = "a red fox", *parts: object, **config: object) -> dict[str, Any]:
    contents = [{"role": "user", "parts": [{"text": prompt}, *parts]}]
    return {"contents": contents, "generationConfig": config}


@asynccontextmanager
async def client_of(server: FakeGemini) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.url, headers=KEY, limits=limits, timeout=30, verify=False
    ) as client:
        yield client


async def answer_to(fault: Fault) -> httpx.Response:
    async with FakeGemini(image_size=8, faults=[fault]) as server, client_of(server) as client:
        return await client.post(PATH, json=asking())


def parts_of(answer: httpx.Response) -> list[Any]:
    parts: list[Any] = answer.json()["candidates"][0]["content"]["parts"]
    return parts


def bytes_of(part: Any) -> bytes:
    return base64.b64decode(part["inlineData"]["data"], validate=True)


def png_of(answer: httpx.Response) -> bytes:
    return bytes_of(parts_of(answer)[1])


def png_size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def details_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the details of an error by the last part of their types."""
    details = answer.json()["error"].get("details", [])
    return {detail["@type"].rpartition(".")[2]: detail for detail in details}
