"""What images are reserved for, expected to cost and have cost."""

from __future__ import annotations

from typing import Any

import pytest

from genbatch._money import Budget
from genbatch._values import BudgetExhausted, DamagedImage, ImageRequest, Prompt
from genbatch.openai import OpenAIClient
from genbatch.testing import FakeOpenAI, Fault

KEY = "sk-canary-key-that-nobody-may-see"
A_TOKEN = 30e-6
REST = (20 + 5) * 5e-6  # of what is reserved: for the prompt

# Of OpenAI's own calculator, and of those who have measured it: see docs/openai.md.
PUBLISHED = [
    ("gpt-image-2", "low", "1024x1024", 196),
    ("gpt-image-2", "medium", "1024x1024", 1756),
    ("gpt-image-2", "high", "1024x1024", 7024),
    ("gpt-image-2", "high", "1536x1024", 5488),
    ("gpt-image-2", "high", "1024x1536", 5488),
    ("gpt-image-2", "high", "1792x1024", 5063),
    ("gpt-image-2", "high", "3584x2048", 12329),
    ("gpt-image-2-2026-04-21", "low", "1024x1024", 196),
    ("gpt-image-2.5-flare", "low", "1024x1024", 196),
    ("gpt-image-2.5-flare", "medium", "1024x1024", 439),
    ("gpt-image-2.5-sunburst", "high", "1024x1024", 1756),
    ("gpt-image-2.6-flare", "xhigh", "1024x1024", 3122),
    ("gpt-image-2.6-sunburst", "max", "1024x1024", 7024),
]


def request(model: str = "gpt-image-2.6-flare", **config: Any) -> ImageRequest:
    return ImageRequest("a cat", model=model, generation_config=config)


@pytest.mark.parametrize(("model", "quality", "size", "tokens"), PUBLISHED)
def test_prices_are_those_published(model: str, quality: str, size: str, tokens: int) -> None:
    asked = request(model, quality=quality, size=size)
    client = OpenAIClient(KEY)
    assert client.price(asked) == pytest.approx(tokens * A_TOKEN + REST)
    assert client.expected_price(asked) == pytest.approx(tokens * A_TOKEN + 20 * 5e-6)


def test_what_is_left_to_the_service_is_reserved_at_its_dearest_and_expected_high() -> None:
    client = OpenAIClient(KEY)
    assert client.price(request()) == pytest.approx(7024 * A_TOKEN + REST)
    assert client.price(request(quality="auto", size="auto")) == client.price(request())
    assert client.expected_price(request()) == pytest.approx(1756 * A_TOKEN + 20 * 5e-6)
    shown = ImageRequest("a cat", model="gpt-image-2.6-flare", images=(b"", b""))
    assert client.price(shown) == pytest.approx(7024 * A_TOKEN + REST + 2 * 7000 * 8e-6)


def test_what_has_no_published_price_has_none() -> None:
    client = OpenAIClient(KEY)
    for asked in (request("a-local-model"), request(output_format="gif")):
        assert client.price(asked) is None
        assert client.expected_price(asked) is None


@pytest.mark.anyio
@pytest.mark.parametrize("quality", ["low", "medium", "high", "xhigh", "max"])
@pytest.mark.parametrize("size", ["1024x1024", "1536x1024", "2160x3840"])
async def test_cost_is_that_of_the_tokens_told(quality: str, size: str) -> None:
    budget, config = Budget(usd=1), {"quality": quality, "size": size}
    async with FakeOpenAI(image_size=8) as server, OpenAIClient(KEY, base_url=server.url) as client:
        image = await client.generate_image("a cat", generation_config=config, budget=budget)
        expected = client.expected_price(request(**config))
    assert image.cost == pytest.approx(expected, rel=0.05)
    assert budget.spent == image.cost
    assert budget.images == 1


