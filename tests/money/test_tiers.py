"""Tiers that generation_config passes on are priced: as asked for before, as served after."""

from __future__ import annotations

from typing import Any

import pytest

from genbatch import Budget, GeminiClient, ImageRequest
from genbatch.gemini import reserved_price
from genbatch.testing import FakeGemini, downgraded

pytestmark = pytest.mark.anyio

ONE = 0.0336  # US dollars for an image of flash at 1K, with some more for its prompt


async def spent(tier: dict[str, Any], **options: Any) -> float:
    budget = Budget(1.0)
    async with (
        FakeGemini(image_size=8, **options) as fake,
        GeminiClient("a-key", base_url=fake.url) as client,
    ):
        image = await client.generate_image("a fox", budget=budget, generation_config=tier)
    assert image.cost == pytest.approx(budget.spent)
    return budget.spent


@pytest.mark.parametrize(
    ("tier", "factor"),
    [("flex", 0.5), ("standard", 1), ("priority", 2), ("FLEX", 0.5)],
)
@pytest.mark.parametrize("name", ["service_tier", "serviceTier"])
async def test_the_tier_that_was_served_counts(name: str, tier: str, factor: float) -> None:
    assert await spent({name: tier}) == pytest.approx(factor * ONE, rel=0.01)
    request = ImageRequest("a fox", model="gemini-nano-banana-2.1")
    asking = ImageRequest("a fox", model="gemini-nano-banana-2.1", generation_config={name: tier})
    least = reserved_price(request)
    assert least is not None
    assert reserved_price(asking) == pytest.approx(factor * least, rel=0.01)


async def test_a_downgraded_answer_costs_what_it_was_served_at() -> None:
    downgrade = await spent({"service_tier": "priority"}, faults=[downgraded()])
    assert downgrade == pytest.approx(ONE, rel=0.01)
