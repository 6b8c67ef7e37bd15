"""What is paid is what counts: in the budget, in the folder, and for the next run.

The figures are the published ones, as literals: an image of flash is $0.0336, and is expected to
cost no more than $0.06 with its prompt and thoughts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from genbatch import Budget, Failure, Prompt, Store, generate_images
from genbatch._money import Overrun
from genbatch._store import verify
from genbatch.testing import Call, FakeGemini, Fault, not_an_image, several_images
from support.archives import begin, image, opened, plan_all
from support.batch_runs import Got, client_of, images, kinds, prompts, run, spent_in
from support.till import Till

pytestmark = pytest.mark.anyio

LEAST, MOST = 0.0336, 0.06
PAIR = several_images(2)


def with_usage(**counts: object) -> Fault:
    """Return an answer with an image that says these numbers of tokens were billed."""

    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer.pop("usageMetadata", None)
        return answer | ({"usageMetadata": counts} if counts else {})

    return Fault(edit=edit)


def with_text(tokens: int) -> Fault:
    details = [{"modality": "TEXT", "tokenCount": tokens}]
    counts = {"promptTokenCount": 5, "candidatesTokenCount": 1120}
    return with_usage(**counts, candidatesTokensDetails=details)


def told(prompt: int, output: int, thoughts: int = 0) -> Fault:
    return with_usage(
        promptTokenCount=prompt, candidatesTokenCount=output, thoughtsTokenCount=thoughts
    )


# Numbers that no answer with one image of 1,120 tokens can have.
IMPLAUSIBLE = {
    "a token of image": told(5, 1),
    "half an image": told(5, 700),
    "three images": told(5, 3360),
    "a novel": told(5, 1_900_000),
    "no prompt": told(0, 1120),
    "a library as prompt": told(1_900_000, 1120),
    "thoughts without end": told(5, 1120, 1_900_000),
    "text but for a token": with_text(1119),
}
UNKNOWN = {
    **IMPLAUSIBLE,
    "missing": with_usage(),
    "negative": with_usage(promptTokenCount=-5_000_000, candidatesTokenCount=1120),
    "huge": with_usage(promptTokenCount=5, candidatesTokenCount=2_000_001),
    "no tokens of an image": with_usage(promptTokenCount=5, candidatesTokenCount=0),
    "text": with_usage(promptTokenCount="5", candidatesTokenCount=1120),
    "a pair": Fault(edit=lambda answer: with_usage().edit(PAIR.edit(answer))),  # type: ignore[misc]
}
unknown = pytest.mark.parametrize("fault", UNKNOWN.values(), ids=UNKNOWN)


async def run_live(fake: FakeGemini, directory: Path, wanted: Any, **options: Any) -> Got:
    async with (
        client_of(fake) as client,
        generate_images(client, wanted, save_dir=directory, **options) as outcomes,
    ):
        return [each async for each in outcomes]


@unknown
async def test_what_is_not_told_counts_as_it_was_reserved(tmp_path: Path, fault: Fault) -> None:
    budget = Budget(10.0)
    async with FakeGemini(image_size=8, faults=lambda call: fault) as fake:
        outcomes = await run_live(fake, tmp_path, prompts(3), budget=budget)
        billed = fake.stats.images
    assert kinds(outcomes) == {"image": 3}
    assert LEAST * billed <= budget.spent <= MOST * billed
    assert sum(image.cost or 0.0 for image in images(outcomes)) == pytest.approx(budget.spent)
    spent = await spent_in(tmp_path)
    assert spent.usd == pytest.approx(budget.spent, abs=1e-9)
    assert spent[1:] == (0.0, billed, 0)


@unknown
async def test_the_same_in_a_job_counts_half(tmp_path: Path, fault: Fault) -> None:
    budget = Budget(10.0)
    async with FakeGemini(image_size=8, faults=lambda call: fault) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), budget=budget)
        billed = fake.stats.images
    assert kinds(outcomes) == {"image": 3}
    assert LEAST / 2 * billed <= budget.spent <= MOST / 2 * billed
    spent = await spent_in(tmp_path)
    assert spent.usd == pytest.approx(budget.spent, abs=1e-9)
    assert spent[1:] == (0.0, billed, 0)


@pytest.mark.parametrize("by", [run, run_live])
async def test_a_damaged_image_counts_as_it_was_reserved(
    tmp_path: Path, by: Callable[..., Any]
) -> None:
    budget, share = Budget(10.0), 1 if by is run_live else 2
    async with FakeGemini(image_size=8, faults=lambda call: not_an_image()) as fake:
        outcomes = await by(fake, tmp_path, prompts(2), budget=budget)
    assert kinds(outcomes) == {"DamagedImage": 2}
    assert 2 * LEAST / share <= budget.spent <= 2 * MOST / share
    spent = await spent_in(tmp_path)
    assert spent.usd == pytest.approx(budget.spent, abs=1e-9)
    assert spent[1:] == (0.0, 2, 0)


async def test_images_of_a_model_without_a_price_have_no_cost(tmp_path: Path) -> None:
    async with FakeGemini(image_size=8) as fake:
        outcomes = await run_live(fake, tmp_path, prompts(1), model="mine")
    assert [image.cost for image in images(outcomes)] == [None]
    assert await spent_in(tmp_path) == (0.0, 0.0, 1, 0)


@pytest.mark.parametrize("by", [run, run_live])
async def test_a_price_is_that_of_an_image_not_of_an_answer(
    tmp_path: Path, by: Callable[..., Any]
) -> None:
    budget, each = Budget(10.0), 0.1 if by is run_live else 0.05
    faults = lambda call: PAIR if "number 0" in call.prompt else None  # noqa: E731
    async with FakeGemini(image_size=8, faults=faults) as fake:
        outcomes = await by(fake, tmp_path, prompts(2), budget=budget, price=0.1)
    costs = [image.cost for image in images(sorted(outcomes, key=lambda each: each.index))]
    assert costs == pytest.approx([2 * each, each])
    assert (budget.images, budget.spent) == (3, pytest.approx(3 * each))
    assert await spent_in(tmp_path) == (pytest.approx(3 * each), 0.0, 3, 0)


async def test_a_damaged_image_beside_a_whole_one_has_its_price(tmp_path: Path) -> None:
    def spoil(answer: dict[str, Any]) -> dict[str, Any]:
        assert PAIR.edit is not None
        answer = PAIR.edit(answer)
        answer["candidates"][0]["content"]["parts"][-1]["inlineData"]["data"] = "AAAA"
        return answer

    budget = Budget(10.0)
    async with FakeGemini(image_size=8, faults=[Fault(edit=spoil)]) as fake:
        outcomes = await run_live(fake, tmp_path, prompts(1), budget=budget, price=0.1)
    assert kinds(outcomes) == {"image": 1}
    assert budget.spent == pytest.approx(0.2)
    assert (await spent_in(tmp_path)).usd == pytest.approx(0.2)


async def test_most_images_are_images_not_answers(tmp_path: Path) -> None:
    budget = Budget(max_images=4)
    async with FakeGemini(image_size=8, faults=lambda call: PAIR) as fake:
        outcomes = await run_live(fake, tmp_path, prompts(5), budget=budget, max_concurrent=1)
        assert fake.stats.images == 4
    assert kinds(outcomes) == {"image": 2, "BudgetExhausted": 3}
    assert "max_images of 4 is reached: 4 images" in str(
        next(each.error for each in outcomes if isinstance(each, Failure))
    )
    assert (await spent_in(tmp_path)).images == budget.images == 4


async def test_pairs_that_an_earlier_run_left_in_a_job_count_twice(tmp_path: Path) -> None:
    async with FakeGemini(image_size=8, faults=lambda call: PAIR, job_latency=0.2) as fake:
        with anyio.CancelScope() as scope:
            watch = lambda line: scope.cancel() if line.endswith("1 pending") else None  # noqa: E731
            await run(fake, tmp_path, prompts(2), watch=watch)
        budget = Budget(10.0)
        assert kinds(await run(fake, tmp_path, prompts(2), budget=budget)) == {"image": 2}
    assert (budget.images, budget.maybe_images) == (4, 0)
    assert budget.spent == pytest.approx(4 * LEAST / 2, rel=0.01)
    assert await spent_in(tmp_path) == (pytest.approx(budget.spent), 0.0, 4, 0)


async def budget_after(directory: Path, usd: float) -> Budget:
    """Return a budget that counts what earlier runs into a directory have paid, and brought."""
    budget = Budget(usd)
    if directory.exists():
        async with Store(directory) as store:
            overruns = await store.run_in_thread(store.archive.overruns)
        for model, *overrun in overruns:
            budget.expect(model, Overrun(*overrun))
        spent = await spent_in(directory)
        budget.spent, budget.maybe_spent, budget.images, budget.maybe_images = spent
    return budget


WANTED = [
    Prompt("a fox"),
    Prompt("x" * 30_000),
    Prompt("a hen", images=(b"\x89PNG\r\n\x1a\n a picture",) * 14),
    Prompt("an owl", image_size="4K"),
    Prompt("a cat", image_size="2K"),
    Prompt("x" * 900_000),
]


@pytest.mark.parametrize("model", ["flash", "pro"])
@pytest.mark.parametrize("by", [run, run_live])
async def test_no_number_of_runs_pays_more_than_the_budget(
    tmp_path: Path, by: Callable[..., Any], model: str
) -> None:
    out = tmp_path / "out"
    till = Till([Fault(), *list(UNKNOWN.values())[:-1]])
    async with FakeGemini(image_size=4, faults=till.fault) as fake:
        for _ in range(3):
            budget = await budget_after(out, 0.5)
            await by(fake, out, WANTED, model=model, budget=budget, max_concurrent=3)
            assert 0 < till.billed <= 0.5
            spent = await spent_in(out)
            assert till.billed - 1e-9 <= spent.usd + spent.maybe_usd <= 0.5 + 1e-9
            assert (budget.spent, budget.maybe_spent) == (
                pytest.approx(spent.usd),
                pytest.approx(spent.maybe_usd),
            )


@pytest.mark.parametrize("by", [run, run_live])
async def test_status_is_the_bill_where_answers_tell_it(
    tmp_path: Path, by: Callable[..., Any]
) -> None:
    till = Till()
    async with FakeGemini(image_size=4, faults=till.fault) as fake:
        assert kinds(await by(fake, tmp_path, WANTED[:5], budget=Budget(9.0))) == {"image": 5}
    assert (await spent_in(tmp_path)).usd == pytest.approx(till.billed, abs=1e-6)


async def test_pairs_of_images_exceed_a_budget_by_the_first_calls_in_flight_at_most(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    till = Till([PAIR], [0])

    def fault(call: Call) -> Fault:
        plain = till.fault(call)

        def edit(answer: dict[str, Any]) -> dict[str, Any]:
            till.billed += 0.0336  # of the second image
            assert plain.edit is not None
            return plain.edit(answer)

        return Fault(edit=edit)

    async with FakeGemini(image_size=4, faults=fault) as fake:
        for _ in range(3):
            budget = await budget_after(out, 0.46)
            await run_live(fake, out, prompts(12), budget=budget, max_concurrent=3)
            assert till.billed <= 0.46  # the first pairs have room
    assert (await spent_in(out)).usd == pytest.approx(till.billed, abs=1e-6)


def cut(answer: dict[str, Any], *numbers: int) -> dict[str, Any]:
    """Cut the images of an answer with these numbers, from 0."""
    parts = [p for p in answer["candidates"][0]["content"]["parts"] if "inlineData" in p]
    for number in numbers:
        parts[number]["inlineData"]["data"] = parts[number]["inlineData"]["data"][:40]
    return answer


@pytest.mark.parametrize("by", [run, run_live])
@pytest.mark.parametrize("damaged", [(1,), (0, 1)], ids=["one", "both"])
@pytest.mark.parametrize("usage", [True, False])
async def test_every_image_of_an_answer_counts_whole_or_not(
    tmp_path: Path, by: Callable[..., Any], damaged: tuple[int, ...], usage: bool
) -> None:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        assert PAIR.edit is not None
        answer = cut(PAIR.edit(answer), *damaged)
        return answer if usage else answer | {"usageMetadata": {}}

    share, out = 1 if by is run_live else 2, tmp_path / "out"
    async with FakeGemini(image_size=8, faults=lambda call: Fault(edit=edit)) as fake:
        for wanted in (1, 4, 4):  # later runs know that answers have two
            budget = await budget_after(out, 9.0)
            budget.max_images = 3
            await by(fake, out, prompts(wanted), budget=budget)
            assert (budget.images, fake.stats.images) == (2, 2)
            assert 2 * LEAST / share <= budget.spent <= 2 * MOST / share
            assert await spent_in(out) == (pytest.approx(budget.spent), 0.0, 2, 0)
    assert len([each async for each in anyio.Path(out / "damaged").iterdir()]) == 1
    assert await anyio.to_thread.run_sync(lambda: list(verify(out))) == []


async def test_a_smaller_image_than_was_asked_for_costs_what_its_answer_tells(
    tmp_path: Path,
) -> None:
    small = told(5, 1120)
    async with FakeGemini(image_size=1024, faults=lambda call: small) as fake:
        outcomes = await run_live(fake, tmp_path, prompts(1), image_size="4K")
    assert images(outcomes)[0].cost == pytest.approx(0.0336, rel=0.01)


async def test_pairs_without_usage_are_not_counted_twice_over_runs(tmp_path: Path) -> None:
    fault = Fault(edit=lambda answer: with_usage().edit(PAIR.edit(answer)))  # type: ignore[misc]
    each = []
    for number in (1, 2):
        budget = await budget_after(tmp_path / "out", 9.0)
        async with FakeGemini(image_size=8, faults=lambda call: fault) as fake:
            outcomes = await run(fake, tmp_path / "out", prompts(number), budget=budget)
        each.append(images(outcomes)[-1].cost)
    assert each[0] == pytest.approx(each[1])


async def test_a_budget_does_not_count_a_job_twice(tmp_path: Path) -> None:
    budget = Budget(9.0)
    async with FakeGemini(image_size=8, job_latency=2) as fake:
        for _ in range(2):
            with anyio.CancelScope() as scope:
                watch = lambda line: scope.cancel() if "pending" in line else None  # noqa: E731
                await run(fake, tmp_path, prompts(2), watch=watch, budget=budget)
            assert budget.maybe_images == 2
        assert kinds(await run(fake, tmp_path, prompts(2), budget=budget)) == {"image": 2}
    assert (budget.images, budget.maybe_images, budget.maybe_spent) == (2, 0, 0.0)
    assert await spent_in(tmp_path) == (pytest.approx(budget.spent), 0.0, 2, 0)


def test_images_whose_run_died_before_their_row_count_each_as_reserved(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
        name = begin(archive, plan, 0.05).name
        for number, stem in enumerate([f"{name}-2", name]):
            (tmp_path / f"{stem}.png").write_bytes(image(number).data)
    with opened(tmp_path) as archive:
        assert archive.spent() == (pytest.approx(0.1), 0.0, 2, 0)
