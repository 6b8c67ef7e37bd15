"""What an OpenAIClient is told, what it sends, and what it refuses before anything is paid."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genbatch._values import ImageRequest, Prompt, Unauthorized
from genbatch.openai import OpenAIClient
from genbatch.testing import FakeOpenAI

KEY = "sk-canary-key-that-nobody-may-see"
FLARE = "gpt-image-2.6-flare"
PNG = b"\x89PNG\r\n\x1a\n the rest of a picture IEND\xaeB`\x82"
HEIC = b"\0\0\0\x18ftypheic" + bytes(60)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "a model"}, "not a model id"),
    ({"seed": 7}, f"{FLARE} takes no seed, got 7"),
    ({"thinking": "high"}, "takes no thinking"),
    ({"temperature": 0.0}, "takes no temperature"),
    ({"system_instruction": "Ink."}, "takes no system_instruction"),
    ({"aspect_ratio": "4:1"}, "aspect_ratio must be from 1:3 to 3:1, got '4:1'"),
    ({"aspect_ratio": "wide"}, "aspect_ratio must be"),
    ({"image_size": "8K"}, "image_size must be one of 1K, 2K, 4K, got '8K'"),
    ({"generation_config": {"n": 2}}, "a prompt asks for one image"),
    ({"generation_config": {"stream": True}}, "the client sets it"),
    ({"generation_config": {"output_format": "svg"}}, "output_format must be png, jpeg or webp"),
    ({"generation_config": {"quality": "hd"}}, "makes quality low, medium, high, xhigh, max"),
    ({"generation_config": {"size": "big"}}, "size must be like '1536x1024' or 'auto'"),
    ({"generation_config": {"size": "1000x1000"}}, "multiples of 16"),
    ({"generation_config": {"size": "3840x3840"}}, "8,294,400 pixels"),
    ({"generation_config": {"size": "512x512"}}, "655,360"),
    ({"generation_config": {"size": "3840x1024"}}, "up to 3:1"),
    ({"generation_config": {"user": {1, 2}}}, "cannot be sent"),
    ({"generation_config": {"user": math.nan}}, "cannot be sent"),
    ({"text": "half a character: \ud800"}, "surrogates not allowed"),
]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_importing_and_opening_the_client_loads_no_package_of_google_or_openai() -> None:
    code = (
        "import sys, genbatch.openai\n"
        "slow = {'httpx', 'httpx2', 'google.genai'} & set(sys.modules)\n"
        "import genbatch.openai._wire, genbatch.testing\n"
        "assert not slow and not {'google', 'openai'} & set(sys.modules), slow\n"
        "assert 'genbatch.gemini' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_key_and_url_come_from_arguments_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Unauthorized, match=r"^no API key: set OPENAI_API_KEY, or pass api_key=$"):
        OpenAIClient()
    assert "https://api.openai.com/v1" in repr(OpenAIClient(KEY))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://env.example/v1")
    assert repr(OpenAIClient()) == "<OpenAIClient base_url='https://env.example/v1'>"
    assert "//arg.example" in repr(OpenAIClient(base_url="https://arg.example"))
    with pytest.raises(ValueError, match=r"https .*, got 'http://proxy.example'"):
        OpenAIClient(base_url="http://proxy.example")
    for options in ({"max_retries": -1}, {"timeout": 0.0}):
        with pytest.raises(ValueError, match="must be >"):
            OpenAIClient(**options)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("flare", FLARE),
        ("sunburst", "gpt-image-2.6-sunburst"),
        ("openai/gpt-image-2", "gpt-image-2"),
        ("stabilityai/sdxl:turbo", "stabilityai/sdxl:turbo"),
    ],
)
def test_models_are_resolved_by_a_closed_client(model: str, expected: str) -> None:
    client = OpenAIClient(KEY)
    assert client.resolve(ImageRequest("a cat", model=model)).model == expected
    assert client.throttle(model) is client.throttles[expected]


def test_thinking_for_all_prompts_is_left_out_where_a_prompt_names_its_model() -> None:
    prompt = Prompt("a cat", model="flare")
    request = ImageRequest.of(prompt, {"thinking": "high"})
    assert OpenAIClient(KEY).resolve(request, prompt).thinking is None


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_the_service_does_not_have_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OpenAIClient.resolve(ImageRequest(**{"text": "a cat", "model": "flare", **settings}))
    with pytest.raises(TypeError, match="must be a mapping"):
        OpenAIClient.resolve(ImageRequest("a cat", generation_config=[]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("aspect_ratio", "image_size", "size"),
    [
        ("1:1", None, "1024x1024"),
        (None, "2K", "2048x2048"),
        (None, "4K", "2880x2880"),
        ("16:9", "4K", "3840x2160"),
        ("9:16", "4K", "2160x3840"),
        ("16:9", None, "1360x768"),
        ("3:2", "1K", "1248x832"),
        ("21:9", "4K", "3840x1632"),
        ("3:1", "1K", "1760x592"),
    ],
)
def test_a_size_is_made_of_the_names_that_all_services_have(
    aspect_ratio: str | None, image_size: str | None, size: str
) -> None:
    config = {"size": "auto", "quality": "low"}
    request = ImageRequest(
        "a cat",
        model=FLARE,
        aspect_ratio=aspect_ratio,
        image_size=image_size,
        generation_config=config,
    )
    client = OpenAIClient(KEY)
    sized = ImageRequest("a cat", model=FLARE, generation_config={**config, "size": size})
    client.check(request)
    assert client.price(request) == client.price(sized)
    assert client.price(request) is not None


@pytest.mark.parametrize("image_size", ["1K", "2K", "4K"])
def test_every_shape_that_is_taken_makes_a_size_that_the_service_makes(image_size: str) -> None:
    client = OpenAIClient(KEY)
    for across in range(1, 33):
        for down in range(math.ceil(across / 3), min(3 * across, 32) + 1):
            ratio = f"{across}:{down}"
            client.resolve(
                ImageRequest("a cat", "flare", aspect_ratio=ratio, image_size=image_size)
            )


@pytest.mark.anyio
async def test_settings_are_sent_under_their_names_and_the_key_in_its_header() -> None:
    async with FakeOpenAI(image_size=8) as server, OpenAIClient(KEY, base_url=server.url) as client:
        config = {"quality": "low", "background": "opaque", "output_format": "webp", "size": None}
        await client.generate_image(
            Prompt("a cat", model="sunburst", aspect_ratio="16:9"), generation_config=config
        )
        await client.generate_image("a dog", model="a-local-model", image_size="2K")
    first, second = server.calls
    named = {"model": "gpt-image-2.6-sunburst", "prompt": "a cat", "size": "1360x768"}
    assert first.path == "/v1/images/generations"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.body == {**config, **named}
    assert second.body["response_format"] == "b64_json"
    assert second.body["size"] == "2048x2048"


@pytest.mark.anyio
async def test_input_images_make_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "input.png"
    path.write_bytes(PNG)
    async with FakeOpenAI(image_size=8) as server, OpenAIClient(KEY, base_url=server.url) as client:
        prompt = Prompt("a cat", images=(PNG, path), image_size="1K")
        image = await client.generate_image(prompt, generation_config={"output_compression": 50})
        for images, message in (
            ((PNG,) * 17, "at most 16 input images, got 17"),
            ((PNG, HEIC), "input image 2 is not a PNG, JPEG or WebP image"),
            ((b"a text",), "input image 1 is not"),
        ):
            with pytest.raises(ValueError, match=message):
                await client.generate_image(Prompt("a cat", images=images))
        with pytest.raises(ValueError, match="extra cannot be sent beside input images"):
            await client.generate_image(prompt, generation_config={"extra": {}})
    (call,) = server.calls
    assert call.path == "/v1/images/edits"
    assert call.body == {
        "model": FLARE,
        "prompt": "a cat",
        "size": "1024x1024",
        "output_compression": "50",
        "image[]": [PNG, PNG],
    }
    assert image.usage is not None
    assert image.cost == pytest.approx(1 * 5e-6 + 2048 * 8e-6 + 1756 * 30e-6)


@pytest.mark.anyio
async def test_closed_client_makes_no_call_and_opens_again() -> None:
    client = OpenAIClient(KEY)
    with pytest.raises(RuntimeError, match="is not open: use 'async with OpenAIClient"):
        await client.generate_image("a cat")
    for _ in range(2):
        async with client:
            with pytest.raises(RuntimeError, match="is open already"):
                await client.__aenter__()
