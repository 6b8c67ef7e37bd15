"""The model table: ids, what each model can do, and what an image costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from genbatch._values import ImageRequest, Prompt, Usage, asked_size
from genbatch.gemini import resolve
from genbatch.gemini._models import (
    MODELS,
    Model,
    advice,
    check_settings,
    cost,
    makes_images,
    model_id,
    price,
    reserved_price,
)

FLASH, PRO, LITE = "gemini-nano-banana-2.1", "gemini-3-pro-image", "gemini-3.1-flash-lite-image"


def check(model: str, **settings: Any) -> None:
    nothing = {"aspect_ratio": None, "image_size": None, "thinking": None}
    check_settings(model, **{**nothing, **settings})


def test_aliases_stand_for_full_ids_and_other_ids_pass_through() -> None:
    assert model_id("flash") == FLASH
    assert model_id("pro") == PRO
    assert model_id("lite") == LITE
    assert model_id("gemini-9-image-preview_1.0") == "gemini-9-image-preview_1.0"
    assert model_id("tunedModels/mine") == "tunedModels/mine"
    assert model_id("models/gemini-9-image") == "gemini-9-image"
    assert model_id(f"models/{FLASH}") == FLASH
    assert model_id("models/pro") == PRO


@pytest.mark.parametrize(
    "model", ["", " flash", "a/../b", "a..b", "a?key=1", "a#b", "a b", "/a", "a\n"]
)
def test_what_cannot_be_a_model_id_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match="not a model id"):
        model_id(model)


@pytest.mark.parametrize("known", MODELS, ids=lambda known: known.alias)
def test_what_the_table_lists_is_let_through(known: Model) -> None:
    check(known.id)
    for size in known.image_sizes:
        check(known.id, image_size=size)
    for ratio in known.aspect_ratios:
        check(known.id, aspect_ratio=ratio)
    for level in known.thinking:
        check(known.id, thinking=level)


def test_aspect_ratios_are_those_documented() -> None:
    assert {known.alias: len(set(known.aspect_ratios)) for known in MODELS} == {
        "flash": 14,
        "pro": 10,
        "lite": 14,
    }


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (LITE, {"image_size": "4K"}, f"{LITE} makes 1K only, got image_size='4K'"),
        (FLASH, {"image_size": "2k"}, f"{FLASH} makes 1K, 2K or 4K, got image_size='2k'"),
        (FLASH, {"aspect_ratio": "7:5"}, "1:4, 1:8, 4:1 or 8:1, got aspect_ratio='7:5'"),
        (PRO, {"aspect_ratio": "1:8"}, "9:16, 16:9 or 21:9, got aspect_ratio='1:8'"),
        (PRO, {"aspect_ratio": 16}, "got aspect_ratio=16"),
        (FLASH, {"thinking": "low"}, "thinks minimal, medium or high, got thinking='low'"),
        (LITE, {"thinking": "medium"}, "thinks minimal or high, got thinking='medium'"),
        (PRO, {"thinking": "high"}, f"{PRO} takes no thinking, got 'high'"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(
    model: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="got") as caught:
        check(model, **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "thinking"),
    [("pro", None), ("lite", None), ("flash", "medium"), ("gemini-9", "medium")],
)
def test_thinking_for_all_is_left_out_where_a_prompts_own_model_has_no_such_level(
    model: str, thinking: str | None
) -> None:
    prompt = Prompt("a cup", model=model)
    request = ImageRequest("any", thinking="medium").with_prompt(prompt)
    assert resolve(request, prompt).thinking == thinking
    if thinking is None:
        with pytest.raises(ValueError, match=r"got .*medium"):
            resolve(request)  # asked of that very model
    with pytest.raises(ValueError, match=r"got .*deep"):
        resolve(replace(request, model="pro", thinking="deep"), prompt)  # of no model


def test_size_that_is_asked_for_is_found_wherever_it_is_given() -> None:
    configs: list[Any] = [None, {}, {"image_config": None}, {"imageConfig": 7}, {"imageConfig": {}}]
    assert [asked_size(ImageRequest("x", generation_config=each)) for each in configs] == [None] * 5
    config = {"image_config": {"imageSize": "2K"}}
    assert asked_size(ImageRequest("x", generation_config=config)) == "2K"
    assert asked_size(ImageRequest("x", generation_config=config, image_size="4K")) == "4K"


def test_one_candidate_and_no_more_may_be_asked_for_of_any_model() -> None:
    resolve(ImageRequest("a cup", generation_config={"candidateCount": 1}))
    with pytest.raises(ValueError, match=r"^candidate_count must be 1, got 3: "):
        resolve(ImageRequest("a cup", model="gemini-9", generation_config={"candidate_count": 3}))


def test_model_that_is_not_in_the_table_is_not_checked() -> None:
    check("gemini-9-image", image_size="16K", aspect_ratio="100:1", thinking="deeply")


def test_alias_is_checked_as_the_model_it_stands_for() -> None:
    request = ImageRequest("a cup", model="flash", image_size="4K")
    assert resolve(request) == replace(request, model=FLASH)
    with pytest.raises(ValueError, match="makes 1K only"):
        resolve(replace(request, model="lite"))


def test_generation_config_must_be_a_mapping() -> None:
    with pytest.raises(TypeError, match=r"^generation_config must be a mapping, got list$"):
        resolve(ImageRequest("a cup", generation_config=[]))  # type: ignore[arg-type]


# Worked out by hand from the published prices a million tokens: flash $1.50 in, $7.50 for thoughts,
# $30 for images; pro $2, $12, $120; lite $0.25, $1.50, $30. An input image is 1,120 tokens.
@pytest.mark.parametrize(
    ("model", "image_tokens", "thoughts", "prompt_tokens", "expected"),
    [
        (FLASH, 1120, 0, 0, 0.0336),
        (FLASH, 1120, 0, 1120, 0.03528),
        (FLASH, 1120, 400, 2240, 0.03996),
        (FLASH, 1680, 0, 0, 0.0504),
        (FLASH, 1680, 400, 1120, 0.05508),
        (FLASH, 3780, 0, 0, 0.1134),
        (FLASH, 3780, 400, 0, 0.1164),
        (FLASH, 3780, 2000, 15680, 0.15192),
        (PRO, 1120, 0, 0, 0.1344),
        (PRO, 1120, 337, 0, 0.138444),
        (PRO, 1120, 337, 1120, 0.140684),
        (PRO, 2000, 0, 0, 0.24),
        (PRO, 2000, 2000, 15680, 0.29536),
        (LITE, 1120, 0, 0, 0.0336),
        (LITE, 1120, 400, 0, 0.0342),
        (LITE, 1120, 400, 15680, 0.03812),
    ],
)
def test_cost_is_the_sum_of_what_each_kind_of_token_costs(
    model: str, image_tokens: int, thoughts: int, prompt_tokens: int, expected: float
) -> None:
    usage = Usage(prompt_tokens, image_tokens, thought_tokens=thoughts)
    assert cost(model, usage) == pytest.approx(expected, abs=1e-9)


def test_text_beside_an_image_is_not_charged_as_an_image() -> None:
    usage = Usage(0, 1120 + 100, text_tokens=100)
    assert cost(FLASH, usage) == pytest.approx(0.0336 + 0.00075)


def test_cost_is_known_where_prices_are() -> None:
    usage = Usage(prompt_tokens=100, output_tokens=1120, total_tokens=1220)
    assert cost(FLASH, usage) == pytest.approx(0.0336 + 0.00015)
    assert cost(FLASH, None) is None
    assert cost("gemini-9-image", usage) is None


@pytest.mark.parametrize(
    ("model", "image_size", "expected"),
    [
        ("flash", None, 0.0336),
        (FLASH, "1K", 0.0336),
        ("flash", "2K", 0.0504),
        ("flash", "4K", 0.1134),
        ("flash", "8K", None),
        ("pro", None, 0.134),
        ("pro", "2K", 0.134),
        (PRO, "4K", 0.24),
        ("lite", None, 0.0336),
        ("gemini-9-image", "1K", None),
    ],
)
def test_price_is_that_of_an_image_and_a_little_for_its_prompt(
    model: str, image_size: str | None, expected: float | None
) -> None:
    assert price(model, image_size) == (expected and pytest.approx(expected, abs=0.001))
    if model == "flash" and expected:
        assert price(model, image_size) > expected  # type: ignore[operator]


# By hand, as above, with 2,000 tokens of thoughts, and 20 tokens beside one a byte of the prompt.
@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (FLASH, {}, 0.0336 + 0.015 + 0.0000375),
        (FLASH, {"text": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 5}, 0.0336 + 0.015 + 0.000045),
        (FLASH, {"text": "x" * 900_000}, 0.0336 + 0.015 + 1.35003),
        (FLASH, {"system_instruction": "x" * 1000}, 0.0336 + 0.015 + 0.0015375),
        (FLASH, {"images": (b"",) * 14}, 0.0336 + 0.015 + 0.0000375 + 0.02352),
        (FLASH, {"image_size": "2K"}, 0.0504 + 0.015 + 0.0000375),
        (FLASH, {"image_size": "4K"}, 0.1134 + 0.015 + 0.0000375),
        (FLASH, {"image_size": "8K"}, None),
        (PRO, {}, 0.1344 + 0.024 + 0.00005),
        (PRO, {"image_size": "4K"}, 0.24 + 0.024 + 0.00005),
        (LITE, {}, 0.0336 + 0.003 + 0.00000625),
        ("gemini-9-image", {}, None),
    ],
)
def test_reserved_price_has_room_for_prompt_images_and_thoughts(
    model: str, settings: dict[str, Any], expected: float | None
) -> None:
    request = ImageRequest(**{"text": "a cat", "model": model, **settings})
    assert reserved_price(request) == (expected and pytest.approx(expected, abs=1e-9))


@pytest.mark.parametrize("name", ["imageSize", "image_size"])
def test_reserved_price_has_room_for_what_a_generation_config_may_ask_for(name: str) -> None:
    config: dict[str, Any] = {"imageConfig": {name: "4K"}, "systemInstruction": "x" * 1000}
    request = ImageRequest("a cat", model=FLASH, generation_config=config)
    plain = replace(request, generation_config={"topP": 0.5})
    reserved, usual = reserved_price(request), reserved_price(plain)
    assert reserved is not None
    assert reserved > 0.1134 + 0.015 + 0.0015
    assert usual is not None
    assert usual < 0.0336 + 0.015 + 0.0001


def test_price_of_what_cannot_be_a_model_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="not a model id"):
        price("a b")


def test_only_models_whose_ids_tell_make_images() -> None:
    known = [FLASH, PRO, "gemini-9-image-preview", "nano-banana-9"]
    assert [model for model in (*known, "gemini-9-flash") if makes_images(model)] == known


def test_model_of_the_table_and_no_model_at_all_get_no_advice() -> None:
    assert advice(FLASH) is None
    assert advice("the service") is None
    assert advice("imagen-3") == f"was shut down: use 'flash' ({FLASH})"
