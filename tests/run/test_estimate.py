"""What a batch will take is told without a call."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from genbatch import (
    GeminiClient,
    ImageRequest,
    Prompt,
    Success,
    estimate,
    generate_images,
)
from genbatch.gemini import reserved_price
from genbatch.inputs import Selection, read_prompts
from genbatch.testing import FakeGemini, Fault


def test_an_estimate_counts_calls_dollars_and_seconds() -> None:
    plan = estimate(["a", "b", "c"], rate=0.5)
    assert (plan.prompts, plan.done, plan.calls, plan.seconds) == (3, 0, 3, 6.0)
    assert plan.cost == pytest.approx(3 * 0.0336, rel=0.01)


def test_prompts_may_bring_models_and_sizes_of_their_own() -> None:
    prompts = ["a", Prompt("b", image_size="4K"), Prompt("c", model="pro")]
    assert estimate(prompts).cost == pytest.approx(0.0336 + 0.1134 + 0.134, rel=0.01)
    assert estimate(prompts, price=1.0).cost == 3.0
    assert estimate([*prompts, Prompt("d", model="new")]).cost is None
    assert estimate([]).cost == 0.0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="makes 1K only"):
        estimate(["a"], model="lite", image_size="4K")
    with pytest.raises(ValueError, match="rate must be > 0"):
        estimate(["a"], rate=0.0)
    with pytest.raises(TypeError, match="nonsense"):
        estimate(["a"], nonsense=1)


@pytest.mark.anyio
async def test_what_is_there_already_is_not_counted(tmp_path: Path) -> None:
    faults = [None, None, Fault(status=400)]
    async with (
        FakeGemini(image_size=8, faults=faults) as server,
        GeminiClient("a-key", base_url=server.url) as client,
        generate_images(
            client, ["a", "a", "b"], save_dir=tmp_path, max_concurrent=1, thinking="high"
        ) as outcomes,
    ):
        assert len([outcome async for outcome in outcomes]) == 3

    def done(save_dir: Path, **settings: str) -> int:
        return estimate(["new", "b", "a", "a", "a"], save_dir=save_dir, **settings).done

    for save_dir, settings, expected in (
        (tmp_path, {"thinking": "high"}, 2),
        (tmp_path, {}, 0),
        (tmp_path, {"thinking": "high", "namespace": "other"}, 0),
        (tmp_path / "nowhere", {}, 0),
    ):
        assert await to_thread.run_sync(partial(done, save_dir, **settings)) == expected


ROWS = """
{"prompt": "a"}
{"prompt": "b", "model": "pro", "n": 3}
{"prompt": "c", "model": "pro", "image_size": "4K", "seed": 7}
{"prompt": "d", "id": "x", "aspect_ratio": "16:9"}
{"prompt": "e", "model": "new"}
"""


@pytest.mark.parametrize("limit", [0, 1, 3, 5, 6])
@pytest.mark.parametrize("settings", [{}, {"price": 2.0}, {"model": "pro", "image_size": "2K"}])
def test_files_are_counted_without_being_read_again(
    tmp_path: Path, limit: int, settings: dict[str, Any]
) -> None:
    (tmp_path / "a.jsonl").write_text(ROWS)
    prompts = read_prompts([tmp_path / "a.jsonl"], selection=Selection(limit=limit))
    one_by_one = estimate(list(prompts), rate=2.0, **settings)
    (tmp_path / "a.jsonl").unlink()
    counted = estimate(prompts, rate=2.0, **settings)
    assert counted.cost == pytest.approx(one_by_one.cost)
    assert (counted.prompts, counted.seconds) == (limit, one_by_one.seconds)


@pytest.mark.anyio
async def test_files_that_have_images_are_compared_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROWS)
    (tmp_path / "b.jsonl").write_text(ROWS.replace("7", "8"))
    settings = {"seed": 3, "temperature": 0.5, "aspect_ratio": "1:1"}
    async with (
        FakeGemini(image_size=8) as server,
        GeminiClient("a-key", base_url=server.url) as client,
        generate_images(
            client,
            await to_thread.run_sync(lambda: list(read_prompts([tmp_path / "a.jsonl"]))),
            save_dir=tmp_path / "out",
            **settings,
        ) as outcomes,
    ):
        assert all([isinstance(outcome, Success) async for outcome in outcomes])

    def done(name: str, **changed: Any) -> int:
        prompts = read_prompts([tmp_path / name])
        return estimate(prompts, save_dir=tmp_path / "out", **(settings | changed)).done

    assert await to_thread.run_sync(partial(done, "a.jsonl")) == 7
    assert await to_thread.run_sync(partial(done, "b.jsonl")) == 6
    assert await to_thread.run_sync(partial(done, "a.jsonl", seed=4)) == 1
    assert await to_thread.run_sync(partial(done, "a.jsonl", aspect_ratio="3:2")) == 1


def test_what_a_budget_reserves_counts_each_prompt_by_its_length_and_input_images() -> None:
    prompts = ["x" * 1000, Prompt("ä" * 500, images=("a.png", "b.png")), "x" * 900_000]
    text = 1000 + 1000 + 900_000 + 3 * 20
    most = 3 * (0.0336 + 2000 * 7.5e-6) + (text + 2 * 1120) * 1.5e-6
    assert estimate(prompts, reserve=True).reserved == pytest.approx(most)
    assert estimate(prompts).reserved is None
    assert estimate(prompts, reserve=True, price=0.1).reserved == pytest.approx(0.3)
    assert estimate(["a"], reserve=True, model="mine").reserved is None


def test_long_prompts_input_images_tiers_and_sizes_cost_what_they_will() -> None:
    # Per million tokens: $2 of input, $120 of image; a token for four bytes of text.
    long = estimate(["x" * 900_000], model="pro")
    assert long.cost == pytest.approx(0.1344 + 0.45, rel=0.01)
    picture = Prompt("a", images=(b"\x89PNG\r\n\x1a\n",) * 14)
    assert estimate([picture], model="pro").cost == pytest.approx(
        0.1344 + 14 * 1120 * 2e-6, rel=0.01
    )
    large: dict[str, Any] = {"image_config": {"image_size": "4K"}}
    assert estimate(["a"], model="pro", generation_config=large).cost == pytest.approx(
        0.24, rel=0.01
    )


@pytest.mark.parametrize("tier", ["flex", "priority"])
@pytest.mark.parametrize("length", [5, 900_000])
def test_what_is_told_to_be_reserved_is_reserved(tier: str, length: int) -> None:
    config, text = {"service_tier": tier}, "x" * length
    plan = estimate([text], model="pro", generation_config=config, reserve=True)
    request = ImageRequest(text, model="gemini-3-pro-image", generation_config=config)
    assert plan.reserved == reserved_price(request)
