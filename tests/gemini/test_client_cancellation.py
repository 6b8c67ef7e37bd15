"""Deadlines and cancellations: they end attempts, and never take an answer that has arrived."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.lowlevel
import httpcore
import httpx
import pytest

from genbatch._client import _retry
from genbatch.gemini import GeminiClient, _sdk
from genbatch.testing import FakeGemini
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio

KEY = "AIza-canary-key-that-nobody-may-see"


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> list[anyio.CancelScope]:
    """The scopes of the attempts; they expire when a test moves their deadline."""
    scopes: list[anyio.CancelScope] = []

    @contextmanager
    def fail_after(seconds: float) -> Iterator[None]:
        assert seconds == 120.0
        with anyio.fail_after(None) as scope:
            scopes.append(scope)
            yield

    monkeypatch.setattr(_sdk, "fail_after", fail_after)
    return scopes


async def test_each_attempt_has_a_deadline_of_its_own(
    deadlines: list[anyio.CancelScope], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_retry, "random", lambda: 0.0)

    async def never(request: httpx.Request) -> httpx.Response:
        deadlines[-1].deadline = -math.inf
        await anyio.sleep_forever()
        raise AssertionError

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(never))
    async with GeminiClient(KEY, http_client=http_client, max_retries=2) as client:
        with pytest.raises(TimeoutError) as caught:
            await client.generate_image("a cat")
    expected = "no answer from gemini-nano-banana-2.1 within 120 s (3 attempts)"
    assert str(caught.value) == expected
    assert len(deadlines) == 3


@asynccontextmanager
async def serving(size: int = 8) -> AsyncIterator[GeminiClient]:
    """A client of a server whose images are size pixels long."""
    async with (
        FakeGemini(image_size=size) as server,
        GeminiClient(KEY, base_url=server.url, max_retries=0) as client,
    ):
        yield client


# A large image comes in many pieces, a small one in the same as its head.
@pytest.mark.parametrize("size", [8, 600])
async def test_cancelled_scope_does_not_take_an_answer_that_has_arrived(
    size: int, at_last_byte: Callable[[Callable[[], object]], None]
) -> None:
    image = None
    async with serving(size) as client:
        with anyio.CancelScope() as scope:
            at_last_byte(scope.cancel)
            image = await client.generate_image("a cat")
            await anyio.lowlevel.checkpoint()
            raise AssertionError("the cancellation must strike at the next checkpoint")
    assert image is not None
    assert image.mime_type == "image/png"
    assert scope.cancelled_caught


@only_asyncio
@pytest.mark.parametrize("size", [8, 600])
async def test_native_cancel_does_not_take_an_answer_that_has_arrived(
    size: int, at_last_byte: Callable[[Callable[[], object]], None]
) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with serving(size) as client:
        at_last_byte(task.cancel)
        image = await client.generate_image("a cat")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
    assert image.mime_type == "image/png"


async def test_deadline_that_passes_at_the_last_byte_does_not_take_the_answer(
    deadlines: list[anyio.CancelScope], at_last_byte: Callable[[Callable[[], object]], None]
) -> None:
    def expire() -> None:
        deadlines[-1].deadline = -math.inf

    at_last_byte(expire)
    async with serving() as client:
        assert (await client.generate_image("a cat")).mime_type == "image/png"
        await anyio.lowlevel.checkpoint()


async def test_cancelled_block_still_closes_the_connections() -> None:
    with anyio.CancelScope() as scope:
        async with FakeGemini(image_size=8) as server, GeminiClient(KEY, base_url=server.url) as it:
            await it.generate_image("a cat")
            assert it._wire is not None
            assert it._wire.stack is not None
            (connection,) = it._wire.stack._idle
            scope.cancel()
    assert connection._stream is not None
    with pytest.raises(httpcore.ReadError):
        await connection._stream.read(1)
