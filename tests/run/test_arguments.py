"""A mistake in an argument is told at the call, in a line that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import genbatch
from genbatch import Budget, GeminiClient, Throttle, batch_api, estimate, generate_images


def batch(**options: Any) -> Callable[[], Any]:
    def make() -> Any:
        given = {"client": GeminiClient("a-key"), "prompts": ["a cup"]} | options
        return generate_images(given.pop("client"), given.pop("prompts"), **given)

    return make


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (batch(budget=5), "budget must be a Budget, got int: give Budget(usd=...)"),
        (batch(price="5"), "price must be a number, got str"),
        (batch(store="out"), "store must be a Store, got str: for a directory, give save_dir="),
        (batch(save_dir=3), "save_dir must be a path, got int"),
        (
            batch(client=3),
            "client must have a generate_image, got int: pass a client, such as an open "
            "GeminiClient, or an async function",
        ),
        (
            batch(prompts="a cup"),
            "prompts must be an iterable of prompts, not a single string: put it in a list",
        ),
        (
            batch(prompts=genbatch.Prompt("a cup")),
            "prompts must be an iterable, got Prompt: put it in a list",
        ),
        (batch(namespace=3), "namespace must be a str, got int"),
        (batch(prompt_column=0), "prompt_column must be a str, got int"),
        (batch(model=3), "model must be a str, got int"),
        (batch(model=None), "model must be a str, got NoneType"),
        (batch(seed="7"), "seed must be an int, got str"),
        (batch(temperature="hot"), "temperature must be a number, got str"),
        (batch(thinking=True), "thinking must be a str, got bool"),
        (batch(aspect_ratio=1), "aspect_ratio must be a str, got int"),
        (batch(system_instruction=4), "system_instruction must be a str, got int"),
        (
            batch(client=GeminiClient),
            "client must be an open client, got the class GeminiClient: pass GeminiClient()",
        ),
        (lambda: estimate(["a cup"], price="5"), "price must be a number, got str"),
        (lambda: Budget("5"), "usd must be a number, got str"),  # type: ignore[arg-type]
        (lambda: Budget(max_images=2.5), "max_images must be an int, got float"),  # type: ignore[arg-type]
        (lambda: Budget(spent=None), "spent must be a number, got NoneType"),  # type: ignore[arg-type]
        (lambda: Throttle(patience="5"), "patience must be a number, got str"),  # type: ignore[arg-type]
        (lambda: Throttle(capacity=True), "capacity must be an int, got bool"),
        (lambda: GeminiClient(3), "api_key must be a str, got int"),  # type: ignore[arg-type]
        (lambda: GeminiClient("k", timeout="9"), "timeout must be a number, got str"),  # type: ignore[arg-type]
        (lambda: GeminiClient("k", max_retries="3"), "max_retries must be an int, got str"),  # type: ignore[arg-type]
        (
            lambda: batch_api.generate_images(GeminiClient, ["a cup"], save_dir="out"),  # type: ignore[arg-type]
            "client must be an open client, got the class GeminiClient: pass GeminiClient()",
        ),
    ],
)
def test_an_argument_of_another_type_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


def test_a_price_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"^price must be >= 0 US dollars, got -5$"):
        batch(price=-5)()
    assert genbatch.estimate(["a cup"], price=0).cost == 0
