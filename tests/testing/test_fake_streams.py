"""Streams of a FakeGemini: an answer part by part, as events or as a JSON array."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from genbatch.testing import (
    FakeGemini,
    Fault,
    blocked,
    broken_json,
    hidden_error,
    html_page,
    rate_limited,
    short_body,
    with_drafts,
)
from support.wire import PATH, asking, client_of, parts_of

pytestmark = pytest.mark.anyio

STREAM = PATH.replace("generateContent", "streamGenerateContent")
EVENTS = f"{STREAM}?alt=sse"


async def stream_of(path: str, fault: Fault | None = None) -> httpx.Response:
    async with FakeGemini(image_size=8, faults=[fault]) as server, client_of(server) as client:
        return await client.post(path, json=asking())


def chunks_of(answer: httpx.Response) -> list[Any]:
    if answer.headers["content-type"] != "text/event-stream":
        chunks: list[Any] = answer.json()
        return chunks
    *events, end = answer.text.split("\r\n\r\n")
    assert end == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("path", [EVENTS, STREAM])
async def test_each_part_of_an_answer_is_a_chunk_with_the_usage(path: str) -> None:
    async with FakeGemini(image_size=8) as server, client_of(server) as client:
        whole = await client.post(PATH, json=asking())
        streamed = await client.post(path, json=asking())
        assert (server.stats.calls, server.stats.images, server.stats.in_flight) == (2, 2, 0)
        assert server.calls[1].path == STREAM
    chunks = chunks_of(streamed)
    candidates = [chunk["candidates"][0] for chunk in chunks]
    assert [each["content"]["parts"] for each in candidates] == [[p] for p in parts_of(whole)]
    assert [each.get("finishReason") for each in candidates] == [None, "STOP"]
    assert {each["content"]["role"] for each in candidates} == {"model"}
    assert all(chunk["usageMetadata"] == whole.json()["usageMetadata"] for chunk in chunks)
    assert streamed.headers["x-gemini-service-tier"] == "standard"


@pytest.mark.parametrize("path", [EVENTS, STREAM])
async def test_drafts_are_streamed_before_the_image(path: str) -> None:
    parts = [
        part
        for chunk in chunks_of(await stream_of(path, with_drafts(1)))
        for part in chunk["candidates"][0]["content"]["parts"]
    ]
    assert [part.get("thought", False) for part in parts] == [True, True, False, False]


@pytest.mark.parametrize("path", [EVENTS, STREAM])
@pytest.mark.parametrize("fault", [blocked(), hidden_error()])
async def test_an_answer_without_parts_is_one_chunk(path: str, fault: Fault) -> None:
    answer = await stream_of(path, fault)
    assert answer.status_code == 200
    assert chunks_of(answer) == [fault.body]


async def test_an_error_is_an_object_beside_events_and_in_the_array_without() -> None:
    fault = rate_limited(53)
    beside, within = await stream_of(EVENTS, fault), await stream_of(STREAM, fault)
    assert (beside.status_code, within.status_code) == (429, 429)
    assert beside.json() == fault.body
    assert within.json() == [fault.body]


@pytest.mark.parametrize("fault", [html_page(), broken_json()])
async def test_what_is_not_json_is_sent_as_it_is(fault: Fault) -> None:
    assert (await stream_of(EVENTS, fault)).text == fault.body


async def test_a_stream_may_break_off() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await stream_of(EVENTS, short_body(100))
