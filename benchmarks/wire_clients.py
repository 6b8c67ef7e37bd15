"""The ways to get an image over the wire that the wire benchmark compares."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import httpx
import pybase64
from google import genai
from google.genai import types
from pydantic_core import from_json

import genbatch

from .wire_server import MODEL

# One call: an image of so many bytes, after so many seconds.
Call: TypeAlias = Callable[[int, float], Awaitable[bytes]]
Client: TypeAlias = Callable[[str, int], AbstractAsyncContextManager[Call]]

_KEY = "no-key-at-all"
_HEADERS = {"x-goog-api-key": _KEY, "content-type": "application/json"}
_REQUEST = {
    "contents": [{"parts": [{"text": "a cat"}], "role": "user"}],
    "generationConfig": {"responseModalities": ["IMAGE"]},
}


def path(size: int, delay: float) -> str:
    return f"/v1beta/models/{MODEL.format(size=size, delay=delay)}:generateContent"


def _data(answer: Any) -> str:
    data: str = answer["candidates"][0]["content"]["parts"][0]["inlineData"]["data"]
    return data


@asynccontextmanager
async def floor(url: str, _k: int) -> AsyncIterator[Call]:
    """A blocking socket and the fastest parsers: what nothing can be much below."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        async def call(size: int, delay: float) -> bytes:
            body = json.dumps(_REQUEST).encode()
            head = f"POST {path(size, delay)} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}"
            sock.sendall(head.encode() + b"\r\n\r\n" + body)
            first, _, start = sock.recv(65536).partition(b"\r\n\r\n")
            length = int(first.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            answer = bytearray(length)
            answer[: len(start)] = start
            view, filled = memoryview(answer), len(start)
            while filled < length:
                filled += sock.recv_into(view[filled:])
            return pybase64.b64decode(_data(from_json(bytes(answer))), validate=True)

        yield call


@asynccontextmanager
async def ours(url: str, _k: int) -> AsyncIterator[Call]:
    async with genbatch.GeminiClient(_KEY, base_url=url) as client:

        async def call(size: int, delay: float) -> bytes:
            model = MODEL.format(size=size, delay=delay)
            return (await client.generate_image("a cat", model=model)).data

        yield call


def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()  # of SSL_CERT_FILE, as genbatch


def _limits(k: int) -> httpx.Limits:
    return httpx.Limits(max_connections=k, max_keepalive_connections=k)


@asynccontextmanager
async def sdk(url: str, _k: int) -> AsyncIterator[Call]:
    """google-genai as it comes: it takes aiohttp where that is installed."""
    async with _sdk_call(types.HttpOptions(base_url=url, api_version="v1beta")) as call:
        yield call


@asynccontextmanager
async def sdk_httpx(url: str, k: int) -> AsyncIterator[Call]:
    async with httpx.AsyncClient(limits=_limits(k), timeout=60, verify=_certificates()) as client:
        options = types.HttpOptions(
            base_url=url, api_version="v1beta", httpx_async_client=client, timeout=60_000
        )
        async with _sdk_call(options) as call:
            yield call


@asynccontextmanager
async def _sdk_call(options: types.HttpOptions) -> AsyncIterator[Call]:
    async with genai.Client(api_key=_KEY, vertexai=False, http_options=options).aio as client:
        config = types.GenerateContentConfig(
            response_modalities=["IMAGE"],
            automatic_continuation=False,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )

        async def call(size: int, delay: float) -> bytes:
            answer: Any = await client.models.generate_content(
                model=MODEL.format(size=size, delay=delay), contents="a cat", config=config
            )
            data: bytes = answer.candidates[0].content.parts[0].inline_data.data
            return data

        yield call


@asynccontextmanager
async def by_hand(url: str, k: int) -> AsyncIterator[Call]:
    async with httpx.AsyncClient(base_url=url, limits=_limits(k), timeout=60) as client:

        async def call(size: int, delay: float) -> bytes:
            answer = await client.post(path(size, delay), json=_REQUEST, headers=_HEADERS)
            return base64.b64decode(_data(answer.json()))

        yield call


@asynccontextmanager
async def aio(url: str, k: int) -> AsyncIterator[Call]:
    import aiohttp
    import orjson

    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=k)) as session:

        async def call(size: int, delay: float) -> bytes:
            body = orjson.dumps(_REQUEST)
            async with session.post(path(size, delay), data=body, headers=_HEADERS) as answer:
                content = orjson.loads(await answer.read())
            return pybase64.b64decode(_data(content), validate=True)

        yield call


CLIENTS: dict[str, Client] = {
    "floor": floor,
    "genbatch": ours,
    "SDK": sdk,
    "SDK + httpx": sdk_httpx,
    "httpx, json, base64": by_hand,
    "aiohttp, orjson, pybase64": aio,
}
