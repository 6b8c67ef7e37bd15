"""GeminiClient: from one prompt to one image."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
from anyio import to_thread

from genbatch._image import Image
from genbatch._prompt import Prompt

from ._answer import image_from
from ._request import prepare
from ._retry import with_retries
from ._settings import check_http_client, find_base_url, find_key

if TYPE_CHECKING:
    import httpx
    import httpx2

    from ._sdk import Wire

_FILE_THREADS = 4


class GeminiClient:
    """Generates images with Gemini, one call per prompt.

    Use it with ``async with``; one client, and its connections, serve any number of concurrent
    calls. Entering opens no task group, so it may live in an app's lifespan and be closed from
    another task. It runs under asyncio, uvloop and trio.

    Args:
        api_key: Where blank, GEMINI_API_KEY, then GOOGLE_API_KEY is taken. It is sent to
            base_url only, never after a redirect, and shown in no message, log or repr.
        base_url: Https, or http for a loopback host. Where None, GOOGLE_GEMINI_BASE_URL, then
            Google's own.
        http_client: Used instead of the client's own connections and never closed here; its
            timeouts do not apply. The client's own take no proxy from the environment.
        max_retries: Most attempts of a call after its first.
        timeout: Seconds each attempt may take in all.

    Raises:
        Unauthorized: If there is no key.
        ValueError: If a setting is out of range, or http_client follows redirects.
        TypeError: If http_client is not asynchronous.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
        max_retries: int = 3,
        timeout: float = 120.0,
    ) -> None:
        if max_retries < 0:
            raise ValueError(f"max_retries must be >= 0, got {max_retries}")
        if not timeout > 0:
            raise ValueError(f"timeout must be > 0, got {timeout}")
        if http_client is not None:
            check_http_client(http_client)
        self._secret = find_key(api_key, os.environ)
        self._base_url = find_base_url(base_url, os.environ)
        self._http_client = http_client
        self._max_retries = max_retries
        self._timeout = timeout
        # Its own: anyio's default limiter is shared with everything else in the app.
        self._threads = anyio.CapacityLimiter(_FILE_THREADS)
        self._wire: Wire | None = None

    def __repr__(self) -> str:
        return f"<GeminiClient base_url={self._base_url!r}>"

    async def __aenter__(self) -> Self:
        if self._wire is not None:
            raise RuntimeError("GeminiClient is open already")
        # Imports and certificates take a second, too long for the event loop.
        self._wire = await to_thread.run_sync(self._connect, limiter=self._threads)
        return self

    def _connect(self) -> Wire:
        from ._sdk import Wire

        return Wire(self._secret, self._base_url, self._http_client, self._timeout)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            # A cancelled app must not leave sockets open; closing waits for no peer.
            with anyio.CancelScope(shield=True):
                await wire.aclose()

    async def generate_image(
        self,
        prompt: str | Prompt,
        *,
        model: str = "flash",
        aspect_ratio: str | None = None,
        image_size: str | None = None,
    ) -> Image:
        """Generate one image.

        Args:
            prompt: What to draw. A Prompt's own settings override those below.
            model: ``"flash"``, ``"pro"``, ``"lite"``, or any full model id.
            aspect_ratio: Such as ``"16:9"``; the model's default where None.
            image_size: ``"1K"``, ``"2K"`` or ``"4K"``; the model's default where None.

        Returns:
            The image, its type read from the bytes.

        Raises:
            ValueError: If the prompt is blank, or an input image of it is no image.
            OSError: If an input image cannot be read.
            RateLimited: If the service still asks to slow down after the retries, or asks to wait
                for more than two minutes.
            QuotaExhausted: If the model has no quota left today, or none at all.
            Unavailable: If the service cannot be reached, or fails, retries included.
            TimeoutError: If no attempt was answered in time.
            InvalidResponse: If the answer is no image; damaged ones are retried.
            Rejected: If the service refuses the request.
            Unauthorized: If it refuses the key.
            Blocked: If a filter took the prompt or the image.
            NoImage: If the model answered without one.
            RuntimeError: If the client is not open.

        Retries: Only what may pass: lost connections, timeouts, 408, 429, 500, 502, 503, 504 and
        damaged answers. An attempt that was sent may be billed, so a retry may be paid for twice.

        Cancellation: An answer that has arrived is returned, and the cancellation strikes at the
        caller's next checkpoint. With an http_client of one's own, a native ``Task.cancel()`` may
        still lose it.
        """
        wire = self._wire
        if wire is None:
            raise RuntimeError("GeminiClient is not open: use 'async with GeminiClient(...)'")
        request = await prepare(
            prompt,
            model=model,
            aspect_ratio=aspect_ratio,
            image_size=image_size,
            limiter=self._threads,
        )
        answer = await with_retries(lambda: wire.ask(request), self._max_retries)
        return image_from(answer, request.model)
