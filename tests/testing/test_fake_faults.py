"""The named faults: what each of them puts on the wire."""

from __future__ import annotations

import errno
import json
import math
import socket
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from genbatch._values import sniff_mime_type
from genbatch.testing import (
    FakeGemini,
    Fault,
    bad_key,
    bad_token,
    blocked,
    closed_port,
    denied_project,
    disabled_account,
    downgraded,
    dripping,
    empty_body,
    empty_image,
    expired_key,
    filtered,
    garbage,
    hidden_error,
    html_page,
    jpeg_as_png,
    no_credit,
    no_usage,
    reset,
    retired_model,
    several_images,
    short_body,
    slow_headers,
    spending_cap,
    unknown_values,
    unsupported_location,
    with_drafts,
)
from support.wire import (
    PATH,
    answer_to,
    asking,
    bytes_of,
    client_of,
    details_of,
    parts_of,
    png_size,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (bad_key("abc"), 400, "API_KEY_INVALID"),
        (expired_key(), 400, "API_KEY_INVALID"),
        (expired_key(403), 403, "API_KEY_INVALID"),
        (bad_token(), 401, "ACCESS_TOKEN_EXPIRED"),
    ],
)
async def test_access_is_refused(fault: Fault, status: int, reason: str) -> None:
    answer = await answer_to(fault)
    assert answer.status_code == status
    assert details_of(answer)["ErrorInfo"]["reason"] == reason


@pytest.mark.parametrize(
    ("fault", "status", "name", "words"),
    [
        (no_credit(), 429, "RESOURCE_EXHAUSTED", "prepayment credits are depleted"),
        (no_credit(402), 402, "RESOURCE_EXHAUSTED", "prepayment credits are depleted"),
        (spending_cap(), 429, "RESOURCE_EXHAUSTED", "monthly spending cap"),
        (denied_project(), 403, "PERMISSION_DENIED", "Your project has been denied access"),
        (unsupported_location(), 400, "FAILED_PRECONDITION", "User location is not supported"),
    ],
)
async def test_what_only_a_person_can_mend_comes_without_details(
    fault: Fault, status: int, name: str, words: str
) -> None:
    answer = await answer_to(fault)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (status, status, name)
    assert words in error["message"]
    assert "details" not in error


async def test_an_expired_key_is_told_in_the_services_words() -> None:
    answer = await answer_to(expired_key())
    assert answer.json()["error"]["message"] == "API key expired. Please renew the API key."
    assert "DebugInfo" not in details_of(answer)


async def test_an_error_may_hide_in_a_200() -> None:
    answer = await answer_to(hidden_error(503))
    assert answer.status_code == 200
    assert answer.json()["error"]["status"] == "UNAVAILABLE"


async def test_a_front_end_answers_a_page_with_200() -> None:
    answer = await answer_to(html_page())
    assert (answer.status_code, answer.headers["content-type"][:9]) == (200, "text/html")


@pytest.mark.parametrize(
    ("fault", "where", "told"),
    [
        (blocked("OTHER"), "promptFeedback", {"blockReason": "OTHER"}),
        (
            blocked("OTHER", "Why."),
            "promptFeedback",
            {"blockReason": "OTHER", "blockReasonMessage": "Why."},
        ),
        (filtered("NO_IMAGE"), "candidates", [{"finishReason": "NO_IMAGE", "index": 0}]),
        (
            filtered("OTHER", "Why."),
            "candidates",
            [{"finishReason": "OTHER", "index": 0, "finishMessage": "Why."}],
        ),
        (disabled_account(), "candidates", [{"finishReason": "PUP_LIMITED_DISABLED", "index": 0}]),
    ],
)
async def test_what_is_blocked_is_told_and_not_billed(
    fault: Fault, where: str, told: object
) -> None:
    async with FakeGemini(image_size=8, faults=[fault]) as server, client_of(server) as client:
        answer = await client.post(PATH, json=asking())
        assert (server.stats.calls, server.stats.images) == (1, 0)
    assert (answer.status_code, answer.json()) == (200, {where: told})


async def test_a_blocked_image_is_said_not_to_be_charged() -> None:
    (candidate,) = (await answer_to(filtered())).json()["candidates"]
    assert "You will not be charged for blocked images" in candidate["finishMessage"]


async def test_an_answer_without_usage_is_billed() -> None:
    async with FakeGemini(image_size=8, faults=[no_usage()]) as server, client_of(server) as client:
        answer = await client.post(PATH, json=asking())
        assert server.stats.images == 1
    assert "usageMetadata" not in answer.json()
    assert png_size(bytes_of(parts_of(answer)[1])) == (8, 8)


async def test_priority_may_be_served_as_standard() -> None:
    faults = [None, downgraded(), downgraded("flex")]
    async with FakeGemini(image_size=8, faults=faults) as server, client_of(server) as client:
        asked = asking() | {"serviceTier": "priority"}
        answers = [await client.post(PATH, json=asked) for _ in faults]
        assert server.stats.images == 3
    served = [answer.headers["x-gemini-service-tier"] for answer in answers]
    assert served == ["priority", "standard", "flex"]