def telling(**usage: Any) -> Fault:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"] |= usage
        return answer

    return Fault(edit=edit)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fault",
    [
        Fault(edit=lambda answer: {"data": answer["data"]}),
        Fault(edit=lambda answer: {**answer, "usage": "much"}),
        telling(output_tokens=0),
        telling(output_tokens=-1),
        telling(output_tokens=True),
        telling(output_tokens=10**9),
        telling(output_tokens=100_000),
        telling(input_tokens=0),
        telling(input_tokens=500_000),
        telling(input_tokens_details={"image_tokens": 5}),
        telling(input_tokens_details={"image_tokens": "5"}),
        telling(output_tokens_details={"text_tokens": 10**6}),
    ],
)
async def test_usage_that_is_missing_or_impossible_counts_as_reserved(fault: Fault) -> None:
    budget = Budget(usd=1)
    async with (
        FakeOpenAI(image_size=8, faults=[fault]) as server,
        OpenAIClient(KEY, base_url=server.url) as client,
    ):
        image = await client.generate_image("a cat", budget=budget)
        assert image.cost == client.price(request())
    assert budget.spent == image.cost


@pytest.mark.anyio
async def test_size_and_quality_that_the_service_has_chosen_are_believed() -> None:
    chosen = {"size": "2880x2880", "quality": "low"}

    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["output_tokens"] = 659
        answer["usage"]["output_tokens_details"] = None
        return answer | chosen

    async with (
        FakeOpenAI(image_size=8, faults=[Fault(edit=edit)]) as server,
        OpenAIClient(KEY, base_url=server.url) as client,
    ):
        image = await client.generate_image("a cat")
    assert image.cost == pytest.approx(659 * A_TOKEN, rel=0.01)


@pytest.mark.anyio
async def test_a_gif_costs_the_tokens_told_however_many_frames_it_has() -> None:
    config = {"output_format": "gif", "quality": "low"}
    frames = telling(output_tokens=9 * 196, output_tokens_details=None)
    async with (
        FakeOpenAI(image_size=8, faults=[frames]) as server,
        OpenAIClient(KEY, base_url=server.url) as client,
    ):
        image = await client.generate_image("a cat", generation_config=config)
    assert image.cost == pytest.approx(9 * 196 * A_TOKEN, rel=0.01)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [7, [], "big", "0x0", f"{'9' * 5000}x1024"])
async def test_what_is_told_of_the_choice_may_be_anything(size: object) -> None:
    fault = Fault(edit=lambda answer: {**answer, "size": size, "quality": size})
    async with (
        FakeOpenAI(image_size=8, faults=[fault]) as server,
        OpenAIClient(KEY, base_url=server.url) as client,
    ):
        image = await client.generate_image("a cat")
    assert image.cost == pytest.approx(1756 * A_TOKEN, rel=0.01)


@pytest.mark.anyio
async def test_several_images_and_damaged_ones_are_paid_for() -> None:
    def repeat(answer: dict[str, Any]) -> dict[str, Any]:
        answer["data"] *= 2
        answer["usage"]["output_tokens"] *= 2
        return answer

    def damage(answer: dict[str, Any]) -> dict[str, Any]:
        answer["data"] = [{"b64_json": "no base64*"}]
        return answer

    budget = Budget()
    faults = [Fault(edit=repeat), Fault(edit=damage)]
    async with (
        FakeOpenAI(image_size=8, faults=faults) as server,
        OpenAIClient(KEY, base_url=server.url) as client,
    ):
        image = await client.generate_image("a cat", budget=budget, price=0.5)
        assert len(image.extras) == 1
        assert (image.cost, budget.images) == (1.0, 2)
        with pytest.raises(DamagedImage, match="its base64 is broken") as caught:
            await client.generate_image(Prompt("a cat"), budget=budget)
        assert caught.value.cost is not None
        assert budget.spent == pytest.approx(1.0 + caught.value.cost)


@pytest.mark.anyio
async def test_a_budget_without_room_makes_no_call() -> None:
    async with FakeOpenAI() as server, OpenAIClient(KEY, base_url=server.url) as client:
        with pytest.raises(BudgetExhausted):
            await client.generate_image("a cat", budget=Budget(usd=0.1))
        with pytest.raises(ValueError, match="a budget needs a price"):
            await client.generate_image("a cat", model="a-local-model", budget=Budget(usd=9))
        assert server.stats.calls == 0
