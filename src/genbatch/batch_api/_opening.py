"""Opening the batch queue: what is slow to import, and to build, is so in a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from genbatch.gemini import DEFAULT_BASE_URL, GeminiClient, Proxies

if TYPE_CHECKING:
    import ssl

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
    from genbatch.gemini.wire import bodies

    from ._service import Batches

    if wire.certificates is None:
        assert client._http_client is not None  # noqa: S101 - narrows the type
        return Batches(client, client._http_client, bodies()), None
    owned = _open_http(client, wire.certificates)
    return Batches(client, owned, bodies()), owned


def _open_http(client: GeminiClient, certificates: ssl.SSLContext) -> httpx.AsyncClient:
    """Return a client of our own: lanes read an answer whole, and results may be gigabytes."""
    import httpx

    home = urlsplit(client._base_url or DEFAULT_BASE_URL)
    port = home.port or (443 if home.scheme == "https" else 80)
    proxy = Proxies().of(home.scheme, home.hostname or "", port) if client._trust_env else None
    through = None
    if proxy is not None:
        through = httpx.Proxy(f"http://{proxy.host}:{proxy.port}", headers=proxy.headers)
    return httpx.AsyncClient(
        verify=certificates, proxy=through, follow_redirects=False, trust_env=False
    )
