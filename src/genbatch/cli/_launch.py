"""Event loops, clients and the fake service around a batch."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import anyio

from genbatch import GeminiClient
from genbatch.testing import FakeGemini

from ._display import Display, QuietConsole
from ._run import Options, Prompts, Result, run_batch

R = TypeVar("R")


def run_real(client: GeminiClient, prompts: Prompts, options: Options, backend: str) -> Result:
    """Run a batch against the service."""

    async def batch() -> Result:
        async with client:
            return await run_batch(client, prompts, options, _display())

    return _run(batch, backend)


def run_demo(
    prompts: Prompts, options: Options, latency: float, backend: str
) -> tuple[Result, str]:
    """Run a batch against a fake service of its own, and return what that counted too."""

    async def batch() -> tuple[Result, str]:
        async with (
            FakeGemini(latency=latency) as fake,
            GeminiClient(api_key="fake", vertexai=False, base_url=fake.url) as client,
        ):
            # Its own namespace, or a real run would take the placeholders for its images.
            asked = replace(options, namespace="demo", price=0.0)
            result = await run_batch(client, prompts, asked, _display())
            return result, _counts(fake)

    return _run(batch, backend)


def serve(fake: FakeGemini, where: str, backend: str) -> None:
    """Serve a fake until a signal comes; where it serves is for the error if it cannot."""

    async def fake_service() -> None:
        async with fake:
            out = QuietConsole()
            out.say(f"A fake of the Gemini API is at {fake.url}; Ctrl-C ends it. In another shell:")
            out.say(f"  export GOOGLE_GEMINI_BASE_URL={fake.url} GEMINI_API_KEY=fake")
            out.say("  genbatch run prompts.txt")
            await _signal()
            out.say(_counts(fake))

    try:
        _run(fake_service, backend)
    except OSError as error:
        raise ValueError(f"cannot serve at {where}: {error}; try --port 0") from error


async def _signal() -> None:
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                return
    except NotImplementedError:  # event loops of Windows: KeyboardInterrupt comes instead
        await anyio.sleep_forever()


def _display() -> Display:
    return Display(QuietConsole(stderr=True))


def _counts(fake: FakeGemini) -> str:
    stats = fake.stats
    return f"server: {stats.calls} calls, {stats.images} images, peak {stats.peak}"


def _run(function: Callable[[], Awaitable[R]], backend: str) -> R:
    return anyio.run(
        function,
        backend="trio" if backend == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if backend == "uvloop" else {},
    )
