"""Reading the results of a job: how many lines in a second, and how much memory.

Run ``python -m benchmarks.job_results``. A file of 100,000 lines with small images comes over the
loopback, once as the client reads it (lines split, parsed, images decoded; saving is what the disk
does) and once in lines of 4 MB. Each is read in a process of its own.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import anyio.abc

from genbatch import GeminiClient, Image, SavedImage
from genbatch._store import BegunCall
from genbatch._store._plan import Plan
from genbatch.batch_api._api import open_service
from genbatch.batch_api._collect import Results, _take_all
from genbatch.batch_api._job import LiveJob
from genbatch.batch_api._journal import JobRequest, Spool

from .child import peak_kib

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
_PIECE = 1 << 20
_PNG, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def key_of(number: int) -> str:
    """Return a key like those of requests."""
    return f"{number:064x}"


def sent_of(number: int) -> JobRequest:
    """Return a request as the journal knows it."""
    return JobRequest(BegunCall(Plan(key_of(number), "a-name", item=number), 1, "a-name"), 0.0168)


def write(path: Path, lines: int, size: int) -> None:
    """Write results whose images have so many bytes."""
    data = base64.b64encode(_PNG + os.urandom(size) + _END).decode()
    part = {"inlineData": {"mimeType": "image/png", "data": data}}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 1120, "totalTokenCount": 1129}
    response = {"candidates": [candidate], "usageMetadata": usage, "responseId": "r1"}
    with path.open("w") as file:
        for number in range(lines):
            file.write(json.dumps({"key": key_of(number), "response": response}) + "\n")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[str]:
    """Serve a file, whatever is asked for."""

    size = os.stat(path).st_size

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(_HEAD % size)
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    await stream.send(piece)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


def serve(path: Path, ready: Any) -> None:
    """Serve a file in a process of its own."""

    async def main() -> None:
        async with serving(path) as url:
            ready.send(url)
            await anyio.sleep_forever()

    anyio.run(main)


class _Context:
    """What collecting needs of a batch: the service, and threads; nothing is saved."""

    place: _Context

    def __init__(self, service: Any) -> None:
        self.service = service
        self.place = self

    def save(self, job: Any, request: Any, image: Image) -> SavedImage:
        return SavedImage(Path("x"), image.mime_type, len(image.data) / 1e6, "")

    def settle_earlier(self, *_: Any, **__: Any) -> None:
        """Settle nothing: the job is this process's own."""

    async def run_in_thread(self, function: Any, *args: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *args)


def read(url: str, lines: int, backend: str, ready: Any) -> None:
    """Read all results and send what it took."""

    async def main() -> dict[str, float]:
        async with GeminiClient("a-key", base_url=url) as client, open_service(client) as service:
            pending = {key_of(number): sent_of(number) for number in range(lines)}
            before, began = peak_kib(), perf_counter()
            context: Any = _Context(service)
            job = LiveJob("gemini-nano-banana-2.1", "label", Spool(Path("x"), "label"))
            results = Results(context, job, pending)
            last = await _take_all(results, service.lines("files/x"))
            results.take(last)
            seconds = perf_counter() - began
            assert not pending, "some lines have not been read"
            return {"seconds": seconds, "grown_mb": (peak_kib() - before) / 1024}

    ready.send(anyio.run(main, backend=backend))


def measure(path: Path, lines: int, backend: str) -> dict[str, float]:
    """Read a file of results and return what it took."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(path, there))
    server.start()
    reader = context.Process(target=read, args=(here.recv(), lines, backend, there))
    reader.start()
    taken: dict[str, float] = here.recv()
    reader.join()
    server.terminate()
    server.join()
    return taken


def main() -> None:
    """Measure, and print a line for each kind of file and backend."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_results", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--lines", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for lines, size in ((options.lines, 100), (options.lines // 10, 100), (250, 3_000_000)):
            path = Path(directory) / "results.jsonl"
            write(path, lines, size)
            for backend in ("asyncio", "trio"):
                taken = measure(path, lines, backend)
                rate = lines / taken["seconds"]
                mb = path.stat().st_size / 1e6
                print(
                    f"{backend:8} {lines:7,} lines of {size:9,} bytes, {mb:6.0f} MB: "
                    f"{rate:8,.0f} lines/s, {mb / taken['seconds']:5.0f} MB/s, "
                    f"{taken['grown_mb']:6.1f} MB of memory"
                )


if __name__ == "__main__":
    main()
