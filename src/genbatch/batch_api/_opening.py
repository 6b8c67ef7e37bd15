"""Opening the batch queue: what is slow to import, and to build, is so in a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from genbatch.gemini import DEFAULT_BASE_URL, GeminiClient

if TYPE_CHECKING:
    import httpx

    from genbatch.gemini.wire import Wire

    from ._service import Batches


@asynccontextmanager
async def open_batches(client: GeminiClient) -> AsyncGenerator[Batches]:
    """Open the batch queue on the account of an open client.

    Raises:
        RuntimeError: If the client is not open.
        ValueError: If a proxy of the environment cannot be used.
    """
    wire = client._opened()
    batches, owned = await to_thread.run_sync(_open, client, wire, limiter=client._threads)
    try:
        yield batches
    finally:
        if owned is not None:
            with anyio.CancelScope(shield=True):
                await owned.aclose()


def _open(client: GeminiClient, wire: Wire) -> tuple[Batches, httpx.AsyncClient | None]:
    import httpx

    from ._service import Batches

    if wire.stack is None:
        assert client._http_client is not None  # noqa: S101 - narrows the type
        return Batches(client, client._http_client), None
    # One of our own: the client's reads an answer whole, and results may be gigabytes.
    owned = httpx.AsyncClient(
        verify=wire.stack.certificates,
        proxy=wire.stack.proxy_for(httpx.URL(client._base_url or DEFAULT_BASE_URL)),
        follow_redirects=False,
        trust_env=False,
    )
    return Batches(client, owned), owned
