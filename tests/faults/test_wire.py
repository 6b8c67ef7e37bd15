"""GeminiClient against a real server on loopback that goes wrong in every way we know."""

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

from genbatch._throttle._throttle import Throttle
from genbatch._values import (
    Blocked,
    DamagedImage,
    GenbatchError,
    InvalidResponse,
    NoImage,
    Prompt,
    QuotaExhausted,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
    sniff_mime_type,
)
from genbatch.gemini import GeminiClient, _sdk
from genbatch.testing import (
    FakeGemini,
    Fault,
    bad_base64,
    blocked,
    broken_json,
    filtered,
    html_page,
    no_candidates,
    no_image,
    no_quota,
    not_an_image,
    rate_limited,
    redirect,
    stalled,
)
from support.backends import only_asyncio, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pauses")]

KEY = "AIza-canary-key-that-nobody-may-see"
MODEL = "gemini-nano-banana-2.1"


def fake(*faults: Fault | None) -> FakeGemini:
    return FakeGemini(image_size=8, faults=faults)


def client_for(server: FakeGemini, **settings: Any) -> GeminiClient:
    return GeminiClient(KEY, base_url=server.url, **settings)


async def failure_of(client: GeminiClient) -> GenbatchError:
    with pytest.raises(GenbatchError) as caught:
        await client.generate_image("a cat")
    return caught.value


async def test_image_usage_and_cost_come_over_the_wire() -> None:
    async with fake() as server, client_for(server) as client:
        prompt = Prompt("a cat", aspect_ratio="16:9", image_size="2K", seed=7)
        image = await client.generate_image(prompt)
    assert image.mime_type == sniff_mime_type(image.data) == "image/png"
    assert image.model == server.calls[0].model == MODEL
    assert image.usage is not None
    assert image.usage.output_tokens == 1680
    assert image.cost == pytest.approx(1680 * 30e-6, rel=0.01)
    assert image.response_id == "fake-1"
    assert server.calls[0].headers["x-goog-api-key"] == KEY


async def test_client_sets_no_bound_but_its_throttles() -> None:
    async with (
        FakeGemini(latency=math.inf) as server,
        client_for(server, throttle=Throttle(capacity=150)) as client,
    ):
        async with anyio.create_task_group() as tasks:
            for number in range(150):
                tasks.start_soon(client.generate_image, f"cat {number}")
            await until(lambda: server.stats.in_flight == 150)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (Fault(status=400), Rejected, f"{MODEL} refused the request \\(400\\): Request contains"),
        (Fault(status=404), Rejected, f"{MODEL} refused the request \\(404\\): Requested entity"),
        (html_page(404), Rejected, r"\(404\): <!DOCTYPE"),
        (Fault(status=401), Unauthorized, r"\(401\)"),
        (Fault(status=403), Unauthorized, r"\(403\)"),
        (html_page(403), Unauthorized, r"\(403\)"),
        (rate_limited(47, per_day=True), QuotaExhausted, f"daily quota of {MODEL}"),
        (no_quota(), QuotaExhausted, f"no quota for {MODEL}"),
        (blocked(), Blocked, "PROHIBITED_CONTENT"),
        (blocked("A_REASON_OF_THE_FUTURE"), Blocked, "A_REASON_OF_THE_FUTURE"),
        (filtered(), Blocked, "IMAGE_SAFETY"),
        (filtered("A_REASON_OF_THE_FUTURE"), NoImage, "A_REASON_OF_THE_FUTURE"),
        (no_image(), NoImage, "I can only describe it"),
        (no_candidates(), NoImage, "no candidates"),
        (bad_base64(), DamagedImage, "base64"),
        (not_an_image(), DamagedImage, "not a PNG, JPEG, WebP or GIF"),
        (not_an_image(b""), InvalidResponse, "no bytes"),
    ],
)
async def test_lasting_fault_fails_after_one_call(
    fault: Fault, expected: type[GenbatchError], message: str, pauses: list[float]
) -> None:
    async with fake(fault) as server, client_for(server) as client:
        error = await failure_of(client)
        assert type(error) is expected
        with pytest.raises(expected, match=message):
            raise error
        assert server.stats.calls == 1
        # The fault was the call's alone: the client goes on.
        await client.generate_image("a cat")
    assert pauses == []


PASSING: list[tuple[Fault, type[GenbatchError], bool]] = [
    (Fault(status=408), Unavailable, False),
    (Fault(status=500), Unavailable, False),
    (Fault(status=502), Unavailable, False),
    (html_page(503), Unavailable, False),
    (Fault(status=504), Unavailable, False),
    (Fault(reset=True), Unavailable, True),
    (Fault(truncate=0), Unavailable, True),
    (Fault(truncate=60), Unavailable, True),
    (Fault(truncate=60, reset=True), Unavailable, True),
    (broken_json(), InvalidResponse, True),
    (html_page(200), InvalidResponse, True),
    (Fault(body=b""), InvalidResponse, True),
    (Fault(body=b"\xff\xfe\x00", status=500), InvalidResponse, True),
]


@pytest.mark.parametrize(("fault", "expected", "maybe_paid"), PASSING)
async def test_passing_fault_is_tried_again_until_it_has_passed(
    fault: Fault, expected: type[GenbatchError], maybe_paid: bool, pauses: list[float]
) -> None:
    async with fake(fault, fault, fault) as server, client_for(server) as client:
        await client.generate_image("a cat")
        assert server.stats.calls == 4
    assert len(pauses) == 3


