"""OpenAIClient against a real server on loopback that goes wrong in every way we know."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest

from genbatch._http import LARGEST_ANSWER
from genbatch._throttle import Throttle
from genbatch._values import (
    Blocked,
    DamagedImage,
    GenbatchError,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    RateLimited,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from genbatch.openai import OpenAIClient, _wire
from genbatch.testing import (
    FakeOpenAI,
    Fault,
    broken_json,
    html_page,
    openai_error,
    rate_limited,
    redirect,
    reset,
    short_body,
    slow_headers,
    stalled,
)
from support.backends import only_asyncio, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pauses")]

KEY = "sk-canary-key-that-nobody-may-see"
MODEL = "gpt-image-2.6-flare"
STAGE = {"moderation_details": {"moderation_stage": "output"}}


def fake(*faults: Fault | None) -> FakeOpenAI:
    return FakeOpenAI(image_size=8, faults=faults)


def client_for(server: FakeOpenAI, **settings: Any) -> OpenAIClient:
    return OpenAIClient(KEY, base_url=server.url, **settings)


async def failure_of(client: OpenAIClient) -> GenbatchError:
    with pytest.raises(GenbatchError) as caught:
        await client.generate_image("a cat")
    return caught.value


def answering(**answer: object) -> Fault:
    return Fault(body=answer)


def told(code: object, **more: object) -> Fault:
    """Return an error that comes as an answer of status 200."""
    return answering(error={"code": code, "message": "in the service's words", **more})


LASTING: list[tuple[Fault, type[GenbatchError], str, str, bool]] = [
    (
        openai_error(400, "invalid_value"),
        Rejected,
        "refused the request \\(400\\)",
        "prompt",
        False,
    ),
    (openai_error(400, param="model"), Rejected, r"\(400\)", "model", False),
    (openai_error(404, "model_not_found"), Rejected, r"\(404\)", "model", False),
    (html_page(404), Rejected, r"\(404\): <!DOCTYPE", "model", False),
    (Fault(status=413, body={"error": "too large"}), Rejected, "too large", "prompt", False),
    (Fault(status=422, body={"message": "wrong"}), Rejected, "wrong", "prompt", False),
    (Fault(status=418, body=b"\xff\xfe"), Rejected, r"\(418\)", "prompt", False),
    (redirect("http://127.0.0.2/"), Rejected, "redirect", "service", False),
    (openai_error(401, "invalid_api_key"), Unauthorized, r"\(401\)", "service", False),
    (openai_error(403), Unauthorized, r"\(403\)", "service", False),
    (openai_error(429, "insufficient_quota"), QuotaExhausted, "paid for", "model", False),
    (openai_error(429, type="insufficient_quota"), QuotaExhausted, "paid for", "model", False),
    (openai_error(400, "billing_hard_limit_reached"), QuotaExhausted, "paid for", "model", False),
    (openai_error(402), QuotaExhausted, "paid for", "model", False),
    (openai_error(400, "moderation_blocked"), Blocked, "blocked it", "prompt", False),
    (openai_error(400, "moderation_blocked", **STAGE), Blocked, "blocked it", "prompt", True),
    (openai_error(400, "content_policy_violation"), Blocked, "blocked it", "prompt", False),
    (Fault(status=422, body={"detail": "no such size"}), Rejected, "no such size", "prompt", False),
    (
        Fault(status=422, body={"detail": [{"loc": ["body", "size"], "msg": "is wrong"}]}),
        Rejected,
        "size: is wrong",
        "prompt",
        False,
    ),
    (told("moderation_blocked"), Blocked, "blocked it: in the service's words", "prompt", False),
    (told("moderation_blocked", **STAGE), Blocked, "blocked it", "prompt", True),
    (told("insufficient_quota"), QuotaExhausted, "paid for.*service's words", "model", False),
    (told("invalid_api_key"), Unauthorized, "in the service's words", "service", False),
    (told(400), Rejected, "in the service's words", "prompt", False),
    (told("anything"), NoImage, "no image: in the service's words", "prompt", False),
    (answering(error="boom", data=[]), NoImage, "no image: boom", "prompt", False),
    (answering(data=[]), NoImage, "no image", "prompt", False),
    (answering(data=None), NoImage, "no image", "prompt", False),
    (answering(data=[{"url": "https://elsewhere.example"}]), NoImage, "by URL", "prompt", True),
    (answering(data=[], usage={"output_tokens": 5}), NoImage, "no image", "prompt", True),
    (answering(data=[{"b64_json": "*"}]), DamagedImage, "base64", "prompt", True),
    (answering(data=[{"b64_json": "iVBORw0KGgo="}]), DamagedImage, "cut off", "prompt", True),
    (answering(data=[{"b64_json": ""}]), InvalidResponse, "no bytes", "prompt", True),
    (answering(data=[{"b64_json": 7}]), InvalidResponse, "no bytes", "prompt", True),
]


@pytest.mark.parametrize(("fault", "expected", "message", "scope", "maybe_paid"), LASTING)
async def test_lasting_fault_fails_after_one_call(
    fault: Fault,
    expected: type[GenbatchError],
    message: str,
    scope: str,
    maybe_paid: bool,
    pauses: list[float],
) -> None:
    async with fake(fault) as server, client_for(server) as client:
        error = await failure_of(client)
        assert type(error) is expected
        with pytest.raises(expected, match=message):
            raise error
        assert (error.scope, error.maybe_paid) == (scope, maybe_paid)
        assert (error.status, error.request_id) == (fault.status or 200, "req_1")
        assert server.stats.calls == 1
        # The fault was the call's alone: the client goes on.
        await client.generate_image("a cat")
    assert pauses == []


PASSING: list[tuple[Fault, type[GenbatchError], bool]] = [
    *[(openai_error(status), Unavailable, False) for status in (408, 409, 500, 502, 503, 504)],
    (html_page(503), Unavailable, False),
    (reset(), Unavailable, True),
    (reset(60), Unavailable, True),
    (short_body(0), Unavailable, True),
    (short_body(60), Unavailable, True),
    (broken_json(), InvalidResponse, True),
    (html_page(200), InvalidResponse, True),
    (Fault(body=b""), InvalidResponse, True),
    (Fault(status=202), InvalidResponse, True),
    (told("server_error"), Unavailable, False),
    (told(503), Unavailable, False),
]


@pytest.mark.parametrize(("fault", "expected", "maybe_paid"), PASSING)
async def test_passing_fault_is_tried_again_and_then_the_calls_error(
    fault: Fault, expected: type[GenbatchError], maybe_paid: bool, pauses: list[float]
) -> None:
    async with fake(*[fault] * 3, None, *[fault] * 9) as server, client_for(server) as client:
        await client.generate_image("a cat")
        assert (server.stats.calls, len(pauses)) == (4, 3)
        error = await failure_of(client)
        assert type(error) is expected
        assert (error.attempts, error.maybe_paid) == (4, maybe_paid)


async def test_an_image_that_comes_as_a_data_url_is_read() -> None:
    def as_url(answer: Any) -> Any:
        answer["data"][0]["b64_json"] = f"data:image/png;base64,{answer['data'][0]['b64_json']}"
        return answer

    async with fake(Fault(edit=as_url)) as server, client_for(server) as client:
        assert (await client.generate_image("a cat")).mime_type == "image/png"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "6500"}, 6.5),
        ({"retry-after-ms": "soon"}, None),
    ],
)
async def test_a_rate_limit_without_patience_is_the_calls_error(
    headers: dict[str, str], expected: float | None
) -> None:
    fault = Fault(status=429, headers=headers)
    async with fake(fault) as server:
        async with client_for(server, throttle=Throttle(patience=0)) as client:
            error = await failure_of(client)
    assert type(error) is RateLimited
    assert (error.status, error.retry_after, error.maybe_paid) == (429, expected, False)


async def test_a_rate_limit_is_waited_out_and_is_no_retry() -> None:
    limited = rate_limited(1, in_header=True)
    async with fake(limited) as server, client_for(server, max_retries=0) as client:
        await client.generate_image("a cat")
        assert server.stats.calls == 2
        assert client.throttle().episodes == 1


@pytest.mark.parametrize("fault", [Fault(delay=math.inf), stalled(), slow_headers()])
async def test_answer_that_never_ends_meets_the_deadline(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def fail_after(seconds: float) -> Iterator[None]:
        assert seconds == 300.0
        with anyio.fail_after(None) as scope:
            tasks.start_soon(expire, scope, server.stats.calls + 1)
            yield

    async def expire(scope: anyio.CancelScope, calls: int) -> None:
        await until(lambda: server.stats.calls == calls)
        scope.deadline = -math.inf

    monkeypatch.setattr(_wire, "fail_after", fail_after)
    async with (
        fake(fault, fault) as server,
        client_for(server, max_retries=1) as client,
        anyio.create_task_group() as tasks,
    ):
        error = await failure_of(client)
    assert type(error) is TimedOut
    assert str(error) == f"no answer from {MODEL} within 300 s (2 attempts)"


async def test_server_that_is_not_there_is_not_paid(pauses: list[float]) -> None:
    async with fake() as server:
        client = client_for(server)
    async with client:
        error = await failure_of(client)
    assert type(error) is Unavailable
    assert not error.maybe_paid
    assert len(pauses) == 3


@pytest.mark.parametrize("library", [None, httpx, httpx2])
async def test_an_answer_without_bound_is_refused_and_counts_as_paid(library: Any) -> None:
    huge = Fault(body=b" " * (LARGEST_ANSWER + 1))
    http_client = library and library.AsyncClient()
    async with fake(huge) as server, client_for(server, http_client=http_client) as client:
        error = await failure_of(client)
        assert server.stats.calls == 1
    assert type(error) is InvalidResponse
    assert error.maybe_paid
    if library:
        await http_client.aclose()


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_injected_http_client_serves_and_stays_open(library: Any) -> None:
    faults = (None, None, openai_error(400))
    async with fake(*faults) as server, library.AsyncClient() as http_client:
        for _ in range(2):
            async with client_for(server, http_client=http_client) as client:
                await client.generate_image("a cat")
        assert not http_client.is_closed
        async with client_for(server, http_client=http_client) as client:
            assert type(await failure_of(client)) is Rejected
        assert server.stats.images == 2


async def test_redirect_is_refused_and_the_key_goes_nowhere_else() -> None:
    async with fake() as elsewhere, fake(redirect(f"{elsewhere.url}/images/edits")) as server:
        async with client_for(server) as client:
            assert type(await failure_of(client)) is Rejected
        assert (server.stats.calls, elsewhere.stats.calls) == (1, 0)


def locals_outside_tests(error: BaseException | None) -> str:
    """Return what a tool that reports local variables would show of error and its causes."""
    shown = ""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += repr(frame.f_locals)
        error = error.__cause__ or error.__context__
    return shown


async def test_key_is_in_no_log_error_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    faults = [
        None,
        openai_error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}."),
        Fault(status=403, body=f"<html>{KEY}"),
        Fault(status=400, headers={"x-request-id": KEY}),
        Fault(body={"data": []}, headers={"x-request-id": KEY}),
        Fault(body=KEY),
        Fault(body={"data": [], "note": KEY}),
        short_body(),
        reset(),
        redirect(f"http://127.0.0.2/{KEY}"),
    ]
    shown = ""
    async with fake(*faults) as server, client_for(server, max_retries=0) as client:
        await client.generate_image("a cat")
        for _ in faults[1:]:
            error = await failure_of(client)
            shown += repr(error) + "".join(traceback.format_exception(error))
            shown += f"{error.request_id} {locals_outside_tests(error)}"
        shown += repr(client) + str(vars(client))
        async with (
            httpx.AsyncClient() as http_client,
            client_for(server, http_client=http_client) as foreign,
        ):
            await foreign.generate_image("a cat")
    shown += "\n".join(record.getMessage() for record in caplog.records)
    assert "Unauthorized" in shown
    assert KEY not in shown


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_closing_leaves_no_socket_open() -> None:
    async with fake(None, openai_error(400), stalled()) as server:
        async with client_for(server) as client, anyio.create_task_group() as tasks:
            await client.generate_image("a cat")
            assert type(await failure_of(client)) is Rejected
            tasks.start_soon(client.generate_image, "a cat")
            await until(lambda: server.stats.in_flight == 1)
            tasks.cancel_scope.cancel()
    del client
    gc.collect()


async def test_cancelled_scope_does_not_take_a_paid_image(
    at_last_byte: Callable[[Callable[[], object]], None],
) -> None:
    image = None
    async with fake() as server, client_for(server) as client:
        with anyio.CancelScope() as scope:
            at_last_byte(scope.cancel)
            image = await client.generate_image("a cat")
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert image is not None


@only_asyncio
async def test_native_cancel_does_not_take_a_paid_image(
    at_last_byte: Callable[[Callable[[], object]], None],
) -> None:
    async with fake() as server, client_for(server) as client:
        task = asyncio.current_task()
        assert task is not None
        at_last_byte(task.cancel)
        image = await client.generate_image("a cat")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
    assert image.mime_type == "image/png"
