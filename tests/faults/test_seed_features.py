"""What a small image client does, feature by feature, over a real wire.

Models by alias, aspect ratios, sizes, three retries, answers of many parts, images saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genbatch import (
    GeminiClient,
    InvalidResponse,
    NoImage,
    Prompt,
    Rejected,
    Unauthorized,
    Unavailable,
    collect,
    generate_images,
)
from genbatch._values import sniff_mime_type
from genbatch.testing import (
    FakeGemini,
    Fault,
    bad_key,
    jpeg_as_png,
    no_image,
    not_an_image,
    reset,
    several_images,
    short_body,
    unknown_values,
    with_drafts,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pauses")]

FLASH, PRO, LITE = "gemini-nano-banana-2.1", "gemini-3-pro-image", "gemini-3.1-flash-lite-image"


def fake(*faults: Fault | None) -> FakeGemini:
    return FakeGemini(image_size=64, faults=faults)


def client_for(server: FakeGemini, **settings: Any) -> GeminiClient:
    return GeminiClient("a-key", base_url=server.url, **settings)


def size_of(png: bytes) -> tuple[int, int]:
    """Return width and height, which stand in the header of a PNG."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


@pytest.mark.parametrize(
    ("model", "expected"),
    [("flash", FLASH), ("pro", PRO), ("lite", LITE), ("gemini-9-image", "gemini-9-image")],
)
async def test_model_is_asked_by_alias_or_id(model: str, expected: str) -> None:
    async with fake() as server, client_for(server) as client:
        image = await client.generate_image("a cat", model=model)
    assert image.model == server.calls[0].model == expected


async def test_model_is_flash_unless_told() -> None:
    async with fake() as server, client_for(server) as client:
        await client.generate_image("a cat")
    assert server.calls[0].model == FLASH


@pytest.mark.parametrize(
    ("aspect_ratio", "size"),
    [(None, (64, 64)), ("1:1", (64, 64)), ("16:9", (64, 36)), ("9:16", (36, 64)), ("8:1", (64, 8))],
)
async def test_image_has_the_aspect_ratio_asked_for(
    aspect_ratio: str | None, size: tuple[int, int]
) -> None:
    async with fake() as server, client_for(server) as client:
        image = await client.generate_image("a cat", aspect_ratio=aspect_ratio)
    assert size_of(image.data) == size


@pytest.mark.parametrize(
    ("image_size", "tokens", "dollars"),
    [(None, 1120, 0.0336), ("1K", 1120, 0.0336), ("2K", 1680, 0.0504), ("4K", 3780, 0.1134)],
)
async def test_image_size_is_asked_for_and_billed(
    image_size: str | None, tokens: int, dollars: float
) -> None:
    async with fake() as server, client_for(server) as client:
        image = await client.generate_image("a cat", image_size=image_size)
    assert image.usage is not None
    assert image.usage.output_tokens == tokens
    assert image.cost == pytest.approx(dollars, rel=0.01)


async def test_what_the_model_cannot_make_costs_nothing() -> None:
    async with fake() as server, client_for(server) as client:
        with pytest.raises(ValueError, match=f"^{LITE} makes 1K only, got image_size='4K'$"):
            await client.generate_image("a cat", model="lite", image_size="4K")
    assert server.stats.calls == 0


@pytest.mark.parametrize("fault", [Fault(status=503), reset(), short_body()])
async def test_third_retry_may_succeed_by_default(fault: Fault, pauses: list[float]) -> None:
    async with fake(fault, fault, fault) as server, client_for(server) as client:
        await client.generate_image("a cat")
    assert server.stats.calls == 4
    assert len(pauses) == 3


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_no_more_retries_than_asked_for(max_retries: int) -> None:
    faults = [reset(), *[Fault(status=503)] * 9]
    async with fake(*faults) as server, client_for(server, max_retries=max_retries) as client:
        with pytest.raises(Unavailable) as caught:
            await client.generate_image("a cat")
    assert server.stats.calls == caught.value.attempts == max_retries + 1
    assert caught.value.maybe_paid  # the first attempt, whatever became of the others
    assert str(caught.value).endswith(f" ({max_retries + 1} attempts)") == (max_retries > 0)


