"""What the service says in place of an image, images that it names by URL, and what is not sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import to_thread
from google.genai.types import ImageConfig
from google.oauth2.credentials import Credentials

from genbatch import Budget, DamagedImage, Failure, _http, batch_api, collect, generate_images
from genbatch._store import status
from genbatch._values import (
    Blocked,
    ImageRequest,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    Rejected,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import GeminiClient, _file_parts
from genbatch.gemini.wire import error_within
from genbatch.testing import FakeGemini, Fault
from support import wire
from support.batch_runs import errors, kinds, run
from support.fleets import fleet, item

pytestmark = pytest.mark.anyio

KEY = "AIza-canary-key-that-nobody-may-see"
MODEL = "gemini-nano-banana-2.1"
PNG = b"\x89PNG\r\n\x1a\n the rest of a picture IEND\xaeB`\x82"
HOST = "generativelanguage.googleapis.com"
PART = {"inlineData": {"data": base64.b64encode(PNG).decode()}}
FREE = "You will not be charged for blocked images."

Reply = Callable[[httpx.Request], httpx.Response]


def client_of(answer: Reply | dict[str, Any], **options: Any) -> GeminiClient:
    """Return a client whose service answers every request alike."""

    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answer) if isinstance(answer, dict) else answer(request)

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(reply))
    return GeminiClient(KEY, http_client=http_client, **{"max_retries": 0} | options)


def of_file(uri: object) -> dict[str, Any]:
    part = {"fileData": {"mimeType": "image/png", "fileUri": uri}}
    return {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}


# Words

WORDS = [
    (
        {"candidates": [{"finishReason": "IMAGE_SAFETY", "finishMessage": FREE}]},
        Blocked,
        f"{MODEL} blocked the image: IMAGE_SAFETY: {FREE}",
    ),
    (
        {"candidates": [{"finishReason": "IMAGE_OTHER", "finishMessage": "Try\nagain."}]},
        NoImage,
        f"{MODEL} sent no image (IMAGE_OTHER): Try again.",
    ),
    (
        {"candidates": [{"finishReason": "MODEL_ARMOR"}]},
        Blocked,
        f"{MODEL} blocked the image: MODEL_ARMOR",
    ),
    (
        {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "A policy of yours."}},
        Blocked,
        f"{MODEL} blocked the prompt: OTHER: A policy of yours.",
    ),
    (
        {"error": {"message": "The image could not be stored."}},
        NoImage,
        f"{MODEL} sent no image (no candidates): The image could not be stored.",
    ),
    ({"error": "busy"}, NoImage, f"{MODEL} sent no image (no candidates): busy"),
    (
        of_file("https://user@elsewhere.example:9/a.png?secret=1"),
        NoImage,
        f"{MODEL} sent no image (STOP): the image is a file at elsewhere.example, "
        "which was not fetched: it is elsewhere",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "message"), WORDS)
async def test_words_of_the_service_are_in_the_error_of_a_call(
    answer: dict[str, Any], kind: type[Exception], message: str
) -> None:
    async with client_of(answer) as client:
        with pytest.raises(kind) as caught:
            await client.generate_image("a cat")
    assert str(caught.value) == message


@pytest.mark.parametrize(("answer", "kind", "message"), WORDS)
async def test_words_of_the_service_are_in_the_results_of_a_job(
    answer: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    async with FakeGemini(faults=[Fault(body=answer)]) as fake:
        [error] = errors(await run(fake, tmp_path, ["a cat"]))
    assert (type(error), str(error)) == (kind, message)


async def test_words_of_the_service_come_through_ray(tmp_path: Path) -> None:
    faults = [Fault(body=answer) for answer, _, _ in WORDS]
    async with (
        FakeGemini(faults=faults) as server,
        fleet(tmp_path, server.url, max_concurrent=1) as (_, [worker]),
    ):
        made = await worker.make([item(number) for number in range(len(WORDS))])
    assert {(type(error), str(error)) for error in made} == {each[1:] for each in WORDS}


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (503, "overloaded", Unavailable),
        (400, "bad ratio", Rejected),
        (403, "no access", Unauthorized),
        (429, "limit: 0", QuotaExhausted),
    ],
)
async def test_error_within_an_answer_is_that_of_its_code(
    code: int, message: str, kind: type[Exception]
) -> None:
    error = {"code": code, "message": message, "details": [{"retryDelay": "7s"}]}
    async with client_of({"error": error}) as client:
        with pytest.raises(kind) as caught:
            await client.generate_image("a cat")
    assert caught.value.status == code  # type: ignore[attr-defined]
    assert not caught.value.maybe_paid  # type: ignore[attr-defined]


async def test_error_within_the_results_of_a_job_is_that_of_its_code(tmp_path: Path) -> None:
    fault = Fault(body={"error": {"code": 400, "message": "bad ratio"}})
    async with FakeGemini(faults=[fault]) as fake:
        outcomes = await run(fake, tmp_path, ["a cat"])
    assert kinds(outcomes) == {"Rejected": 1}
    assert "bad ratio" in str(errors(outcomes)[0])


def test_error_beside_candidates_or_without_a_code_is_none_of_its_own() -> None:
    assert error_within({"candidates": [{}], "error": {"code": 400}}, MODEL) is None
    assert error_within({"error": {"code": 200}}, MODEL) is None
    assert error_within({"error": {"code": "400"}}, MODEL) is None
    told = error_within({"error": {"code": 429, "details": [{"retryDelay": "7s"}]}}, MODEL)
    assert told is not None
    assert told.retry_after == 7


# Images by URL


class Files:
    """A service whose answer names a file, and which has that file."""

    def __init__(self, uri: str, status: int = 200, content: bytes = PNG) -> None:
        self.uri = uri
        self.status = status
        self.content = content
        self.fetched: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json=of_file(self.uri))
        self.fetched.append(request)
        return httpx.Response(self.status, content=self.content)


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        (f"https://{HOST}/v1beta/files/x-1", f"https://{HOST}/v1beta/files/x-1:download?alt=media"),
        (f"https://{HOST}:443/v1beta/files/x:download?alt=media&a=1",) * 2,
        (f"https://{HOST.upper()}/made/x.png", f"https://{HOST}/made/x.png"),
    ],
)
async def test_file_of_the_service_is_fetched_with_the_key(uri: str, url: str) -> None:
    files = Files(uri)
    async with client_of(files) as client:
        image = await client.generate_image("a cat")
    assert image.data == PNG
    [request] = files.fetched
    assert str(request.url) == url.replace(":443", "")
    assert request.headers["x-goog-api-key"] == KEY


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://elsewhere.example/v1beta/files/x", "elsewhere.example"),
        (f"http://{HOST}/v1beta/files/x", HOST),
        (f"https://{HOST}:444/v1beta/files/x", HOST),
        (f"https://{HOST}@elsewhere.example/x", "elsewhere.example"),
        (f"https://{HOST}.elsewhere.example/x", f"{HOST}.elsewhere.example"),
        ("gs://bucket/x.png", "bucket"),
        ("https://[broken/x", "no URL"),
        ("", "no URL"),
    ],
)
async def test_file_elsewhere_is_named_and_gets_no_key(uri: str, host: str) -> None:
    files = Files(uri)
    async with client_of(files) as client:
        with pytest.raises(NoImage, match=f" a file at {host}, which was not fetched") as caught:
            await client.generate_image("a cat")
    assert files.fetched == []
    assert caught.value.maybe_paid


@pytest.mark.parametrize(
    ("status", "content", "said", "times"),
    [(404, b"gone", "refused the request (404)", 1), (503, b"", "is not available (503)", 4),
     (302, b"", "a redirect of a file at", 1), (200, b"x" * 101, "larger than", 4)],
)  # fmt: skip
async def test_file_that_cannot_be_fetched_is_paid_and_never_asked_for_again(
    status: int,
    content: bytes,
    said: str,
    times: int,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_file_parts, "LARGEST_ANSWER", 100)
    files, calls = Files(f"https://{HOST}/v1beta/files/x", status, content), []

    def reply(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        return files(request)

    async with client_of(reply, max_retries=3) as client:
        with pytest.raises(NoImage) as caught:
            await client.generate_image("a cat")
    assert said in str(caught.value)
    assert caught.value.maybe_paid
    assert (calls.count("POST"), calls.count("GET")) == (1, times)
    assert len(pauses) == times - 1


async def test_file_is_fetched_over_connections_of_our_own_and_for_a_job(tmp_path: Path) -> None:
    faults: list[Fault] = []
    script = {"faults": lambda call: faults.pop() if faults else None}
    async with FakeGemini(image_size=8, **script) as fake, wire.client_of(fake) as by_hand:
        # Of the files of the service only the results of a job can be fetched from the fake.
        await run(fake, tmp_path / "first", ["a cat"])
        [job] = fake.jobs
        operation = (await by_hand.get(f"/v1beta/{job.name}")).json()
        file = operation["metadata"]["output"]["responsesFile"]
        uri = f"{fake.url}/v1beta/{file}"
        kept = (await by_hand.get(f"{uri}:download?alt=media")).content
        assert kept.startswith(b"{")
        faults += [Fault(body=of_file(uri))] * 2
        async with GeminiClient(KEY, base_url=fake.url) as client:
            [live] = errors(await collect(client.generate_image, ["a dog"]))
        [from_job] = errors(await run(fake, tmp_path / "second", ["a hen"]))
    assert type(live) is type(from_job) is DamagedImage
    assert live.data == kept
    assert (tmp_path / "second" / str(from_job.file)).read_bytes() == kept


# What is not sent

REFUSED = [
    ({"image_config": {"output_mime_type": "image/jpeg"}}, "output_mime_type is only for Vertex"),
    ({"imageConfig": {"personGeneration": "ALLOW_ALL"}}, "person_generation is only for Vertex"),
    ({"labels": {"a": {1}}}, "labels"),
    ({"speechConfig": 3}, "^generation_config speechConfig has an invalid value, got 3$"),
    ({"systemInstruction": 3}, "^generation_config systemInstruction has an invalid value, got 3$"),
    (
        {"system_instruction": {"parts": [{"text": "a"}, {"txt": "b"}]}},
        r"config system_instruction\.parts\.1\.txt is not a field that there is, got 'b'",
    ),
    ({"responseSchema": [1]}, r"generation_config responseSchema has an invalid value, got \[1\]$"),
    ({"audioTimestamp": True}, "^generation_config: audio_timestamp is only for Vertex AI$"),
    ({"tools": [7]}, "a value of generation_config is of the wrong type"),
    ({"brush": b"fine"}, "a value of generation_config is of the wrong type"),
    ({"candidate_count": 2}, "candidate_count must be 1, got 2"),
    ({"candidateCount": 2}, "candidate_count must be 1, got 2"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
async def test_what_the_sdk_refuses_is_no_attempt(config: dict[str, Any], message: str) -> None:
    budget = Budget(1.0)
    async with client_of({}) as client:
        with pytest.raises(ValueError, match=message):
            await client.generate_image("a cat", generation_config=config, budget=budget)
        with pytest.raises(ValueError, match=message):
            generate_images(client, ["a cat"], generation_config=config)
    assert (budget.maybe_images, budget.maybe_spent) == (0, 0.0)


@pytest.mark.parametrize("way", [generate_images, batch_api.generate_images])
@pytest.mark.parametrize("config", [REFUSED[0][0], REFUSED[-1][0]])
async def test_row_that_the_sdk_refuses_fails_alone_and_is_not_noted_as_paid(
    way: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {} if way is generate_images else {"poll": 0.05, "job_size": 1}
    async with FakeGemini(image_size=8) as fake, GeminiClient(KEY, base_url=fake.url) as client:
        # Not seen before the rows: it is sent, but not by the service that is called.
        client.check = lambda request: None  # type: ignore[method-assign]
        try:
            opened = way(client, ["a cat"], save_dir=tmp_path, generation_config=config, **options)
        except ValueError:
            assert "candidateCount" in config  # before any row
            return
        async with opened as outcomes:
            [outcome] = [each async for each in outcomes]
    assert isinstance(outcome, Failure)
    assert type(outcome.error) is ValueError
    assert fake.stats.calls == fake.stats.jobs == 0
    found = (await to_thread.run_sync(status, tmp_path)).spent
    assert found.maybe_images == 0


async def test_row_that_the_sdk_refuses_is_no_attempt_of_ray(tmp_path: Path) -> None:
    request = ImageRequest("a cat", model=MODEL, generation_config=REFUSED[1][0])
    async with FakeGemini() as server, fleet(tmp_path, server.url) as (_, [worker]):
        [error] = await worker.make([("0" * 64, request)])
        assert "person_generation" in str(error)
    assert server.stats.calls == 0


async def test_vertex_is_sent_what_only_vertex_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["generationConfig"])
        return httpx.Response(200, json={"candidates": [{"content": {"parts": [PART]}}]})

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(reply))
    credentials: Any = Credentials("a-token")  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"credentials": credentials, "project": "p", "vertexai": True}
    async with GeminiClient(http_client=http_client, **options) as client:
        await client.generate_image("a cat", generation_config=REFUSED[0][0])
        with pytest.raises(ValueError, match=r"civic_answers is only for the Gemini API$"):
            config = {"enable_enhanced_civic_answers": True}
            await client.generate_image("a cat", generation_config=config)
    assert [each["imageConfig"] for each in sent] == [
        {"imageOutputOptions": {"mimeType": "image/jpeg"}}
    ]


# How long, and how large


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 120),
        ({"model": "lite"}, 120),
        ({"model": "gemini-9-image", "image_size": "2K"}, 120),
        ({"model": "pro"}, 300),
        ({"image_size": "4K"}, 300),
        ({"model": "gemini-9-image", "image_size": "4K"}, 300),
        ({"generation_config": {"imageConfig": {"imageSize": "4K"}}}, 300),
        ({"generation_config": {"image_config": ImageConfig(image_size="4K")}}, 300),
    ],
)
async def test_slow_models_and_large_images_have_more_time(
    settings: dict[str, Any], seconds: int
) -> None:
    told: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        told.append(request.headers["x-server-timeout"])
        return httpx.Response(200, json={"candidates": [{"content": {"parts": [PART]}}]})

    async with client_of(reply) as client:
        await client.generate_image("a cat", **settings)
    async with client_of(reply, timeout=7) as client:
        await client.generate_image("a cat", **settings)
    assert told == [str(seconds), "7"]


async def test_answer_above_the_limit_is_paid_and_never_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(_http, "LARGEST_ANSWER", 1000)
    budget = Budget(1.0)
    async with FakeGemini() as fake, GeminiClient(KEY, base_url=fake.url) as client:
        with pytest.raises(InvalidResponse, match="larger than") as caught:
            await client.generate_image("a cat", budget=budget)
    assert fake.stats.calls == 1
    assert pauses == []
    assert caught.value.maybe_paid
    assert budget.maybe_images == 1
    assert budget.maybe_spent > 0
