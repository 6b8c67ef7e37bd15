"""FakeOpenAI over plain HTTP: what it takes, answers, refuses and counts."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from genbatch.testing import FakeOpenAI, Fault, openai_error
from support.wire import png_size

pytestmark = pytest.mark.anyio

ASKING: dict[str, Any] = {"model": "gpt-image-2.6-flare", "prompt": "a red fox"}
KEY = {"authorization": "Bearer canary"}


def client_of(server: FakeOpenAI, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=headers or KEY, timeout=30, verify=False)


async def posted(server: FakeOpenAI, **fields: object) -> httpx.Response:
    async with client_of(server) as client:
        return await client.post("/images/generations", json={**ASKING, **fields})


async def test_images_are_pngs_in_the_shape_asked_for_and_each_is_billed() -> None:
    async with FakeOpenAI(image_size=32) as server:
        answer = await posted(server, n=2, size="1536x1024", quality="low")
    told = answer.json()
    images = [base64.b64decode(each["b64_json"], validate=True) for each in told["data"]]
    assert [png_size(image) for image in images] == [(32, 21), (32, 21)]
    assert images[0] != images[1]
    assert (told["size"], told["quality"]) == ("1536x1024", "low")
    assert told["usage"]["output_tokens"] == 2 * 158
    assert server.stats.images == 2
    assert answer.headers["x-request-id"] == "req_1"


@pytest.mark.parametrize("name", ["image", "image[]"])
async def test_edits_are_forms_with_images(name: str) -> None:
    files = [(name, ("a.png", content, "image/png")) for content in (b"one", b"two\r\n--\0")]
    async with FakeOpenAI(image_size=8) as server, client_of(server) as client:
        answer = await client.post("/images/edits", data=ASKING, files=files)
        assert (await client.post("/images/edits", data=ASKING)).status_code == 400
        assert server.calls[0].body == {**ASKING, name: [b"one", b"two\r\n--\0"]}
        large = [("image", ("a.png", bytes(20_000), "image/png"))]
        await client.post("/images/edits", data=ASKING, files=large)
        assert server.calls[-1].body == {}
    details = {"text_tokens": 2, "image_tokens": 2048}
    assert answer.json()["usage"]["input_tokens_details"] == details


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"seed": 7}, 400, "unknown_parameter"),
        ({"prompt": ""}, 400, "invalid_value"),
        ({"model": None}, 400, "invalid_value"),
        ({"n": 0}, 400, "invalid_value"),
        ({"n": "many"}, 400, "invalid_value"),
        ({"quality": "hd"}, 400, "invalid_value"),
        ({"quality": ["low"]}, 400, "invalid_value"),
        ({"size": "big"}, 400, "invalid_value"),
        ({"size": "1024"}, 400, "invalid_value"),
        ({"size": "0x1024"}, 400, "invalid_value"),
        ({"size": "1x2x3"}, 400, "invalid_value"),
        ({"stream": True}, 400, "unsupported_value"),
        ({"stream": "true"}, 400, "unsupported_value"),
        ({"model": "dall-e-3"}, 404, "model_not_found"),
    ],
)
async def test_what_the_service_refuses_uses_up_nothing(
    fields: dict[str, Any], status: int, code: str
) -> None:
    async with FakeOpenAI(models=[ASKING["model"]], faults=[Fault(status=500)]) as server:
        answer = await posted(server, **fields)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert (server.stats.calls, server.stats.images) == (1, 0)
        assert (await posted(server)).status_code == 500


async def test_keys_paths_and_bodies_are_checked() -> None:
    async with FakeOpenAI(api_keys={"canary"}) as server:
        for headers in ({"x": "y"}, {"authorization": "Bearer wrong"}):
            async with client_of(server, **headers) as client:
                answer = await client.post("/images/generations", json=ASKING)
                assert answer.status_code == 401
        async with client_of(server) as client:
            assert (await client.get("/images/generations")).status_code == 404
            assert (await client.post("/images/generations", content=b"[")).status_code == 400
            assert (await client.post("/images/edits", content=b"x")).status_code == 400
            stats = (await client.get(f"{server.url.removesuffix('/v1')}/stats")).json()
    assert stats["calls"] == 4


async def test_a_quota_that_is_used_up_says_when_there_is_more() -> None:
    async with FakeOpenAI(quota="1/min", image_size=8) as server:
        assert (await posted(server)).status_code == 200
        answer = await posted(server)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert 0 < float(answer.headers["retry-after"]) <= 60
    assert server.stats.limited == 1


async def test_faults_are_in_the_shape_of_the_service() -> None:
    late = Fault(status=500, late=True)
    blocked = openai_error(400, "moderation_blocked", "No.", type="image_generation_user_error")
    async with FakeOpenAI(image_size=8, faults=[late, blocked, Fault(status=503)]) as server:
        assert (await posted(server)).status_code == 500
        assert server.stats.images == 1
        error = (await posted(server)).json()["error"]
        assert error == {
            "message": "No.",
            "type": "image_generation_user_error",
            "param": None,
            "code": "moderation_blocked",
        }
        assert (await posted(server)).json()["error"]["type"] == "server_error"
        assert server.stats.images == 1


async def test_it_runs_once_at_a_time_and_says_so() -> None:
    server = FakeOpenAI()
    with pytest.raises(RuntimeError, match="is not running"):
        _ = server.url
    async with server:
        with pytest.raises(RuntimeError, match="is running already"):
            await server.__aenter__()
    with pytest.raises(ValueError, match="image_size must be >= 1, got 0"):
        FakeOpenAI(image_size=0)
