"""Event loops, clients and the fake service around a batch."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias, TypeVar

import anyio

from genbatch import GeminiClient, Throttle, Unauthorized
from genbatch.testing import FakeGemini

from ._console import QuietConsole, count
from ._demo import DEMO
from ._display import Display
from ._result import Options, Result

R = TypeVar("R")
Work: TypeAlias = Callable[[GeminiClient, Options, Display], Awaitable[Result]]


Throttles: TypeAlias = Callable[[str], Throttle]


def client_of(
    base_url: str | None,
    timeout: float = 120.0,
    throttle: Throttles | None = None,
    otherwise: str = "",
) -> GeminiClient:
    """Return a client with the key of the environment; as GeminiClient.

    Args:
        base_url: As for GeminiClient.
        timeout: As for GeminiClient.
        throttle: As for GeminiClient.
        otherwise: What else to say where there is no key.

    Raises:
        ValueError: If there is no key, or a setting is out of range.
    """
    try:
        return GeminiClient(base_url=base_url, trust_env=True, timeout=timeout, throttle=throttle)
    except Unauthorized as error:  # there is none; nothing was refused yet
        raise ValueError(
            f"no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY){otherwise}"
        ) from error


def run_real(client: GeminiClient, work: Work, options: Options, backend: str) -> Result:
    """Work against the service."""

    async def batch() -> Result:
        async with client:
            return await work(client, options, display)

    with Display(options) as display:
        result = run(batch, backend)
    return _left(result, display)


def run_demo(
    work: Work, options: Options, latency: float, backend: str, throttle: Throttles | None = None
) -> tuple[Result, str]:
    """Work against a fake service of its own, and return what that counted too."""

    async def batch() -> tuple[Result, str]:
        async with (
            FakeGemini(latency=latency) as fake,
            GeminiClient("fake", vertexai=False, base_url=fake.url, throttle=throttle) as client,
        ):
            return await work(client, asked, display), _counts(fake)

    asked = replace(options, namespace=DEMO, price=0.0)
    with Display(asked) as display:
        result, counts = run(batch, backend)
    return _left(result, display), counts


def _left(result: Result, display: Display) -> Result:
    """Return a result with what became of its rows once the display was left."""
    result.lost = display.lost_rows
    if display.is_interrupted:
        result.interrupted = result.interrupted or signal.SIGINT
    return result


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


def _counts(fake: FakeGemini) -> str:
    stats = fake.stats
    calls, images = count(stats.calls, "call"), count(stats.images, "image")
    return f"server: {calls}, {images}, peak {stats.peak}"


def run(function: Callable[[], Awaitable[R]], backend: str) -> R:
    """Run an asynchronous function on an event loop, and return what it does."""
    return anyio.run(
        function,
        backend="trio" if backend == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if backend == "uvloop" else {},
    )
