"""Calls of a GeminiClient over a scripted HTTP transport: what is sent, and what comes back."""

from __future__ import annotations

import base64
import json
import logging
import threading
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest

from genbatch._client import _retry, http
from genbatch._http import ConnectionStack
from genbatch._throttle._throttle import Throttle
from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    Prompt,
    Rejected,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini import GeminiClient

pytestmark = pytest.mark.anyio

KEY = "AIza-canary-key-that-nobody-may-see"
PNG = b"\x89PNG\r\n\x1a\n the rest of a picture IEND\xaeB`\x82"
ANSWER = {
    "candidates": [
        {
            "content": {
                "parts": [{"inlineData": {"data": base64.b64encode(PNG).decode()}}],
            },
            "finishReason": "A_REASON_OF_THE_FUTURE",
            "safetyRatings": [{"category": "A_CATEGORY_OF_THE_FUTURE"}],
        }
    ]
}


class Service:
    """Answers every request with the same reply, and remembers what was sent."""

    def __init__(self, status: int = 200, reply: Any = ANSWER, library: Any = httpx) -> None:
        self.status = status
        self.reply = reply
        self.library = library
        self.requests: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        body = self.reply if isinstance(self.reply, str) else json.dumps(self.reply)
        return self.library.Response(self.status, text=body)

    def sent(self) -> dict[str, Any]:
        """Return the JSON of the last request."""
        content: dict[str, Any] = json.loads(self.requests[-1].content)
        return content

    def http_client(self) -> Any:
        return self.library.AsyncClient(transport=self.library.MockTransport(self))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[GeminiClient]:
    async with GeminiClient(KEY, http_client=service.http_client(), max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def test_text_settings_and_key_are_sent(client: GeminiClient, service: Service) -> None:
    await client.generate_image("a cat", model="pro", aspect_ratio="16:9", image_size="2K")
    request = service.requests[0]
    assert str(request.url) == (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro-image:generateContent"
    )
    assert request.headers["x-goog-api-key"] == KEY
    assert request.headers["x-server-timeout"] == "300"  # pro takes minutes at times
    assert request.extensions["timeout"]["read"] == 300
    assert service.sent() == {
        "contents": [{"role": "user", "parts": [{"text": "a cat"}]}],
        "generationConfig": {
            "responseModalities": ["IMAGE"],
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        },
    }


async def test_settings_of_a_prompt_override_those_of_the_call(
    client: GeminiClient, service: Service
) -> None:
    prompt = Prompt("a cat", model="lite", aspect_ratio="1:1", image_size="1K", seed=7)
    image = await client.generate_image(prompt, model="pro", aspect_ratio="16:9", image_size="4K")
    assert image.model == "gemini-3.1-flash-lite-image"
    assert service.requests[0].url.path.endswith("/gemini-3.1-flash-lite-image:generateContent")
    assert service.sent()["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "1:1", "imageSize": "1K"},
        "seed": 7,
    }


async def test_every_setting_is_sent_under_its_name_on_the_wire(
    client: GeminiClient, service: Service
) -> None:
    await client.generate_image(
        "a cat", thinking="high", temperature=0.0, seed=7, system_instruction="Draw in ink."
    )
    assert service.sent()["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "thinkingConfig": {"thinkingLevel": "HIGH"},
        "temperature": 0.0,
        "seed": 7,
    }
    (part,) = service.sent()["systemInstruction"]["parts"]
    assert part == {"text": "Draw in ink."}


async def test_seed_of_a_prompt_overrides_that_of_the_call(
    client: GeminiClient, service: Service
) -> None:
    await client.generate_image(Prompt("a cat", seed=0), seed=7)
    assert service.sent()["generationConfig"]["seed"] == 0


async def test_generation_config_goes_out_in_either_spelling(
    client: GeminiClient, service: Service
) -> None:
    safety = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
    config = {
        "top_p": 0.5,
        "topK": 8,
        "responseModalities": ["TEXT", "IMAGE"],
        "safety_settings": [safety],
        "imageConfig": {"imageSize": "4K"},
    }
    await client.generate_image("a cat", generation_config=config)
    sent = service.sent()
    assert sent["generationConfig"] == {
        "topP": 0.5,
        "topK": 8,
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"imageSize": "4K"},
    }
    assert sent["safetySettings"] == [safety]


