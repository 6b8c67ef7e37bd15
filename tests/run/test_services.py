"""generate_images over clients that are not Gemini's: one method, or a function."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from genbatch import (
    Blocked,
    Budget,
    DamagedImage,
    Failure,
    Image,
    ImageRequest,
    InvalidResponse,
    Prompt,
    RateLimited,
    SavedImage,
    Store,
    Success,
    Throttle,
    estimate,
    generate_images,
)
from genbatch._run import Service, make_takes, plan_takes
from genbatch.testing import FakeGemini
from genbatch.testing._pictures import draw
from support.batch_runs import client_of, kinds, prompts, spent_in

pytestmark = pytest.mark.anyio


def picture(text: str, model: str = "mine") -> bytes:
    return draw(text, model=model, seed=None, width=8, height=8)


class Local:
    """A model of one's own: the least that a client needs."""

    def __init__(self) -> None:
        self.calls: list[ImageRequest] = []

    async def generate_image(self, request: ImageRequest, /) -> Image:
        self.calls.append(request)
        await anyio.lowlevel.checkpoint()
        return Image(picture(request.text), "image/png")


class Priced(Local):
    """One that says what it costs, and what it cannot do."""

    service = "priced"
    default_model = "small"

    def price(self, request: ImageRequest) -> float | None:
        return 0.2 if request.model == "small" else 0.5

    def expected_price(self, request: ImageRequest) -> float | None:
        return 0.1

    def resolve(self, request: ImageRequest, prompt: Any = None) -> ImageRequest:
        if request.image_size == "4K":
            raise ValueError("no 4K here")
        return request

    async def generate_image(self, request: ImageRequest, /) -> Image:
        made = await super().generate_image(request)
        return Image(made.data, made.mime_type, cost=0.15)


async def run(client: Any, wanted: Any, **options: Any) -> list[Any]:
    async with generate_images(client, wanted, ordered=True, **options) as outcomes:
        return [each async for each in outcomes]


async def test_one_method_is_all_that_a_client_needs(tmp_path: Path) -> None:
    client = Local()
    outcomes = await run(client, ["a fox", Prompt("an owl", id="o")], save_dir=tmp_path)
    assert kinds(outcomes) == {"image": 2}
    image = outcomes[0].value
    assert isinstance(image, SavedImage)
    assert await anyio.Path(image.path).read_bytes() == picture("a fox")
    assert (image.mime_type, image.cost) == ("image/png", None)
    assert image.model == outcomes[1].value.model == f"{__name__}.Local"
    assert [each.service for each in client.calls] == [f"{__name__}.Local"] * 2
    again = await run(client, ["a fox", Prompt("an owl", id="o")], save_dir=tmp_path)
    assert all(each.value.resumed for each in again)
    assert len(client.calls) == 2


@pytest.mark.parametrize("as_image", [True, False])
async def test_a_function_gets_the_prompt_and_returns_an_image_or_its_bytes(
    tmp_path: Path, as_image: bool
) -> None:
    got: list[object] = []

    async def generate(prompt: str | Prompt) -> bytes | Image:
        got.append(prompt)
        data = picture(str(prompt))
        return Image(data, "image/png") if as_image else data

    wanted = ["a fox", Prompt("an owl", aspect_ratio="16:9")]
    assert kinds(await run(generate, wanted, save_dir=tmp_path, max_concurrent=1)) == {"image": 2}
    assert got[0] == "a fox"
    assert isinstance(got[1], Prompt)
    assert (got[1].text, got[1].aspect_ratio) == ("an owl", "16:9")
    assert kinds(await run(generate, wanted)) == {"image": 2}  # without a place to save


async def test_a_budget_holds_by_the_price_given(tmp_path: Path) -> None:
    client, budget = Local(), Budget(0.25)
    outcomes = await run(client, prompts(5), save_dir=tmp_path, budget=budget, price=0.1)
    assert kinds(outcomes) == {"image": 2, "BudgetExhausted": 3}
    assert (budget.spent, budget.images) == (pytest.approx(0.2), 2)
    assert [each.value.cost for each in outcomes if isinstance(each, Success)] == [0.1, 0.1]
    assert await spent_in(tmp_path) == (pytest.approx(0.2), 0.0, 2, 0)


async def test_a_budget_in_dollars_needs_a_price() -> None:
    with pytest.raises(ValueError, match="give price=, US dollars an image"):
        generate_images(Local(), ["a fox"], budget=Budget(1.0))


async def test_a_client_that_knows_its_prices_reserves_and_charges_them(tmp_path: Path) -> None:
    budget = Budget(0.5)
    outcomes = await run(Priced(), prompts(5), save_dir=tmp_path, budget=budget, max_concurrent=1)
    # Each reserves 0.20 and costs 0.15: the third has 0.20 left, the fourth has not.
    assert kinds(outcomes) == {"image": 3, "BudgetExhausted": 2}
    assert budget.spent == pytest.approx(0.45)
    assert outcomes[0].value.model == "small"


