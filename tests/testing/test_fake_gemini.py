"""FakeGemini over a real wire: answers, faults, counting, and leaving."""

from __future__ import annotations

import base64
import errno
import json
import math
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream

from genbatch.testing import (
    Call,
    FakeGemini,
    Fault,
    Stats,
    _http,
    _wire,
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
from support.backends import until
from support.wire import (
    KEY,
    PATH,
    VERTEX_PATH,
    answer_to,
    asking,
    client_of,
    png_of,
    png_size,
)

pytestmark = pytest.mark.anyio


async def connect(server: FakeGemini) -> SocketStream:
    url = urlsplit(server.url)
    assert url.hostname is not None
    assert url.port is not None
    return await anyio.connect_tcp(url.hostname, url.port)


def request_bytes(prompt: str = "a red fox") -> bytes:
    body = json.dumps(asking(prompt)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nx-goog-api-key: canary\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def read_response(stream: SocketStream) -> tuple[bytes, bytes]:
    """Return head and body of one response."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive()
    head, _, body = received.partition(b"\r\n\r\n")
    while len(body) < length_of(head):
        body += await stream.receive()
    return head, body


def length_of(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split()[0])


async def read_to_end(stream: SocketStream) -> bytes:
    received = b""
    try:
        while True:
            received += await stream.receive()
    except anyio.EndOfStream:
        return received


async def hang_up(stream: SocketStream, *, reset: bool) -> None:
    if reset:
        linger = struct.pack("ii", 1, 0)
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    await stream.aclose()


class TestAnswers:
    async def test_a_call_is_answered_with_text_and_a_png(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            answer = await client.post(PATH, json=asking("a" * 80))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        assert "date" in answer.headers
        content = answer.json()
        text, image = content["candidates"][0].pop("content")["parts"]
        assert text["text"]
        assert image["inlineData"]["mimeType"] == "image/png"
        assert png_size(png_of(answer)) == (512, 512)
        assert content == {
            "candidates": [{"finishReason": "STOP", "index": 0}],
            "usageMetadata": {
                "promptTokenCount": 20,
                "candidatesTokenCount": 1120,
                "totalTokenCount": 1140,
            },
            "modelVersion": "gemini-nano-banana-2.1",
            "responseId": "fake-1",
        }

    @pytest.mark.parametrize(
        ("ratio", "size"),
        [("1:1", (64, 64)), ("16:9", (64, 36)), ("9:16", (36, 64)), ("21:9", (64, 27))],
    )
    async def test_the_aspect_ratio_decides_the_shape(
        self, ratio: str, size: tuple[int, int]
    ) -> None:
        async with FakeGemini(image_size=64) as server, client_of(server) as client:
            answer = await client.post(PATH, json=asking(imageConfig={"aspectRatio": ratio}))
        assert png_size(png_of(answer)) == size

    @pytest.mark.parametrize(
        ("model", "size", "tokens"),
        [
            ("gemini-nano-banana-2.1", "1K", 1120),
            ("gemini-nano-banana-2.1", "2K", 1680),
            ("gemini-nano-banana-2.1", "4K", 3780),
            ("gemini-3-pro-image", "1K", 1120),
            ("gemini-3-pro-image", "2K", 1120),
            ("gemini-3-pro-image", "4K", 2000),
            ("gemini-3.1-flash-lite-image", "1K", 1120),
        ],
    )
    async def test_the_model_and_the_image_size_decide_the_tokens(
        self, model: str, size: str, tokens: int
    ) -> None:
        path = f"/v1beta/models/{model}:generateContent"
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answer = await client.post(path, json=asking(imageConfig={"imageSize": size}))
        assert answer.json()["usageMetadata"]["candidatesTokenCount"] == tokens

    async def test_prompts_seeds_and_models_make_different_images(self) -> None:
        async with FakeGemini(image_size=64) as server, client_of(server) as client:
            first = await client.post(PATH, json=asking("one", seed=1))
            again = await client.post(PATH, json=asking("one", seed=1))
            others = [
                await client.post(PATH, json=asking("two", seed=1)),
                await client.post(PATH, json=asking("one", seed=2)),
                await client.post(PATH.replace("2.1", "9"), json=asking("one", seed=1)),
            ]
        assert png_of(first) == png_of(again)
        assert len({png_of(answer) for answer in [first, *others]}) == 4

    async def test_large_input_images_are_taken_and_billed(self) -> None:
        image = {"inlineData": {"mimeType": "image/png", "data": "A" * 3_000_000}}
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answer = await client.post(PATH, json=asking("fox", image, image))
            (call,) = server.calls
        assert answer.json()["usageMetadata"]["promptTokenCount"] == 1 + 2 * 1120
        assert call.prompt == "fox"
        assert call.body == {}  # not kept

    async def test_a_large_image_arrives_whole(self) -> None:
        async with FakeGemini(image_size=1500) as server, client_of(server) as client:
            answer = await client.post(PATH, json=asking())
        assert len(answer.content) > 65536
        assert png_size(png_of(answer)) == (1500, 1500)

    @pytest.mark.parametrize(
        ("asked", "served"),
        [
            ({}, "standard"),
            ({"serviceTier": "unspecified"}, "standard"),
            ({"serviceTier": "flex"}, "flex"),
            ({"service_tier": "PRIORITY"}, "priority"),
            ({"service_tier": "SERVICE_TIER_FLEX"}, "flex"),
        ],
    )
    async def test_the_tier_that_is_served_is_told(
        self, asked: dict[str, str], served: str
    ) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answer = await client.post(PATH, json=asking() | asked)
            vertex = await client.post(
                VERTEX_PATH, json=asking() | asked, headers={"authorization": "Bearer x"}
            )
        assert answer.headers["x-gemini-service-tier"] == served
        assert vertex.status_code == 200
        assert "x-gemini-service-tier" not in vertex.headers

    async def test_names_in_snake_case_and_single_objects_are_taken(self) -> None:
        parts = [{"text": "fox"}, {"inline_data": {"mime_type": "image/png", "data": ""}}]
        config = {"candidate_count": 1, "image_config": {"aspect_ratio": "2:1"}}
        body = {"contents": {"parts": parts}, "generation_config": config}
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answer = await client.post(PATH, json=body)
            (call,) = server.calls
        assert answer.json()["usageMetadata"]["promptTokenCount"] == 1 + 1120
        assert png_size(png_of(answer)) == (8, 4)
        assert call.prompt == "fox"
        assert call.body["generationConfig"]["candidateCount"] == 1

    async def test_calls_are_remembered(self) -> None:
        seen: list[Call] = []

        def latency(call: Call) -> float:
            seen.append(call)
            return 0.0

        body = asking("fox", {"text": "and owl"})
        async with FakeGemini(image_size=8, latency=latency) as server, client_of(server) as client:
            await client.post(PATH, json=body, headers={"X-Extra": "1"})
            (call,) = server.calls
        assert call.number == 1
        assert call.model == "gemini-nano-banana-2.1"
        assert call.prompt == "fox\nand owl"
        assert call.path == PATH
        assert call.body == body
        assert call.headers["x-extra"] == "1"
        assert call.headers["x-goog-api-key"] == "canary"
        assert "canary" not in repr(call)
        assert seen == [call]

    async def test_one_connection_serves_many_calls(self) -> None:
        async with FakeGemini(image_size=8) as server, await connect(server) as stream:
            for _ in range(3):
                await stream.send(request_bytes())
                head, _ = await read_response(stream)
                assert head.startswith(b"HTTP/1.1 200 ")
            assert server.stats.images == 3

    async def test_a_connection_is_closed_where_the_client_asks_for_it(self) -> None:
        async with FakeGemini(image_size=8) as server, await connect(server) as stream:
            await stream.send(
                request_bytes().replace(b"host: localhost", b"host: localhost\r\nconnection: close")
            )
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 200 ")

    async def test_requests_sent_early_are_answered_in_turn(self) -> None:
        async with FakeGemini(image_size=8, latency=0.01) as server:
            async with await connect(server) as stream:
                await stream.send(request_bytes("one") + request_bytes("two"))
                await stream.send(request_bytes("three"))
                received = b""
                while received.count(b'"fake-') < 3:
                    received += await stream.receive()
            assert [call.prompt for call in server.calls] == ["one", "two", "three"]
            assert server.stats.peak == 1

    async def test_a_client_that_waits_for_100_continue_gets_it(self) -> None:
        head, _, body = request_bytes().partition(b"\r\n\r\n")
        async with FakeGemini(image_size=8) as server, await connect(server) as stream:
            await stream.send(head + b"\r\nexpect: 100-continue\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 100 ")
            await stream.send(body)
            assert (await read_response(stream))[0].startswith(b"HTTP/1.1 200 ")

    async def test_stats_are_served(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            await client.post(PATH, json=asking())
            stats = await client.get("/stats")
        counts = {"calls": 1, "images": 1, "in_flight": 0, "peak": 1, "limited": 0, "jobs": 0}
        assert stats.json() == counts


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body", "status", "code"),
        [
            (PATH, "{", 400, "INVALID_ARGUMENT"),
            (PATH, "[" * 100_000, 400, "INVALID_ARGUMENT"),
            (PATH, b"\xff", 400, "INVALID_ARGUMENT"),
            (PATH, "[]", 400, "INVALID_ARGUMENT"),
            (PATH, '{"contents": 3}', 400, "INVALID_ARGUMENT"),
            (PATH, '{"contents": [7, {"parts": null}]}', 400, "INVALID_ARGUMENT"),
            (PATH, asking(imageConfig={"aspectRatio": "wide"}), 400, "INVALID_ARGUMENT"),
            (PATH, asking(imageConfig={"aspectRatio": [1]}), 400, "INVALID_ARGUMENT"),
            (PATH, asking(imageConfig={"imageSize": "8K"}), 400, "INVALID_ARGUMENT"),
            (PATH, asking(candidateCount=2), 400, "INVALID_ARGUMENT"),
            (PATH, asking() | {"serviceTier": "first class"}, 400, "INVALID_ARGUMENT"),
            (PATH.replace("v1beta", "v2"), asking(), 404, "NOT_FOUND"),
            (PATH.replace("generateContent", "predict"), asking(), 404, "NOT_FOUND"),
            ("/", asking(), 404, "NOT_FOUND"),
            ("/v1beta/models/gemini-2.5-flash-image:generateContent", asking(), 404, "NOT_FOUND"),
            ("/v1beta/models/gemini-3.1-flash-image:generateContent", asking(), 404, "NOT_FOUND"),
            ("/v1beta/models/imagen-4.0-fast:generateContent", asking(), 404, "NOT_FOUND"),
        ],
        ids=lambda value: str(value)[:30],
    )
    async def test_a_wrong_request_is_answered_as_the_service_does(
        self, path: str, body: Any, status: int, code: str
    ) -> None:
        content = json.dumps(body) if isinstance(body, dict) else body
        async with FakeGemini() as server, client_of(server) as client:
            answer = await client.post(path, content=content)
            assert server.stats.images == 0
            assert server.stats.in_flight == 0
        assert answer.status_code == status
        error = answer.json()["error"]
        assert (error["code"], error["status"]) == (status, code)
        assert error["message"]

    @pytest.mark.parametrize("headers", [{}, {"x-goog-api-key": ""}], ids=["missing", "empty"])
    async def test_a_call_without_key_is_refused_and_uses_up_no_fault(
        self, headers: dict[str, str]
    ) -> None:
        async with FakeGemini(faults=[Fault(status=503)]) as server, client_of(server) as client:
            del client.headers["x-goog-api-key"]
            refused = await client.post(f"{PATH}?key=", json=asking(), headers=headers)
            allowed = await client.post(PATH, json=asking(), headers=KEY)
            assert server.stats.calls == 2
        assert refused.status_code == 403
        assert refused.json()["error"]["status"] == "PERMISSION_DENIED"
        assert allowed.status_code == 503

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_a_body_beyond_the_cap_is_refused(
        self, chunked: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_http, "_LARGEST_BODY", 100_000)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b" " * 10_000

        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answer = await client.post(PATH, content=pieces() if chunked else b" " * 300_000)
            assert answer.status_code == 413
            assert server.stats.calls == 0
            assert (await client.post(PATH, json=asking())).status_code == 200

    async def test_a_head_request_is_answered_without_body(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            for _ in range(2):
                answer = await client.head("/stats")
                assert (answer.status_code, answer.content) == (404, b"")

    async def test_what_is_no_http_is_refused(self) -> None:
        async with FakeGemini() as server, await connect(server) as stream:
            await stream.send(b"\x16\x03\x01 hello\r\n\r\n")
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400 ")


class TestFaults:
    async def test_faults_are_used_up_call_by_call(self) -> None:
        faults = [Fault(status=503), None, Fault(status=429)]
        async with FakeGemini(image_size=8, faults=faults) as server, client_of(server) as client:
            statuses = [(await client.post(PATH, json=asking())).status_code for _ in range(5)]
            assert server.stats == Stats(calls=5, images=3, in_flight=0, peak=1)
        assert statuses == [503, 200, 429, 200, 200]

    async def test_a_function_decides_the_fault_of_a_call(self) -> None:
        def faults(call: Call) -> Fault | None:
            return Fault(status=500) if call.prompt == "bad" else None

        async with FakeGemini(image_size=8, faults=faults) as server, client_of(server) as client:
            prompts = ["good", "bad", "good"]
            answers = [await client.post(PATH, json=asking(prompt)) for prompt in prompts]
        assert [answer.status_code for answer in answers] == [200, 500, 200]

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (400, "INVALID_ARGUMENT"),
            (401, "UNAUTHENTICATED"),
            (403, "PERMISSION_DENIED"),
            (404, "NOT_FOUND"),
            (429, "RESOURCE_EXHAUSTED"),
            (500, "INTERNAL"),
            (502, "UNKNOWN"),
            (503, "UNAVAILABLE"),
            (504, "DEADLINE_EXCEEDED"),
        ],
    )
    async def test_status_answers_an_error_of_the_right_shape(self, status: int, code: str) -> None:
        answer = await answer_to(Fault(status=status))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["status"]) == (status, status, code)

    @pytest.mark.parametrize("body", [b'{"a": 1}', '{"a": 1}', {"a": 1}], ids=type)
    async def test_body_replaces_the_answer(self, body: Any) -> None:
        answer = await answer_to(Fault(body=body))
        assert (answer.status_code, answer.content) == (200, b'{"a": 1}')
        assert (await answer_to(Fault(body=body, status=500))).status_code == 500

    async def test_headers_are_added_or_replace_the_usual_ones(self) -> None:
        fault = Fault(headers={"X-Extra": "1", "Date": "Thu, 01 Jan 1970 00:00:00 GMT"})
        answer = await answer_to(fault)
        assert answer.status_code == 200
        assert answer.headers["x-extra"] == "1"
        assert answer.headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"

    async def test_a_status_without_body_has_none(self) -> None:
        answer = await answer_to(Fault(status=204))
        assert (answer.status_code, answer.content) == (204, b"")

    async def test_delay_holds_the_answer_back(self) -> None:
        async with FakeGemini(image_size=8, faults=[Fault(delay=math.inf)]) as server:
            async with await connect(server) as held, await connect(server) as other:
                await held.send(request_bytes())
                await until(lambda: server.stats.in_flight == 1)
                await other.send(request_bytes())
                await read_response(other)  # the next call overtakes it
                assert server.stats == Stats(calls=2, images=1, in_flight=1, peak=2)

    async def test_truncate_announces_all_and_sends_a_part(self) -> None:
        async with FakeGemini(image_size=8, faults=[Fault(truncate=17)]) as server:
            async with await connect(server) as stream:
                await stream.send(request_bytes())
                head, _, body = (await read_to_end(stream)).partition(b"\r\n\r\n")
            assert server.stats == Stats(calls=1, images=1, in_flight=0, peak=1)
        assert length_of(head) > 200
        assert body == b'{"candidates": [{'

    async def test_reset_resets_without_an_answer(self) -> None:
        async with FakeGemini(image_size=8, faults=[Fault(reset=True)]) as server:
            received, ending = await received_until_broken(server)
            assert server.stats == Stats(calls=1, images=0, in_flight=0, peak=1)
        assert received == b""
        assert ending == errno.ECONNRESET

    async def test_reset_with_truncate_resets_in_the_middle_of_a_paid_answer(self) -> None:
        async with FakeGemini(image_size=8, faults=[Fault(reset=True, truncate=9)]) as server:
            received, ending = await received_until_broken(server)
            assert server.stats == Stats(calls=1, images=1, in_flight=0, peak=1)
        assert received.endswith(b'\r\n\r\n{"candida')
        assert ending == errno.ECONNRESET

    async def test_drip_sends_the_whole_body_in_pieces(self) -> None:
        answer = await answer_to(Fault(drip=(100, 0.0)))
        assert png_size(png_of(answer)) == (8, 8)

    async def test_a_dripping_call_is_in_flight_until_its_last_piece(self) -> None:
        async with FakeGemini(image_size=8, faults=[stalled(10)]) as server:
            async with await connect(server) as stream:
                await stream.send(request_bytes())
                received = b""
                while not received.endswith(b'\r\n\r\n{"candidat'):
                    received += await stream.receive()
                assert server.stats == Stats(calls=1, images=1, in_flight=1, peak=1)
            await until(lambda: server.stats.in_flight == 0)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"status": 100},
            {"status": 600},
            {"delay": -1},
            {"delay": math.nan},
            {"truncate": -1},
            {"drip": (0, 1)},
            {"drip": (1, -1)},
            {"drip_head": True},
        ],
        ids=str,
    )
    def test_a_value_out_of_range_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Fault(**wrong)


async def received_until_broken(server: FakeGemini) -> tuple[bytes, int | None]:
    """Call, and return what is received before the connection breaks, and the error number."""
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port)) as sock:
        sock.setblocking(False)
        sock.sendall(request_bytes())
        received = b""
        try:
            while True:
                await anyio.wait_readable(sock)
                piece = sock.recv(65536)
                if not piece:
                    return received, None
                received += piece
        except OSError as error:
            return received, error.errno


class TestNamedFaults:
    @pytest.mark.parametrize(
        ("fault", "period", "delay"),
        [
            (rate_limited(), "PerMinute", None),
            (rate_limited(53), "PerMinute", "53s"),
            (rate_limited(0.25), "PerMinute", "0.25s"),
            (rate_limited(47, per_day=True), "PerDay", "47s"),
        ],
    )
    async def test_rate_limited(self, fault: Fault, period: str, delay: str | None) -> None:
        answer = await answer_to(fault)
        error = answer.json()["error"]
        details = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
        assert (answer.status_code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert period in details["QuotaFailure"]["violations"][0]["quotaId"]
        assert details.get("RetryInfo", {}).get("retryDelay") == delay
        assert "limit: 0" not in error["message"]
        assert "retry-after" not in answer.headers

    async def test_rate_limited_in_header(self) -> None:
        answer = await answer_to(rate_limited(1.2, in_header=True))
        assert answer.headers["retry-after"] == "2"
        assert "RetryInfo" not in answer.text

    async def test_no_quota(self) -> None:
        error = (await answer_to(no_quota())).json()["error"]
        assert error["code"] == 429
        assert "limit: 0" in error["message"]

    async def test_blocked(self) -> None:
        answer = await answer_to(blocked("SAFETY"))
        assert answer.status_code == 200
        assert answer.json() == {"promptFeedback": {"blockReason": "SAFETY"}}

    async def test_filtered(self) -> None:
        (candidate,) = (await answer_to(filtered("NO_IMAGE"))).json()["candidates"]
        assert candidate["finishReason"] == "NO_IMAGE"
        assert "content" not in candidate

    async def test_no_image(self) -> None:
        answer = await answer_to(no_image("Sorry.", finish_reason="MAX_TOKENS"))
        (candidate,) = answer.json()["candidates"]
        assert candidate["content"]["parts"] == [{"text": "Sorry."}]
        assert candidate["finishReason"] == "MAX_TOKENS"

    async def test_no_candidates(self) -> None:
        assert (await answer_to(no_candidates())).json() == {"candidates": []}

    @pytest.mark.parametrize("content", [b"", b"GIF89a"])
    async def test_not_an_image(self, content: bytes) -> None:
        answer = await answer_to(not_an_image(content))
        (part,) = answer.json()["candidates"][0]["content"]["parts"]
        assert base64.b64decode(part["inlineData"]["data"]) == content

    async def test_bad_base64(self) -> None:
        answer = await answer_to(bad_base64())
        (part,) = answer.json()["candidates"][0]["content"]["parts"]
        with pytest.raises(ValueError, match="base64"):
            base64.b64decode(part["inlineData"]["data"], validate=True)

    async def test_broken_json(self) -> None:
        answer = await answer_to(broken_json())
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()

    async def test_html_page(self) -> None:
        answer = await answer_to(html_page(502))
        assert answer.status_code == 502
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.text.startswith("<!DOCTYPE html>")

    async def test_redirect(self) -> None:
        answer = await answer_to(redirect("http://127.0.0.2/elsewhere"))
        assert answer.status_code == 307
        assert answer.headers["location"] == "http://127.0.0.2/elsewhere"


class TestCounting:
    async def test_peak_is_the_number_of_clients_that_call_at_once(self) -> None:
        async with FakeGemini(latency=math.inf) as server, client_of(server) as client:
            async with anyio.create_task_group() as calls:
                for _ in range(7):
                    calls.start_soon(lambda: client.post(PATH, json=asking()))
                await until(lambda: server.stats.in_flight == 7)
                calls.cancel_scope.cancel()
            await until(lambda: server.stats.in_flight == 0)
            assert server.stats == Stats(calls=7, images=0, in_flight=0, peak=7)

    @pytest.mark.parametrize("latency", [0.0, 0.001])
    async def test_peak_never_exceeds_the_calls_that_clients_hold(self, latency: float) -> None:
        async with FakeGemini(image_size=8, latency=latency) as server:

            async def call_on_one_connection() -> None:
                async with await connect(server) as stream:
                    for _ in range(40):
                        await stream.send(request_bytes())
                        await read_response(stream)
                        # What the server counts now is less than what it may count: this call
                        # is over for its client, so it is for the server.
                        assert server.stats.in_flight < 3

            async with anyio.create_task_group() as clients:
                for _ in range(3):
                    clients.start_soon(call_on_one_connection)
            assert server.stats.images == 120
            assert server.stats.peak <= 3

    async def test_a_large_answer_is_in_flight_while_its_client_does_not_read(self) -> None:
        huge = Fault(body=b"x" * 50_000_000)
        async with FakeGemini(faults=[huge]) as server, await connect(server) as stream:
            await stream.send(request_bytes())
            head = await stream.receive(1000)
            assert server.stats.in_flight == 1
            left = 50_000_000 - len(head.partition(b"\r\n\r\n")[2])
            while left:
                left -= len(await stream.receive(1 << 20))
            assert server.stats.in_flight == 0

    @pytest.mark.parametrize("reset", [False, True])
    async def test_hanging_up_and_calling_again_is_no_second_call_in_flight(
        self, reset: bool
    ) -> None:
        """The new call may reach the server before it looks at the closed connection."""
        faults = [Fault(delay=math.inf) for _ in range(20)]
        async with FakeGemini(image_size=8, faults=faults) as server:
            streams = [await connect(server) for _ in range(21)]
            for number, stream in enumerate(streams[:-1], 1):
                await stream.send(request_bytes())
                await until(lambda number=number: server.stats.calls == number)  # type: ignore[misc]
                await hang_up(stream, reset=reset)
            await streams[-1].send(request_bytes())
            await read_response(streams[-1])
            await streams[-1].aclose()
            assert server.stats.peak == 1

    async def test_a_call_whose_client_has_hung_up_already_is_never_in_flight(self) -> None:
        async with FakeGemini(latency=math.inf) as server:
            url = urlsplit(server.url)
            address = url.hostname, url.port
            with socket.create_connection(address) as first:
                with socket.create_connection(address) as second:
                    second.sendall(request_bytes()[:-1])
                    await anyio.wait_all_tasks_blocked()
                    # Without a turn of the event loop between: the server sees all at once.
                    first.sendall(request_bytes())
                    second.sendall(request_bytes()[-1:])
                await until(lambda: server.stats.calls == 2)
                assert server.stats.peak == 1

    @pytest.mark.parametrize("reset", [False, True])
    async def test_a_client_that_hangs_up_is_out_of_flight_and_pays_nothing(
        self, reset: bool
    ) -> None:
        async with FakeGemini(latency=math.inf) as server:
            stream = await connect(server)
            await stream.send(request_bytes())
            await until(lambda: server.stats.in_flight == 1)
            await hang_up(stream, reset=reset)
            await until(lambda: server.stats.in_flight == 0)
            assert server.stats.images == 0

    @pytest.mark.parametrize("reset", [False, True])
    async def test_a_client_that_hangs_up_within_a_large_answer_is_forgotten(
        self, reset: bool
    ) -> None:
        huge = Fault(body=b"x" * 50_000_000)
        async with FakeGemini(image_size=8, faults=[huge]) as server, client_of(server) as client:
            stream = await connect(server)
            await stream.send(request_bytes())
            await stream.receive(1000)
            await hang_up(stream, reset=reset)
            await until(lambda: server.stats.in_flight == 0)
            assert (await client.post(PATH, json=asking())).status_code == 200

    async def test_an_image_made_for_a_client_that_hung_up_is_paid(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawing, go_on = threading.Event(), threading.Event()

        def draw(*_: object, **__: object) -> bytes:
            drawing.set()
            assert go_on.wait(30)
            return b"png"

        monkeypatch.setattr(_wire, "draw", draw)
        async with FakeGemini() as server:
            async with await connect(server) as stream:
                await stream.send(request_bytes())
                await until(drawing.is_set)
                assert server.stats.in_flight == 1
            await until(lambda: server.stats.in_flight == 0)
            assert server.stats.images == 0
            go_on.set()
            await until(lambda: server.stats.images == 1)

    async def test_a_client_that_leaves_within_a_request_is_forgotten(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            async with await connect(server) as stream:
                await stream.send(request_bytes()[:-5])
            assert (await client.post(PATH, json=asking())).status_code == 200
            assert server.stats.calls == 1


class TestLeaving:
    @pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
    async def test_an_error_in_the_block_arrives_bare(self, error: BaseException) -> None:
        async def fail() -> None:
            async with FakeGemini(latency=math.inf) as server, await connect(server) as stream:
                await stream.send(request_bytes())
                await until(lambda: server.stats.in_flight == 1)
                raise error

        with pytest.raises(type(error)) as caught:
            await fail()
        assert caught.value is error

    @pytest.mark.parametrize("name", ["latency", "faults"])
    async def test_an_error_in_the_users_function_cancels_the_block(self, name: str) -> None:
        def broken(_call: Call) -> Any:
            raise LookupError("mine")

        async def call() -> None:
            options: dict[str, Any] = {name: broken}
            async with FakeGemini(**options) as server, await connect(server) as stream:
                await stream.send(request_bytes())
                await anyio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await call()
        matched, rest = caught.value.split(LookupError)
        assert matched is not None
        assert rest is None

    async def test_leaving_closes_connections_and_the_port(self) -> None:
        async with FakeGemini(latency=math.inf) as server:
            port = urlsplit(server.url).port
            assert port is not None
            idle, busy = await connect(server), await connect(server)
            await busy.send(request_bytes())
            await until(lambda: server.stats.in_flight == 1)
        assert server.stats.in_flight == 0
        for stream in (idle, busy):
            async with stream:
                assert await read_to_end(stream) == b""
        with pytest.raises(OSError, match=r".+"):
            await anyio.connect_tcp("127.0.0.1", port)

    async def test_leaving_at_once_leaks_nothing(self) -> None:
        for _ in range(5):
            async with FakeGemini() as server:
                streams = [await connect(server) for _ in range(5)]
            for stream in streams:
                await stream.aclose()

    async def test_cancelling_the_block_closes_the_server(self) -> None:
        with anyio.CancelScope() as scope:
            async with FakeGemini() as server:
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.url

    async def test_a_server_can_be_entered_again_but_not_twice_at_once(self) -> None:
        server = FakeGemini(image_size=8)
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.url
        for calls in (1, 2):
            async with server, client_of(server) as client:
                with pytest.raises(RuntimeError, match="running already"):
                    await server.__aenter__()
                assert (await client.post(PATH, json=asking())).status_code == 200
            assert server.stats.calls == calls

    async def test_a_port_in_use_is_an_error_on_entering(self) -> None:
        async with FakeGemini() as server:
            port = urlsplit(server.url).port
            assert port is not None
            with pytest.raises(OSError, match=r".+"):
                async with FakeGemini(port=port):
                    pass
        async with FakeGemini(port=port) as again:
            assert again.url == f"http://127.0.0.1:{port}"

    @pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
    async def test_an_ipv6_address_is_bracketed(self) -> None:
        try:
            async with FakeGemini(host="::1", image_size=8) as server, client_of(server) as client:
                assert server.url.startswith("http://[::1]:")
                assert (await client.post(PATH, json=asking())).status_code == 200
        except OSError:
            pytest.skip("no IPv6 loopback")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "fake.example:8080"},
        {"host": "127.0.0.1.example"},
        {"host": "127.0.0.1:80@fake.example"},
        {"host": ""},
        {"origin": "https://page.example"},
        {"origin": "http://localhost.example"},
        {"origin": "null"},
    ],
)
async def test_pages_and_names_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    async with FakeGemini(image_size=8) as server, client_of(server) as client:
        refused = await client.post(PATH, json=asking(), headers=headers)
        assert refused.status_code == 403
        assert "example" not in refused.text + str(refused.headers)
        assert server.stats.calls == 0
        local = {"host": "localhost:8080", "origin": "http://127.0.0.1:3000"}
        assert (await client.post(PATH, json=asking(), headers=local)).status_code == 200


async def test_other_machines_are_not_served() -> None:
    with pytest.raises(ValueError, match=r"host must be a loopback address such as 127\.0\.0\.1"):
        async with FakeGemini(host="0.0.0.0"):
            pass


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED])
async def test_a_connection_that_cannot_be_accepted_does_not_end_the_server(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(socket.socket):
        failures = 1

        def accept(self) -> tuple[socket.socket, Any]:
            if self.failures:
                self.failures -= 1
                raise OSError(number, "cannot accept")
            return super().accept()

    def listen(host: str, port: int) -> socket.socket:
        listener = Failing()
        listener.bind((host, port))
        listener.listen()
        listener.setblocking(False)
        return listener

    monkeypatch.setattr(_http, "_listen", listen)
    async with FakeGemini(image_size=8) as server, client_of(server) as client:
        assert (await client.post(PATH, json=asking())).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"latency": -0.1},
        {"quota": "60/h"},
        {"quota": "-1/min"},
        {"daily": -1},
        {"speed": 0},
        {"speed": math.nan},
        {"speed": math.inf},
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FakeGemini(**wrong)


def test_importing_loads_nothing_heavy() -> None:
    heavy = "{'PIL', 'google', 'httpx', 'rich', 'typer'}"
    code = f"import sys, genbatch.testing; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