async def test_a_retired_model_is_named() -> None:
    answer = await answer_to(retired_model("old"))
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("models/old is not found")


async def test_an_empty_body_has_no_bytes() -> None:
    answer = await answer_to(empty_body())
    assert (answer.status_code, answer.content) == (200, b"")


async def test_an_empty_image_has_no_bytes() -> None:
    (part,) = parts_of(await answer_to(empty_image()))
    assert bytes_of(part) == b""


async def test_garbage_is_no_json() -> None:
    answer = await answer_to(garbage())
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r".+"):
        json.loads(answer.content)


async def test_a_jpeg_is_labelled_a_png() -> None:
    part = parts_of(await answer_to(jpeg_as_png()))[-1]
    assert part["inlineData"]["mimeType"] == "image/png"
    assert sniff_mime_type(bytes_of(part)) == "image/jpeg"


async def test_drafts_come_first_and_are_marked_as_thoughts() -> None:
    async with FakeGemini(image_size=8, faults=[with_drafts(2)]) as server:
        async with client_of(server) as client:
            answer = await client.post(PATH, json=asking())
        assert server.stats.images == 1
    parts = parts_of(answer)
    assert [part.get("thought", False) for part in parts] == [True] * 4 + [False] * 2
    images = [bytes_of(part) for part in parts if "inlineData" in part]
    assert len(set(images)) == 3
    assert png_size(images[-1]) == (8, 8)
    usage = answer.json()["usageMetadata"]
    assert usage["thoughtsTokenCount"] == 200
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + 1120 + 200


async def test_several_images_are_billed_each() -> None:
    async with FakeGemini(image_size=8, faults=[several_images(3), None]) as server:
        async with client_of(server) as client:
            answer = await client.post(PATH, json=asking())
            assert server.stats.images == 3
            await client.post(PATH, json=asking())
        assert server.stats.images == 4
    images = [bytes_of(part) for part in parts_of(answer)[1:]]
    assert len(set(images)) == 3
    assert {sniff_mime_type(image) for image in images} == {"image/png"}
    assert answer.json()["usageMetadata"]["candidatesTokenCount"] == 3 * 1120


async def test_values_of_the_future_come_beside_the_image() -> None:
    answer = await answer_to(unknown_values())
    candidate = answer.json()["candidates"][0]
    assert candidate["finishReason"] == "A_REASON_OF_THE_FUTURE"
    assert sniff_mime_type(bytes_of(parts_of(answer)[-1])) == "image/png"


async def test_edit_decides_what_is_sent_and_the_image_stays_billed() -> None:
    seen: list[Any] = []
    fault = Fault(edit=lambda answer: seen.append(answer) or {"other": 1}, status=203)
    async with FakeGemini(image_size=8, faults=[fault]) as server, client_of(server) as client:
        answer = await client.post(PATH, json=asking())
        assert server.stats.images == 1
    assert (answer.status_code, answer.json()) == (203, {"other": 1})
    assert seen[0]["candidates"]


async def test_a_short_body_ends_before_its_length() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await answer_to(short_body(50))


@pytest.mark.parametrize("after", [None, 50])
async def test_a_reset_ends_the_connection(after: int | None) -> None:
    with pytest.raises(httpx.ReadError):
        await answer_to(reset(after))


async def test_a_dripping_body_arrives_whole() -> None:
    answer = await answer_to(dripping(100, 0.0))
    assert png_size(bytes_of(parts_of(answer)[1])) == (8, 8)


async def test_slow_headers_come_in_pieces_of_an_answer_that_is_billed() -> None:
    async with FakeGemini(image_size=8, faults=[slow_headers(9), slow_headers(9, 0.0)]) as server:
        url = urlsplit(server.url)
        assert url.hostname
        assert url.port
        body = json.dumps(asking())
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nx-goog-api-key: k\r\n"
        async with await anyio.connect_tcp(url.hostname, url.port) as stream:
            await stream.send(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            received = b""
            while len(received) < 9:
                received += await stream.receive()
            await anyio.wait_all_tasks_blocked()
            assert received == b"HTTP/1.1 "
            assert server.stats.images == server.stats.in_flight == 1
        async with client_of(server) as client:
            answer = await client.post(PATH, json=asking())
    assert png_size(bytes_of(parts_of(answer)[1])) == (8, 8)


def test_slow_headers_stop_for_ever_by_default() -> None:
    assert slow_headers().drip == (20, math.inf)


def test_a_closed_port_refuses_connections() -> None:
    with closed_port() as url:
        address = urlsplit(url)
        with pytest.raises(ConnectionRefusedError) as caught:
            socket.create_connection((address.hostname, address.port))
    assert caught.value.errno == errno.ECONNREFUSED
