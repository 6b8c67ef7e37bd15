"""Event loops, clients and the fake service around a batch."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias, TypeVar

import anyio

from genbatch import GeminiClient
from genbatch.testing import FakeGemini

from ._demo import DEMO
from ._display import Display, QuietConsole
from ._run import Options, Result

R = TypeVar("R")
Work: TypeAlias = Callable[[GeminiClient, Options, Display], Awaitable[Result]]


def run_real(client: GeminiClient, work: Work, options: Options, backend: str) -> Result:
    """Work against the service."""

    async def batch() -> Result:
        async with client:
            return await work(client, options, _display())

    return run(batch, backend)


def run_demo(work: Work, options: Options, latency: float, backend: str) -> tuple[Result, str]:
    """Work against a fake service of its own, and return what that counted too."""

    async def batch() -> tuple[Result, str]:
        async with (
            FakeGemini(latency=latency) as fake,
            GeminiClient(api_key="fake", vertexai=False, base_url=fake.url) as client,
        ):
            asked = replace(options, namespace=DEMO, price=0.0)
            return await work(client, asked, _display()), _counts(fake)

    return run(batch, backend)


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
        run(fake_service, backend)
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


def run(function: Callable[[], Awaitable[R]], backend: str) -> R:
    """Run an asynchronous function on an event loop, and return what it does."""
    return anyio.run(
        function,
        backend="trio" if backend == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if backend == "uvloop" else {},
    )