async def test_what_the_sdk_does_not_know_goes_out_as_it_is(
    client: GeminiClient, service: Service
) -> None:
    await client.generate_image("a cat", seed=7, generation_config={"brushWidth": {"in_mm": [1]}})
    assert service.sent()["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "seed": 7,
        "brushWidth": {"in_mm": [1]},
    }
    assert service.requests[0].headers["x-goog-api-key"] == KEY
    assert service.requests[0].headers["x-server-timeout"] == "120"


async def test_named_settings_win_over_generation_config(
    client: GeminiClient, service: Service
) -> None:
    config = {
        "temperature": 1.0,
        "image_config": {"image_size": "4K", "aspect_ratio": "16:9"},
        "thinking_config": {"thinking_level": "HIGH", "include_thoughts": True},
    }
    await client.generate_image(
        "a cat", temperature=0.5, image_size="2K", thinking="minimal", generation_config=config
    )
    assert service.sent()["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "temperature": 0.5,
        "imageConfig": {"imageSize": "2K", "aspectRatio": "16:9"},
        "thinkingConfig": {"thinkingLevel": "MINIMAL", "includeThoughts": True},
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generation_config": {"topP": "much"}}, "top_?[pP] must be a number"),
        ({"generation_config": {"imageConfig": {"hue": 1}}}, "hue is not a field that there is"),
        (
            {"generation_config": {"image_config": 3}},
            "generation_config image_config must be an object",
        ),
        (
            {"generation_config": {"imageConfig": {"aspectRatio": 3}}},
            "generation_config imageConfig.aspectRatio must be a text, got 3",
        ),
        (
            {"generation_config": {"safety_settings": [{"category": 3}]}},
            "generation_config: a field that takes|category must be",
        ),
        ({"generation_config": {"top_p": 1, "topP": 1}}, "'top_p' twice: as 'topP' too"),
        ({"generation_config": {"http_options": {}}}, "must not have 'http_options'"),
        ({"generation_config": {"automaticContinuation": 1}}, "not have 'automaticContinuation'"),
        ({"image_size": "4K", "model": "lite"}, "makes 1K only, got image_size='4K'"),
        ({"thinking": "ultra"}, "got thinking='ultra'"),
    ],
)
async def test_setting_that_cannot_be_is_named_before_anything_is_sent(
    settings: dict[str, Any], message: str, client: GeminiClient, service: Service
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        await client.generate_image("a cat", **settings)
    assert "\n" not in str(caught.value)
    assert service.requests == []


async def test_input_images_follow_the_text_with_their_true_type(
    client: GeminiClient, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "misnamed.jpg"
    path.write_bytes(PNG)
    jpeg = b"\xff\xd8\xff\xfb\xef\xbe"
    await client.generate_image(Prompt("mix them", images=(path, jpeg, str(path))))
    text, *images = service.sent()["contents"][0]["parts"]
    assert text == {"text": "mix them"}
    sent = [
        (base64.urlsafe_b64decode(image["inlineData"]["data"]), image["inlineData"]["mime_type"])
        for image in images
    ]
    assert sent == [(PNG, "image/png"), (jpeg, "image/jpeg"), (PNG, "image/png")]


@pytest.mark.parametrize(
    ("head", "mime_type"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image/heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "image/heif"),
    ],
)
async def test_photos_of_phones_are_sent_with_their_type(
    head: bytes, mime_type: str, client: GeminiClient, service: Service
) -> None:
    await client.generate_image(Prompt("as an oil painting", images=(head,)))
    _, image = service.sent()["contents"][0]["parts"]
    assert image["inlineData"]["mime_type"] == mime_type


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(7) + b";", b"\0\0\0\x1cftypavif", b"\0\0\0\x1cftypmif1\0\0\0\0avif"]
)
async def test_image_of_a_type_that_the_service_does_not_take_is_refused(
    data: bytes, client: GeminiClient, service: Service
) -> None:
    with pytest.raises(ValueError, match="input image 1 is not a PNG, JPEG, WebP, HEIC or HEIF"):
        await client.generate_image(Prompt("x", images=(data,)))
    assert service.requests == []


