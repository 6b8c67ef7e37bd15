"""Deadlines and cancellations: they end attempts, and never take an answer that has arrived."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import httpx
import pytest

from backends import only_asyncio
from genbatch._errors import Unavailable
from genbatch.gemini import GeminiClient, _retry, _sdk
from genbatch.gemini._transport import LateReleaseTransport

pytestmark = pytest.mark.anyio

KEY = "AIza-canary-key-that-nobody-may-see"
PNG = b"\x89PNG\r\n\x1a\n the rest of a picture"
PART = {"inlineData": {"data": base64.b64encode(PNG).decode()}}
ANSWER = {"candidates": [{"content": {"parts": [PART]}}]}


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


class AnswerThenAct(httpx.AsyncByteStream):
    """The body of an answer; acts right after its last byte, and awaits to be closed."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield json.dumps(ANSWER).encode()
        self.act()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1


class Streams(httpx.AsyncBaseTransport):
    """Answers with each body in turn."""

    def __init__(self, *bodies: httpx.AsyncByteStream) -> None:
        self.bodies = list(bodies)
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=self.bodies.pop(0))

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


def client_of(*bodies: httpx.AsyncByteStream) -> GeminiClient:
    transport = LateReleaseTransport(Streams(*bodies))
    return GeminiClient(KEY, http_client=httpx.AsyncClient(transport=transport), max_retries=0)


async def test_cancelled_scope_does_not_take_an_answer_that_has_arrived() -> None:
    image = None
    with anyio.CancelScope() as scope:
        async with client_of(AnswerThenAct(scope.cancel)) as client:
            image = await client.generate_image("a cat")
            await anyio.lowlevel.checkpoint()
            raise AssertionError("the cancellation must strike at the next checkpoint")
    assert image is not None
    assert image.data == PNG
    assert scope.cancelled_caught


@only_asyncio
async def test_native_cancel_does_not_take_an_answer_that_has_arrived() -> None:
    task = asyncio.current_task()
    assert task is not None
    async with client_of(AnswerThenAct(task.cancel)) as client:
        image = await client.generate_image("a cat")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
    assert image.data == PNG


async def test_deadline_that_passes_at_the_last_byte_does_not_take_the_answer(
    deadlines: list[anyio.CancelScope],
) -> None:
    def expire() -> None:
        deadlines[-1].deadline = -math.inf

    async with client_of(AnswerThenAct(expire)) as client:
        assert (await client.generate_image("a cat")).data == PNG
        await anyio.lowlevel.checkpoint()


async def test_connection_is_given_back_before_the_next_request_and_at_the_end() -> None:
    first, second = AnswerThenAct(lambda: None), AnswerThenAct(lambda: None)
    transport = LateReleaseTransport(Streams(first, second))
    async with (
        httpx.AsyncClient(transport=transport) as http_client,
        GeminiClient(KEY, http_client=http_client) as client,
    ):
        await client.generate_image("one")
        assert first.closed == 0
        await client.generate_image("two")
        assert (first.closed, second.closed) == (1, 0)
    assert (first.closed, second.closed) == (1, 1)


async def test_connection_whose_answer_is_cut_off_is_closed_at_once() -> None:
    def cut() -> None:
        raise httpx.ReadError("reset")

    body = AnswerThenAct(cut)
    async with client_of(body) as client:
        with pytest.raises(Unavailable) as caught:
            await client.generate_image("a cat")
    assert caught.value.maybe_paid
    assert body.closed == 1


async def test_cancelled_block_still_closes_the_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = Streams()
    monkeypatch.setattr(_sdk, "open_http_client", lambda: httpx.AsyncClient(transport=transport))
    with anyio.CancelScope() as scope:
        async with GeminiClient(KEY):
            scope.cancel()
    assert transport.closed
