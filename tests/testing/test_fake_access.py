"""Who may call a FakeGemini, on which API, and the models it lists."""

from __future__ import annotations

from typing import Any

import pytest

from genbatch.testing import FakeGemini
from support.wire import MODEL, PATH, VERTEX_PATH, asking, client_of, details_of, png_of

pytestmark = pytest.mark.anyio

LIST = "/v1beta/models"
VERTEX_LIST = "/v1beta1/publishers/google/models"


async def statuses(server: FakeGemini, *requests: tuple[str, dict[str, str]]) -> list[int]:
    async with client_of(server) as client:
        del client.headers["x-goog-api-key"]
        return [
            (await client.post(path, json=asking(), headers=headers)).status_code
            for path, headers in requests
        ]


async def test_only_the_keys_given_are_valid() -> None:
    keys = {"one", "two"}
    requests = [(PATH, {"x-goog-api-key": key}) for key in ("one", "two", "three", "")]
    async with FakeGemini(image_size=8, api_keys=keys) as server:
        assert await statuses(server, *requests) == [200, 200, 400, 403]
        keys.discard("one")  # revoked while the server runs
        assert await statuses(server, *requests) == [400, 200, 400, 403]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_a_key_may_be_in_the_query_of_either_version(version: str) -> None:
    path, models = PATH.replace("v1beta", version), f"/{version}/models"
    async with FakeGemini(image_size=8, api_keys={"one"}) as server, client_of(server) as client:
        del client.headers["x-goog-api-key"]
        assert (await client.post(f"{path}?key=one", json=asking())).status_code == 200
        assert (await client.post(f"{path}?key=two", json=asking())).status_code == 400
        assert (await client.post(path, json=asking())).status_code == 403
        assert (await client.get(f"{models}?key=one")).json()["models"]
        elsewhere = await client.get(f"/{version}/nothing?key=one")
    assert elsewhere.status_code == 404
    assert "one" not in elsewhere.json()["error"]["message"]


async def test_a_wrong_key_is_refused_in_the_services_shape() -> None:
    async with FakeGemini(api_keys={"right"}) as server, client_of(server) as client:
        for answer in (await client.post(PATH, json=asking()), await client.get(LIST)):
            details = details_of(answer)
            assert answer.status_code == 400
            assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
            assert details["ErrorInfo"]["reason"] == "API_KEY_INVALID"
            assert "canary" in details["DebugInfo"]["detail"]  # the service repeats it
        assert server.stats.images == 0


async def test_vertex_takes_tokens_and_no_keys() -> None:
    tokens = {"one"}
    requests = [
        (VERTEX_PATH, headers)
        for headers in (
            {"authorization": "Bearer one"},
            {"authorization": "Bearer two"},
            {"authorization": "one"},
            {"x-goog-api-key": "one"},
        )
    ]
    async with FakeGemini(image_size=8, tokens=tokens) as server:
        assert await statuses(server, *requests) == [200, 401, 401, 401]
        assert server.calls[0].path == VERTEX_PATH
        assert server.calls[0].model == MODEL
        tokens.add("two")
        assert await statuses(server, requests[1]) == [200]
    async with FakeGemini(image_size=8) as server:
        assert await statuses(server, *requests) == [200, 200, 401, 401]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({}, "CREDENTIALS_MISSING"), ({"authorization": "Bearer x"}, "ACCESS_TOKEN_EXPIRED")],
)
async def test_a_wrong_token_is_refused_in_the_services_shape(
    headers: dict[str, str], reason: str
) -> None:
    async with FakeGemini(tokens={"right"}) as server, client_of(server) as client:
        answer = await client.post(VERTEX_PATH, json=asking(), headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["status"] == "UNAUTHENTICATED"
    assert details_of(answer)["ErrorInfo"]["reason"] == reason


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_both_apis_draw_the_same_image(version: str) -> None:
    path, headers = VERTEX_PATH.replace("v1beta1", version), {"authorization": "Bearer x"}
    async with FakeGemini(image_size=8) as server, client_of(server) as client:
        own = await client.post(PATH, json=asking())
        vertex = await client.post(path, json=asking(), headers=headers)
    assert png_of(own) == png_of(vertex)


async def test_models_are_listed_as_the_service_does() -> None:
    async with FakeGemini() as server, client_of(server) as client:
        answer = (await client.get(LIST)).json()
    models = {model["name"]: model["supportedGenerationMethods"] for model in answer["models"]}
    assert "generateContent" in models[f"models/{MODEL}"]
    assert "generateContent" not in models["models/gemini-embedding-001"]
    assert not any("2.5" in name for name in models)
    assert "nextPageToken" not in answer


@pytest.mark.parametrize(
    ("path", "field", "prefix", "headers"),
    [
        (LIST, "models", "models/", {}),
        (
            VERTEX_LIST,
            "publisherModels",
            "publishers/google/models/",
            {"authorization": "Bearer x"},
        ),
    ],
)
async def test_long_lists_come_in_pages(
    path: str, field: str, prefix: str, headers: dict[str, str]
) -> None:
    ids = [f"model-{number}" for number in range(120)]
    async with FakeGemini(models=ids) as server, client_of(server) as client:

        async def sizes_and_names(size: int | None) -> tuple[list[int], list[str]]:
            fields: dict[str, Any] = {} if size is None else {"pageSize": size}
            pages = []
            while True:
                answer = (await client.get(path, params=fields, headers=headers)).json()
                pages.append([model["name"] for model in answer[field]])
                if "nextPageToken" not in answer:
                    return [len(page) for page in pages], [name for page in pages for name in page]
                fields["pageToken"] = answer["nextPageToken"]

        names = [f"{prefix}{each}" for each in ids]
        assert await sizes_and_names(None) == ([50, 50, 20], names)
        assert await sizes_and_names(40) == ([40, 40, 40], names)
        assert await sizes_and_names(5000) == ([120], names)


@pytest.mark.parametrize("query", ["pageSize=-1", "pageSize=x", "pageToken=nonsense"])
async def test_a_wrong_page_is_refused(query: str) -> None:
    async with FakeGemini() as server, client_of(server) as client:
        assert (await client.get(f"{LIST}?{query}")).status_code == 400


async def test_one_model_is_described_and_a_retired_one_is_not_there() -> None:
    async with FakeGemini() as server, client_of(server) as client:
        known = await client.get(f"{LIST}/{MODEL}")
        retired = await client.get(f"{LIST}/gemini-2.5-flash-image")
        elsewhere = await client.get("/v2/models")
    assert known.json()["name"] == f"models/{MODEL}"
    assert (retired.status_code, elsewhere.status_code) == (404, 404)
    assert "gemini-2.5-flash-image is not found" in retired.json()["error"]["message"]


async def test_only_the_models_given_can_be_called() -> None:
    other = PATH.replace(MODEL, "gemini-2.5-flash-image")
    async with (
        FakeGemini(image_size=8, models=["gemini-2.5-flash-image"]) as server,
        client_of(server) as client,
    ):
        assert (await client.post(other, json=asking())).status_code == 200
        answer = await client.post(PATH, json=asking())
    assert answer.status_code == 404
    assert f"{MODEL} is not found" in answer.json()["error"]["message"]