async def test_a_failure_may_have_been_paid_unless_it_says_otherwise(tmp_path: Path) -> None:
    class Failing(Priced):
        async def generate_image(self, request: ImageRequest, /) -> Image:
            if request.text == "refused":
                raise Blocked("the prompt is refused", reason="SAFETY")
            raise OSError("the pipe is broken")

    budget = Budget(5.0)
    outcomes = await run(Failing(), ["refused", "lost"], save_dir=tmp_path, budget=budget)
    assert kinds(outcomes) == {"Blocked": 1, "OSError": 1}
    assert (budget.spent, budget.maybe_spent) == (0.0, pytest.approx(0.2))
    assert await spent_in(tmp_path) == (0.0, pytest.approx(0.2), 0, 1)
    again = await run(Local(), ["refused"], save_dir=tmp_path)
    assert kinds(again) == {"image": 1}  # another service may make it


async def test_what_its_settings_forbid_fails_before_anything_is_paid(tmp_path: Path) -> None:
    client = Priced()
    with pytest.raises(ValueError, match="no 4K here"):
        generate_images(client, ["a fox"], image_size="4K")
    outcomes = await run(client, [Prompt("a fox", image_size="4K"), "an owl"], save_dir=tmp_path)
    assert kinds(outcomes) == {"ValueError": 1, "image": 1}
    assert len(client.calls) == 1


@pytest.mark.parametrize("own", [True, False])
async def test_a_rejected_call_waits_in_the_throttle_of_its_model(own: bool) -> None:
    throttles: dict[str, Throttle] = {}
    rejected = Counter[str]()

    class Limited(Local):
        async def generate_image(self, request: ImageRequest, /) -> Image:
            rejected[request.text] += 1
            if rejected[request.text] == 1:
                raise RateLimited("too many", retry_after=0.01)
            return await super().generate_image(request)

    class WithThrottle(Limited):
        def throttle(self, model: str) -> Throttle:
            return throttles.setdefault(model, Throttle())

    client = WithThrottle() if own else Limited()
    assert kinds(await run(client, prompts(3), max_concurrent=1)) == {"image": 3}
    assert sorted(rejected.values()) == [2, 2, 2]
    assert [each.episodes > 0 for each in throttles.values()] == [True][:own]


async def test_what_is_no_image_is_kept_and_not_asked_again(tmp_path: Path) -> None:
    async def generate(prompt: str) -> bytes:
        return b"<html>"

    for _ in range(2):
        [outcome] = await run(generate, ["a fox"], save_dir=tmp_path, price=0.1)
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, DamagedImage)
    [kept] = [each async for each in anyio.Path(tmp_path / "damaged").glob("*")]
    assert await kept.read_bytes() == b"<html>"
    assert (await spent_in(tmp_path))[:1] == (pytest.approx(0.1),)


async def test_no_bytes_may_have_been_paid(tmp_path: Path) -> None:
    async def generate(prompt: str) -> bytes:
        return b""

    [outcome] = await run(generate, ["a fox"], save_dir=tmp_path, price=0.1)
    assert type(outcome.error) is InvalidResponse
    assert await spent_in(tmp_path) == (0.0, pytest.approx(0.1), 0, 1)


async def test_another_type_is_its_prompts_failure() -> None:
    async def generate(prompt: str) -> Any:
        return 7

    [outcome] = await run(generate, ["a fox"])
    assert "must return an Image or bytes, got int" in str(outcome.error)
    with pytest.raises(TypeError, match="must have a generate_image, got int"):
        generate_images(7, ["a fox"])  # type: ignore[call-overload]


async def test_two_services_never_share_an_image(tmp_path: Path) -> None:
    async with FakeGemini(image_size=8) as fake, client_of(fake) as gemini:
        for client in (gemini, Local(), Priced(), gemini):
            assert kinds(await run(client, ["a fox"], save_dir=tmp_path)) == {"image": 1}
        assert fake.stats.calls == 1
    assert len(list(tmp_path.glob("*.png"))) == 3


async def test_takes_and_estimates_are_of_any_client(tmp_path: Path) -> None:
    client = Priced()
    estimated = partial(estimate, prompts(3), client=client, save_dir=tmp_path, reserve=True)
    plan = await anyio.to_thread.run_sync(estimated)
    assert (plan.calls, plan.cost, plan.reserved) == (3, pytest.approx(0.3), pytest.approx(0.6))
    assert kinds(await run(client, prompts(3), save_dir=tmp_path)) == {"image": 3}
    assert (await anyio.to_thread.run_sync(estimated)).calls == 0
    async with Store(tmp_path) as store:
        takes = await plan_takes(client, store, [1], text="a hen")
        async with make_takes(client, store, takes) as outcomes:
            assert [type(each) async for each in outcomes] == [Success]
    assert client.calls[-1].text == "a hen"


async def test_images_that_come_are_saved_whatever_is_cancelled(tmp_path: Path) -> None:
    came = anyio.Event()

    class Slow(Local):
        async def generate_image(self, request: ImageRequest, /) -> Image:
            image = await super().generate_image(request)
            came.set()
            return image

    with anyio.CancelScope() as scope:
        async with generate_images(Slow(), prompts(1), save_dir=tmp_path):
            await came.wait()
            scope.cancel()
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_a_service_is_named_after_its_class_or_function() -> None:
    async def generate(prompt: str) -> bytes:
        return b""

    assert Service(Local()).name == f"{__name__}.Local"
    assert Service(Priced).name == "priced"
    assert Service(generate).name.endswith("generate")