@pytest.mark.parametrize("fault", [no_image(), not_an_image()])
async def test_answer_that_is_no_image_is_not_asked_for_again(fault: Fault) -> None:
    async with fake(reset(), fault) as server, client_for(server) as client:
        with pytest.raises((NoImage, InvalidResponse), match=r"\(2 attempts\)$") as caught:
            await client.generate_image("a cat")
    assert server.stats.calls == 2
    assert caught.value.maybe_paid


async def test_text_before_the_image_is_kept_beside_it() -> None:
    async with fake() as server, client_for(server) as client:
        image = await client.generate_image("a cat")
    assert sniff_mime_type(image.data) == "image/png"
    assert image.text == "Here is the image you asked for."
    assert image.extras == ()


async def test_drafts_within_thoughts_are_not_the_image() -> None:
    async with fake(None, with_drafts(2)) as server, client_for(server) as client:
        plain = await client.generate_image("a cat")
        thought = await client.generate_image("a cat")
    assert (thought.data, thought.text, thought.extras) == (plain.data, plain.text, ())
    assert plain.usage is not None
    assert thought.usage is not None
    assert (plain.usage.thought_tokens, thought.usage.thought_tokens) == (0, 200)


async def test_first_of_several_images_is_the_image_and_none_is_lost() -> None:
    async with fake(None, several_images(3)) as server, client_for(server) as client:
        one = await client.generate_image("a cat")
        image = await client.generate_image("a cat")
    assert image.data == one.data
    assert len({image.data, *(extra.data for extra in image.extras)}) == 3
    assert image.cost == pytest.approx(3 * 0.0336, rel=0.01)


async def test_type_is_that_of_the_bytes_and_not_of_the_label() -> None:
    async with fake(jpeg_as_png()) as server, client_for(server) as client:
        assert (await client.generate_image("a cat")).mime_type == "image/jpeg"


@pytest.mark.filterwarnings("error")
async def test_words_of_the_future_do_not_hide_the_image() -> None:
    async with fake(unknown_values()) as server, client_for(server) as client:
        assert (await client.generate_image("a cat")).mime_type == "image/png"


async def test_generated_image_is_saved_under_the_name_of_its_prompt(tmp_path: Path) -> None:
    prompts = [Prompt("a cat", filename="Cat"), "a dog"]
    async with (
        fake(jpeg_as_png()) as server,
        client_for(server) as client,
        generate_images(client, prompts, save_dir=tmp_path, max_concurrent=1) as outcomes,
    ):
        cat, dog = [outcome.unwrap() async for outcome in outcomes]
    assert cat.path.name == "Cat.jpg"
    assert dog.path.name.startswith("0001-a-dog-")
    assert dog.path.suffix == ".png"
    assert sniff_mime_type(cat.path.read_bytes()) == "image/jpeg"


async def test_variants_are_calls_of_their_own_with_seeds_of_their_own() -> None:
    async with fake() as server, client_for(server) as client:
        variants = Prompt("a cat", id="cat", seed=7).variants(3)
        outcomes = await collect(client.generate_image, variants, max_concurrent=1)
    assert [call.body["generationConfig"]["seed"] for call in server.calls] == [7, 8, 9]
    assert len({outcome.unwrap().data for outcome in outcomes}) == 3


async def test_models_of_the_key_are_listed() -> None:
    async with fake() as server, client_for(server) as client:
        assert await client.models() == [FLASH, PRO, LITE]


@pytest.mark.parametrize("model", ["gemini-2.5-flash-image", "imagen-4.0-generate-001"])
async def test_retired_model_is_told_with_the_one_to_use(model: str) -> None:
    async with fake() as server, client_for(server) as client:
        with pytest.raises(Rejected, match=f"^{model} was shut down: use 'flash' \\({FLASH}\\);"):
            await client.generate_image("a cat", model=model)
    assert server.stats.calls == 1


async def test_wrong_key_is_told_at_once() -> None:
    async with fake(bad_key()) as server, client_for(server) as client:
        with pytest.raises(Unauthorized, match="refused the API key"):
            await client.generate_image("a cat")
    assert server.stats.calls == 1
