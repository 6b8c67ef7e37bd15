"""What answers cost, by figures worked out by hand from the published prices of 2026-11-27.

Every answer has a prompt of 100 tokens; an input image has 1,120. Per million tokens (input, text
and thoughts, images): flash $1.50, $7.50, $30; pro $2, $12, $120; lite $0.25, $1.50, $30. An image
of flash has 1,120 (1K), 1,680 (2K) or 3,780 (4K) tokens, one of pro 1,120, 1,120 or 2,000.
"""

from __future__ import annotations

from typing import Any

import pytest

from genbatch import GeminiClient, ImageRequest, Usage
from genbatch.gemini import reserved_price
from genbatch.gemini._models import cost
from genbatch.testing import FakeGemini, Fault

FLASH, PRO, LITE = "gemini-nano-banana-2.1", "gemini-3-pro-image", "gemini-3.1-flash-lite-image"
SIZES = {
    (FLASH, "1K"): 1120,
    (FLASH, "2K"): 1680,
    (FLASH, "4K"): 3780,
    (PRO, "1K"): 1120,
    (PRO, "2K"): 1120,
    (PRO, "4K"): 2000,
    (LITE, "1K"): 1120,
}


@pytest.mark.parametrize(
    ("model", "size", "tier", "thoughts", "inputs", "dollars"),
    [
        (FLASH, "1K", None, 0, 0, 0.03375),
        (FLASH, "1K", "standard", 400, 1, 0.03843),
        (FLASH, "1K", "flex", 0, 14, 0.028635),
        (FLASH, "1K", "priority", 400, 0, 0.0735),
        (FLASH, "2K", None, 0, 1, 0.05223),
        (FLASH, "2K", "flex", 400, 0, 0.026775),
        (FLASH, "2K", "priority", 0, 0, 0.1011),
        (FLASH, "4K", None, 0, 0, 0.11355),
        (FLASH, "4K", "flex", 0, 0, 0.056775),
        (FLASH, "4K", "priority", 0, 14, 0.27414),
        (PRO, "1K", None, 337, 0, 0.138644),
        (PRO, "1K", "priority", 0, 0, 0.2692),
        (PRO, "2K", None, 0, 14, 0.16596),
        (PRO, "2K", "flex", 0, 1, 0.06842),
        (PRO, "4K", None, 0, 0, 0.2402),
        (PRO, "4K", "priority", 337, 3, 0.501928),
        (LITE, "1K", None, 0, 0, 0.033625),
        (LITE, "1K", "flex", 1000, 14, 0.0195225),
        (LITE, "1K", "priority", 0, 0, 0.06725),
    ],
)
def test_an_answer_costs_what_was_worked_out_by_hand(
    model: str, size: str, tier: str | None, thoughts: int, inputs: int, dollars: float
) -> None:
    usage = Usage(
        prompt_tokens=100 + inputs * 1120,
        output_tokens=SIZES[model, size],
        thought_tokens=thoughts,
        total_tokens=0,
    )
    assert cost(model, usage, tier) == pytest.approx(dollars, abs=1e-9)


def test_search_queries_cost_on_their_own() -> None:
    usage = Usage(prompt_tokens=100, output_tokens=1120)
    assert cost(FLASH, usage, "priority", searches=2) == pytest.approx(0.0675 + 0.028)
    tools = {"tools": [{"google_search": {}}]}
    plain = reserved_price(ImageRequest("a fox", model=FLASH, generation_config={"top_k": 1}))
    asking = reserved_price(ImageRequest("a fox", model=FLASH, generation_config=tools))
    assert plain is not None
    assert asking == pytest.approx(plain + 0.014, abs=1e-4)


@pytest.mark.anyio
async def test_queries_of_an_answer_are_counted() -> None:
    def search(answer: dict[str, Any]) -> dict[str, Any]:
        answer["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["fox", "snow"]}
        return answer

    async with (
        FakeGemini(image_size=8, faults=[Fault(edit=search)]) as fake,
        GeminiClient("a-key", base_url=fake.url) as client,
    ):
        image = await client.generate_image("a fox")
    assert image.cost == pytest.approx(0.0336 + 0.028, rel=0.01)
