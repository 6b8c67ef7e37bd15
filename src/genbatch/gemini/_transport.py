"""The client's own connection pool, which never loses an answer that has arrived.

Giving a connection back to the pool awaits, and httpx does it between the last byte of an answer
and its return: a cancellation that lands there, such as a native ``task.cancel()``, throws away
an image that is already paid for. Here a connection whose answer is whole is put aside without
awaiting anything, and given back before the next request is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


def open_http_client() -> httpx.AsyncClient:
    """Return a client that trusts no environment, follows no redirect and limits nothing."""
    # A limited pool could wait for a connection that is only put aside. And whoever calls
    # the client bounds its calls already.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    transport = LateReleaseTransport(httpx.AsyncHTTPTransport(limits=limits, trust_env=False))
    return httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)


class LateReleaseTransport(httpx.AsyncBaseTransport):
    """Gives connections back at the next request instead of at the end of the answer."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self._finished: list[httpx.AsyncByteStream] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._release()
        request.stream = _Body(request.read())
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - narrows the type
        response.stream = _LateReleaseStream(response.stream, self._finished)
        return response

    async def aclose(self) -> None:
        await self._release()
        await self._inner.aclose()

    async def _release(self) -> None:
        while self._finished:
            await self._finished.pop().aclose()


class _Body(httpx.AsyncByteStream):
    """A request's body in one chunk.

    httpx's own is an asynchronous generator, which a cancelled request leaves unfinished: trio
    then warns of it.
    """

    def __init__(self, content: bytes) -> None:
        self._chunks = iter([content])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


class _LateReleaseStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, finished: list[httpx.AsyncByteStream]) -> None:
        self._inner = inner
        self._finished = finished
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk
        self._whole = True

    async def aclose(self) -> None:
        if self._whole:
            self._finished.append(self._inner)
        else:
            await self._inner.aclose()