async def test_input_that_is_no_image_is_refused_by_name(
    client: GeminiClient, service: Service, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.png"
    notes.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.png is not a PNG"):
        await client.generate_image(Prompt("x", images=(notes,)))
    with pytest.raises(ValueError, match="input image 2 is not a PNG"):
        await client.generate_image(Prompt("x", images=(PNG, b"")))
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        await client.generate_image(Prompt("x", images=(tmp_path / "none.png",)))
    assert service.requests == []


async def test_blank_prompt_is_refused(client: GeminiClient, service: Service) -> None:
    with pytest.raises(ValueError, match="blank"):
        await client.generate_image(" \n")
    assert service.requests == []


async def test_setting_of_the_wrong_type_is_the_callers_mistake(
    client: GeminiClient, service: Service
) -> None:
    with pytest.raises(TypeError, match=r"^aspect_ratio must be a str, got int$"):
        await client.generate_image("a cat", aspect_ratio=16)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^temperature must be a number, got str$"):
        await client.generate_image("a cat", temperature="hot")  # type: ignore[arg-type]
    assert service.requests == []


async def test_closed_client_says_how_to_open_it(service: Service) -> None:
    client = GeminiClient(KEY, http_client=service.http_client())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"not open: use 'async with GeminiClient\("):
            await client.generate_image("a cat")
        async with client:
            await client.generate_image("a cat")
            with pytest.raises(RuntimeError, match="open already"):
                await client.__aenter__()


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_injected_http_client_is_used_and_stays_open(library: Any) -> None:
    service = Service(library=library)
    async with service.http_client() as http_client:
        async with GeminiClient(KEY, http_client=http_client) as client:
            assert (await client.generate_image("a cat")).data == PNG
        assert not http_client.is_closed
        assert len(service.requests) == 1


async def test_client_may_be_closed_by_another_task(service: Service) -> None:
    client = GeminiClient(KEY, http_client=service.http_client())

    async def close() -> None:
        await client.__aexit__(None, None, None)

    async with anyio.create_task_group() as tasks:
        await client.__aenter__()
        tasks.start_soon(close)
    with pytest.raises(RuntimeError, match="not open"):
        await client.generate_image("a cat")


async def test_opening_leaves_the_event_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def stack(**options: bool) -> ConnectionStack:
        threads.append(threading.get_ident())
        return ConnectionStack(**options)

    monkeypatch.setattr(http, "ConnectionStack", stack)
    async with GeminiClient(KEY):
        assert threads != [threading.get_ident()]
        assert len(threads) == 1


async def test_environment_cannot_change_key_service_or_version(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name, value in {
        "GEMINI_API_KEY": "not-this-key",
        "GOOGLE_API_KEY": "nor-this-key",
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GENAI_USE_ENTERPRISE": "true",
        "GOOGLE_GENAI_API_VERSION": "v1alpha",
        "GOOGLE_CLOUD_PROJECT": "project",
        "HTTPS_PROXY": "nonsense://proxy",
    }.items():
        monkeypatch.setenv(name, value)
    http_client = service.http_client()
    async with GeminiClient(KEY, vertexai=False, http_client=http_client) as client:
        await client.generate_image("a cat")
    assert service.requests[0].headers["x-goog-api-key"] == KEY
    assert "googleapis.com/v1beta/models/" in str(service.requests[0].url)
    assert [record for record in caplog.records if record.name.startswith("google")] == []


async def test_answer_that_asks_to_continue_is_not_continued(
    client: GeminiClient, service: Service
) -> None:
    candidate = {**ANSWER["candidates"][0], "finishReason": "CONTINUATION"}
    service.reply = {"candidates": [{**candidate, "continuationToken": "AAAA"}]}
    await client.generate_image("a cat")
    assert len(service.requests) == 1


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_redirect_is_not_followed(library: Any) -> None:
    service = Service(307, "", library)

    def redirect(request: Any) -> Any:
        response = service(request)
        response.headers["location"] = "https://elsewhere.example/"
        return response

    http_client = library.AsyncClient(transport=library.MockTransport(redirect))
    async with GeminiClient(KEY, http_client=http_client) as client:
        with pytest.raises(Rejected, match="redirect"):
            await client.generate_image("a cat")
    assert len(service.requests) == 1


def listed(*names: str, token: str | None = None) -> dict[str, Any]:
    methods = ["generateContent", "countTokens"]
    models = [{"name": f"models/{name}", "supportedGenerationMethods": methods} for name in names]
    return {"models": models, **({"nextPageToken": token} if token else {})}


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_models_that_make_images_are_listed_from_every_page(library: Any) -> None:
    pages = [
        listed("gemini-nano-banana-2.1", "gemini-9-flash", token="next"),
        listed("gemini-9-image"),
    ]
    pages[1]["models"] += [
        {"name": "models/imagen-9", "supportedGenerationMethods": ["predict"]},
        {"displayName": "without a name"},
    ]
    tokens = []

    def answer(request: Any) -> Any:
        assert request.headers["x-goog-api-key"] == KEY
        assert (request.method, request.url.path) == ("GET", "/v1beta/models")
        tokens.append(request.url.params.get("pageToken"))
        return library.Response(200, json=pages[len(tokens) - 1])

    http_client = library.AsyncClient(transport=library.MockTransport(answer))
    async with GeminiClient(KEY, http_client=http_client) as client:
        assert await client.models() == ["gemini-nano-banana-2.1", "gemini-9-image"]
    assert tokens == [None, "next"]


async def test_list_of_models_that_never_ends_is_an_error(
    client: GeminiClient, service: Service
) -> None:
    service.reply = listed("gemini-9-image", token="again")
    with pytest.raises(InvalidResponse, match="more than 100 pages"):
        await client.models()
    assert len(service.requests) == 100


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("status", "reply", "expected"),
    [
        (400, {"error": {"details": [{"reason": "API_KEY_INVALID"}]}}, Unauthorized),
        (404, "<h1>Not found", Rejected),
        (503, {"error": {"message": "busy"}}, Unavailable),
        (200, "<html>", InvalidResponse),
        (200, {"models": 7}, InvalidResponse),
        (200, {"models": [7]}, InvalidResponse),
        (200, {"models": [{"name": 7}]}, InvalidResponse),
        (200, [1], InvalidResponse),
        (200, ConnectionResetError("reset"), Unavailable),
    ],
)
async def test_trouble_with_the_list_of_models_is_translated_and_never_paid(
    library: Any, status: int, reply: Any, expected: type[GenbatchError]
) -> None:
    service = Service(status, reply, library)
    async with GeminiClient(KEY, http_client=service.http_client(), max_retries=0) as client:
        with pytest.raises(GenbatchError, match="the service") as caught:
            await client.models()
    assert type(caught.value) is expected
    assert not caught.value.maybe_paid
    assert "use 'flash'" not in str(caught.value)


