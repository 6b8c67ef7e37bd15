"""What clients of one's own return and say: nothing of it loses an image, or breaks a budget."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import anyio
import anyio.lowlevel
import pytest

from genbatch import (
    Budget,
    DamagedImage,
    Image,
    ImageRequest,
    Prompt,
    RateLimited,
    generate_images,
)
from genbatch._store import verify
from genbatch.testing._pictures import draw
from support.batch_runs import kinds, prompts, spent_in

pytestmark = pytest.mark.anyio

PNG = draw("a fox", model="mine", seed=None, width=8, height=8)


class Returning:
    """Returns what it is given."""

    service = "returning"

    def __init__(self, made: object) -> None:
        self.made = made
        self.calls = 0

    async def generate_image(self, request: ImageRequest, /) -> Any:
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class Paying(Returning):
    """Makes attempts of its own."""

    says = True

    async def generate_image(self, request: ImageRequest, /, *, budget: Any, price: Any) -> Any:
        async with budget.attempt(0.02, request.model) as attempt:
            made = await super().generate_image(request)
            if self.says:
                attempt.paid(None)
        return made


class Silent(Paying):
    """Makes attempts, and says nothing of them."""

    says = False


CLIENTS = pytest.mark.parametrize("client", [Returning, Paying, Silent])


async def run(client: Any, wanted: Any, **options: Any) -> list[Any]:
    async with generate_images(client, wanted, ordered=True, **options) as outcomes:
        return [each async for each in outcomes]


@CLIENTS
@pytest.mark.parametrize("cost", [None, "0.01", -1.0, math.nan, math.inf, Decimal("0.01"), 0])
async def test_what_a_budget_counts_is_what_the_folder_says(
    tmp_path: Path, client: type[Returning], cost: object
) -> None:
    budget = Budget(1.0)
    made = Image(PNG, "image/png", cost=cost)  # type: ignore[arg-type]
    outcomes = await run(client(made), prompts(3), save_dir=tmp_path, budget=budget, price=0.02)
    assert kinds(outcomes) == {"image": 3}
    assert (budget.images, budget.maybe_images) == (3, 0)
    spent = await spent_in(tmp_path)
    assert (spent.images, spent.maybe_images) == (3, 0)
    assert spent.usd == pytest.approx(budget.spent)
    # The price that was given wins, and what a client says of its attempts.
    assert budget.spent == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("price", "error", "message"),
    [
        (-1.0, ValueError, "price must be >= 0 US dollars, got -1"),
        (math.nan, ValueError, "price must be >= 0 US dollars, got nan"),
        (math.inf, ValueError, "price must be >= 0 US dollars, got inf"),
        ("0.01", TypeError, "price must be a number, got str"),
    ],
)
async def test_a_price_that_is_none_is_refused_before_any_call(
    price: Any, error: type[Exception], message: str
) -> None:
    client = Returning(PNG)
    with pytest.raises(error, match=message):
        generate_images(client, prompts(1), price=price)
    client.price = lambda request: price  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="price of returning must be >= 0 US dollars"):
        generate_images(client, prompts(1), budget=Budget(1.0))
    assert client.calls == 0


@pytest.mark.parametrize("made", ["text", None, 7, Image("text", "image/png")])  # type: ignore[arg-type]
@CLIENTS
async def test_a_client_that_makes_no_images_is_asked_once(
    tmp_path: Path, client: type[Returning], made: object
) -> None:
    it = client(made)
    outcomes = await run(it, prompts(20), save_dir=tmp_path, max_concurrent=1)
    assert kinds(outcomes) == {"Stopped": 20}
    assert "returning must return an Image or bytes, got " in str(outcomes[0].error)
    assert it.calls == 1


async def test_a_function_that_is_not_async_is_called_once() -> None:
    asked: list[object] = []

    def sync(prompt: object) -> bytes:
        asked.append(prompt)
        return PNG

    outcomes = await run(sync, prompts(20), max_concurrent=1)
    assert kinds(outcomes) == {"Stopped": 20}
    assert "must be async: it returned bytes" in str(outcomes[0].error)
    assert len(asked) == 1


@pytest.mark.parametrize("made", [bytearray(PNG), memoryview(PNG), Image(bytearray(PNG), "")])  # type: ignore[arg-type]
@CLIENTS
async def test_bytes_of_any_kind_are_an_image(
    tmp_path: Path, client: type[Returning], made: object
) -> None:
    [outcome] = await run(client(made), prompts(1), save_dir=tmp_path)
    assert await anyio.Path(outcome.unwrap().path).read_bytes() == PNG


@pytest.mark.parametrize("data", [PNG[:-20], PNG[:8], b"hello"])
@CLIENTS
async def test_what_is_no_whole_image_is_kept_aside_and_counts_as_paid(
    tmp_path: Path, client: type[Returning], data: bytes
) -> None:
    budget = Budget(1.0)
    it = client(Image(data, "image/png"))
    [outcome] = await run(it, prompts(1), save_dir=tmp_path, budget=budget, price=0.02)
    assert isinstance(outcome.error, DamagedImage)
    [kept] = [each async for each in anyio.Path(tmp_path / "damaged").iterdir()]
    assert await kept.read_bytes() == data
    assert (budget.images, budget.spent) == (1, pytest.approx(0.02))
    assert (await spent_in(tmp_path)).usd == pytest.approx(0.02)


@pytest.mark.parametrize(
    "beside",
    [
        {"mime_type": "image/jpeg"},
        {"mime_type": "strange"},
        {"usage": {"tokens": 7}},
        {"response_id": 1 << 80},
        {"model": 7},
        {"text": None},
        {"extras": (Image(b"", ""), "text")},
        {"extras": None},
    ],
    ids=str,
)
@CLIENTS
async def test_what_stands_beside_an_image_never_loses_it(
    tmp_path: Path, client: type[Returning], beside: dict[str, Any]
) -> None:
    made = Image(**{"data": PNG, "mime_type": "image/png", **beside})
    [outcome] = await run(client(made), prompts(1), save_dir=tmp_path)
    assert outcome.unwrap().path.suffix == ".png"
    assert await anyio.to_thread.run_sync(lambda: list(verify(tmp_path))) == []


@CLIENTS
async def test_an_extra_that_is_no_image_is_kept_aside(
    tmp_path: Path, client: type[Returning]
) -> None:
    made = Image(PNG, "", extras=(Image(PNG[:20], ""), Image(PNG, "")))
    budget = Budget(1.0)
    [outcome] = await run(client(made), prompts(1), save_dir=tmp_path, budget=budget, price=0.02)
    saved = outcome.unwrap()
    assert (len(saved.extras), len(saved.damaged)) == (1, 1)


async def test_each_request_is_checked_before_it_is_paid() -> None:
    def check(request: ImageRequest) -> None:
        if request.text == "no":
            raise ValueError("not this one")

    client = Returning(PNG)
    client.check = check  # type: ignore[attr-defined]
    budget = Budget()
    outcomes = await run(client, ["yes", "no"], budget=budget)
    assert kinds(outcomes) == {"image": 1, "ValueError": 1}
    assert (client.calls, budget.images, budget.maybe_images) == (1, 1, 0)


async def test_a_function_may_have_a_parameter_named_budget() -> None:
    async def generate(prompt: str | Prompt, budget: int = 3) -> bytes:
        assert (prompt, budget) == ("a fox", 3)
        return PNG

    assert kinds(await run(generate, ["a fox"])) == {"image": 1}


async def test_an_error_is_seen_through_the_groups_of_tasks_around_it() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("tasks", [RateLimited("wait")])])
    client = Returning(group)

    async def generate_image(request: ImageRequest, /) -> bytes:
        client.calls += 1
        if client.calls == 1:
            raise group
        return PNG

    client.generate_image = generate_image  # type: ignore[method-assign,assignment]
    assert kinds(await run(client, ["a fox"])) == {"image": 1}
    assert client.calls == 2


def test_a_mock_is_no_client() -> None:
    with pytest.raises(TypeError, match="service must be a str, got MagicMock"):
        generate_images(MagicMock(), prompts(1))


@pytest.mark.parametrize(
    ("cost", "counted"),
    [("0.01", 0.02), (-1.0, 0.02), (math.nan, 0.02), (Decimal("0.01"), 0.01), (0, 0.0)],
)
async def test_a_cost_that_is_told_counts_if_it_is_an_amount(
    tmp_path: Path, cost: object, counted: float
) -> None:
    client = Returning(Image(PNG, "image/png", cost=cost))  # type: ignore[arg-type]
    client.price = lambda request: 0.02  # type: ignore[attr-defined]
    budget = Budget(1.0)
    assert kinds(await run(client, prompts(1), save_dir=tmp_path, budget=budget)) == {"image": 1}
    assert budget.spent == pytest.approx(counted)
    assert (await spent_in(tmp_path)).usd == pytest.approx(counted)