@pytest.mark.parametrize(("fault", "expected", "maybe_paid"), PASSING)
async def test_fault_that_does_not_pass_is_the_calls_error(
    fault: Fault, expected: type[GenbatchError], maybe_paid: bool
) -> None:
    async with fake(*[fault] * 9) as server, client_for(server) as client:
        error = await failure_of(client)
        assert type(error) is expected
        assert error.maybe_paid is maybe_paid
        assert server.stats.calls == 4


@pytest.mark.parametrize("fault", [rate_limited(0.05), rate_limited(1, in_header=True)])
async def test_a_rate_limit_is_waited_out_and_is_no_retry(fault: Fault) -> None:
    async with fake(fault) as server, client_for(server, max_retries=0) as client:
        await client.generate_image("a cat")
        assert server.stats.calls == 2
        assert client.throttle().episodes == 1


async def test_a_rate_limit_without_patience_is_the_calls_error() -> None:
    settings: dict[str, Any] = {"throttle": Throttle(patience=0)}
    async with fake(rate_limited(53)) as server, client_for(server, **settings) as client:
        error = await failure_of(client)
        assert type(error) is RateLimited
        assert (error.status, error.retry_after, error.maybe_paid) == (429, 53.0, False)
        assert server.stats.calls == 1


@pytest.mark.parametrize("fault", [Fault(delay=math.inf), stalled(), Fault(drip=(1, 0.01))])
async def test_answer_that_never_ends_meets_the_deadline(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def fail_after(seconds: float) -> Iterator[None]:
        assert seconds == 120.0
        with anyio.fail_after(None) as scope:
            tasks.start_soon(expire, scope, server.stats.calls + 1)
            yield

    async def expire(scope: anyio.CancelScope, calls: int) -> None:
        await until(lambda: server.stats.calls == calls)
        scope.deadline = -math.inf

    monkeypatch.setattr(_sdk, "fail_after", fail_after)
    async with (
        fake(fault, fault) as server,
        client_for(server, max_retries=1) as client,
        anyio.create_task_group() as tasks,
    ):
        with pytest.raises(TimeoutError) as caught:
            await client.generate_image("a cat")
    assert str(caught.value) == f"no answer from {MODEL} within 120 s (2 attempts)"


async def test_server_that_is_not_there_is_tried_again_and_not_paid(pauses: list[float]) -> None:
    async with fake() as server:
        url = server.url
    async with GeminiClient(KEY, base_url=url) as client:
        error = await failure_of(client)
    assert type(error) is Unavailable
    assert not error.maybe_paid
    assert len(pauses) == 3


async def test_redirect_is_refused_and_the_key_goes_nowhere_else() -> None:
    path = f"/v1beta/models/{MODEL}:generateContent"
    async with FakeGemini() as elsewhere, fake(redirect(elsewhere.url + path)) as server:
        async with client_for(server) as client:
            assert type(await failure_of(client)) is Rejected
        assert elsewhere.stats.calls == 0
        assert server.stats.calls == 1


async def test_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:1")
    async with fake() as server, client_for(server, max_retries=0) as client:
        await client.generate_image("a cat")


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_injected_http_client_serves_and_stays_open(library: Any) -> None:
    async with fake() as server, library.AsyncClient() as http_client:
        for _ in range(2):
            async with client_for(server, http_client=http_client) as client:
                await client.generate_image("a cat")
        assert not http_client.is_closed
        assert (await http_client.get(f"{server.url}/stats")).json()["images"] == 2


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
    echo = {"error": {"message": f"bad key {KEY}", "details": [{"key": KEY}]}}
    faults = [
        None,
        Fault(status=400, body=echo),
        Fault(status=403, body=f"<html>{KEY}"),
        Fault(body=KEY),
        Fault(truncate=100),
        Fault(reset=True),  # on a fresh connection: elsewhere it is sent again
        redirect("http://127.0.0.2/"),
    ]
    shown = ""
    async with fake(*faults) as server, client_for(server, max_retries=0) as client:
        await client.generate_image("a cat")
        for _ in faults[1:]:
            error = await failure_of(client)
            shown += repr(error) + "".join(traceback.format_exception(error))
            shown += locals_outside_tests(error)
        shown += repr(client) + str(vars(client))
        # Those of httpx log all they can.
        async with (
            httpx.AsyncClient() as http_client,
            client_for(server, http_client=http_client) as foreign,
        ):
            await foreign.generate_image("a cat")
    shown += "\n".join(record.getMessage() for record in caplog.records)
    assert "httpcore" in caplog.text
    assert "Unauthorized" in shown
    assert KEY not in shown


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_closing_leaves_no_socket_open() -> None:
    async with fake(None, Fault(status=400), stalled()) as server:
        async with client_for(server) as client, anyio.create_task_group() as tasks:
            await client.generate_image("a cat")
            assert type(await failure_of(client)) is Rejected
            tasks.start_soon(client.generate_image, "a cat")
            await until(lambda: server.stats.in_flight == 1)
            tasks.cancel_scope.cancel()
        async with client_for(server) as client:
            await client.generate_image("a cat")
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