async def test_empty_list_of_models_is_empty(client: GeminiClient, service: Service) -> None:
    service.reply = {"models": []}
    assert await client.models() == []


async def test_closed_client_lists_no_models(service: Service) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await GeminiClient(KEY, http_client=service.http_client()).models()


@pytest.fixture
def instant_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "random", lambda: 0.0)


@pytest.mark.usefixtures("instant_backoff")
@pytest.mark.parametrize(
    ("status", "reply", "expected", "calls"),
    [
        (503, {"error": {"message": "busy"}}, Unavailable, 4),
        (200, "<html>", InvalidResponse, 4),
        (200, {"candidates": [{"content": {"parts": [{"inlineData": {}}]}}]}, InvalidResponse, 1),
        (200, httpx.ReadError("reset"), Unavailable, 4),
        (200, ConnectionResetError("reset"), Unavailable, 4),
        (400, {"error": {"message": "bad ratio"}}, Rejected, 1),
        (401, {"error": {"message": "bad key"}}, Unauthorized, 1),
        (404, "<h1>Not found", Rejected, 1),
        (400, "[" * 99_999, InvalidResponse, 4),
    ],
)
async def test_only_what_may_pass_is_tried_again(
    status: int, reply: Any, expected: type[Exception], calls: int
) -> None:
    service = Service(status, reply)
    async with GeminiClient(KEY, http_client=service.http_client()) as client:
        with pytest.raises(expected):
            await client.generate_image("a cat")
    assert len(service.requests) == calls


async def test_error_that_is_not_of_the_wire_is_not_disguised(
    client: GeminiClient, service: Service
) -> None:
    service.reply = KeyError("a bug in a transport")
    with pytest.raises(KeyError, match="a bug"):
        await client.generate_image("a cat")


@pytest.mark.usefixtures("instant_backoff")
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 503])
@pytest.mark.parametrize("body", [f"<b>{KEY}", {"error": {"message": KEY, "details": [KEY]}}])
async def test_key_that_the_server_echoes_is_shown_nowhere(
    status: int, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service = Service(status, body)
    throttle = Throttle(patience=0)
    http_client = service.http_client()
    async with GeminiClient(KEY, http_client=http_client, throttle=throttle) as client:
        with pytest.raises(GenbatchError) as caught:
            await client.generate_image("a cat")
    shown = "".join(traceback.format_exception(caught.value))
    shown += repr(caught.value) + repr(client) + str(vars(client)) + caplog.text
    assert "INFO" in caplog.text
    assert KEY not in shown
    links: list[BaseException | None] = [caught.value]
    while (link := links.pop()) is not None:
        assert KEY not in str(link)
        links.append(link.__cause__ or link.__context__)
