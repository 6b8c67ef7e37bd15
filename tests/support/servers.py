"""The servers that the web example runs behind, in the event loop of the test, and tabs."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import hypercorn
import hypercorn.asyncio
import hypercorn.trio
import pytest
import uvicorn
from anyio import EndOfStream, Event, create_task_group
from anyio.abc import ByteStream
from starlette.applications import Starlette

from genbatch import GeminiClient
from genbatch.testing import FakeGemini
from support.backends import BACKENDS
from web import app as web

SERVERS = {
    "uvicorn": (BACKENDS["asyncio"], "uvicorn"),
    "uvicorn+uvloop": (BACKENDS["asyncio+uvloop"], "uvicorn"),
    "hypercorn": (BACKENDS["asyncio"], "hypercorn.asyncio"),
    "hypercorn+trio": (BACKENDS["trio"], "hypercorn.trio"),
}
on_all_servers = pytest.mark.parametrize(
    ("anyio_backend", "server"), SERVERS.values(), ids=SERVERS.keys()
)

_EVENT = re.compile(rb"data: (.*)\n\n")


def app_of(fake: FakeGemini, folder: Path) -> Starlette:
    """Return the web example in front of a fake service."""
    return web.create_app(GeminiClient("a-key", base_url=fake.url), folder)


@asynccontextmanager
async def serving(app: Any, server: str) -> AsyncIterator[str]:
    """Serve an app in the block, and yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # soon full, unless tabs read
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with create_task_group() as tasks:
        if server == "uvicorn":
            config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
            running = uvicorn.Server(config)
            tasks.start_soon(running.serve, [listener])
            yield url
            running.should_exit = True
        else:
            ended = Event()
            tasks.start_soon(_run_hypercorn, server, app, listener.detach(), ended)
            yield url
            ended.set()


async def _run_hypercorn(server: str, app: Any, listener: int, ended: Event) -> None:
    serve = {"hypercorn.asyncio": hypercorn.asyncio, "hypercorn.trio": hypercorn.trio}[server].serve
    config = hypercorn.Config.from_mapping(
        bind=[f"fd://{listener}"], errorlog=None, graceful_timeout=1
    )
    await serve(app, config, shutdown_trigger=ended.wait)


class Tab:
    """What a browser's tab does with the web example, so far as its server can see."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._received = b""

    @property
    def is_whole(self) -> bool:
        """Whether the answer has come to its end, all of it."""
        return self._received.endswith(b"\r\n0\r\n\r\n")

    async def status(self) -> int:
        """Return the status of the answer, which has just begun."""
        while b"\r\n" not in self._received:
            self._received += await self._stream.receive()
        return int(self._received.split(b" ")[1])

    async def news(self) -> dict[str, Any] | None:
        """Return what the next event says, None after the last."""
        while (event := _EVENT.search(self._received)) is None:
            if self.is_whole:  # not every server closes the connection then
                return None
            try:
                self._received += await self._stream.receive()
            except EndOfStream:
                return None
        self._received = self._received[event.end() :]
        told: dict[str, Any] = json.loads(event[1])
        return told

    async def outcome(self) -> dict[str, Any] | None:
        """Return the next event that is about a prompt, None after the last."""
        while (told := await self.news()) is not None and "index" not in told:
            pass
        return told

    async def outcomes(self) -> list[dict[str, Any]]:
        """Return all that are left, by index."""
        found = []
        while (told := await self.outcome()) is not None:
            found.append(told)
        return sorted(found, key=lambda told: int(told["index"]))


@asynccontextmanager
async def tab(url: str, prompts: list[str], path: str = "/batches") -> AsyncIterator[Tab]:
    """Ask for images, and close the connection at the end of the block."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(prompts)
    request = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    )
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(request.encode())
        yield Tab(stream)
