"""A budget is never exceeded, and what may have been billed counts as billed."""

from __future__ import annotations

import random

import anyio
import pytest
from anyio import Event, create_task_group, wait_all_tasks_blocked

from genbatch import Budget, BudgetExhausted, Outcome, Rejected, Unavailable, collect, stream
from support import virtual
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio

PRICE = 0.0336


async def pay(budget: Budget, cost: float | None = PRICE) -> None:
    async with budget.attempt(PRICE) as attempt:
        attempt.paid(cost)


async def test_what_came_costs_what_it_cost() -> None:
    budget = Budget()
    await pay(budget)
    await pay(budget, None)
    await pay(budget, 0.05)
    assert budget.images == 3
    assert budget.spent == pytest.approx(PRICE + 0.05 + PRICE)
    assert (budget.maybe_images, budget.maybe_spent) == (0, 0.0)


async def test_an_error_that_cannot_have_been_billed_costs_nothing() -> None:
    budget = Budget(usd=1.0)
    with pytest.raises(Rejected):
        async with budget.attempt(PRICE):
            raise Rejected("bad request", status=400)
    assert (budget.spent, budget.maybe_spent, budget.maybe_images) == (0.0, 0.0, 0)


@pytest.mark.parametrize("error", [Unavailable("lost", maybe_paid=True), KeyError("anything")])
async def test_what_may_have_been_billed_is_counted_apart(error: Exception) -> None:
    budget = Budget(usd=1.0)
    with pytest.raises(type(error)):
        async with budget.attempt(PRICE):
            raise error
    assert (budget.images, budget.spent) == (0, 0.0)
    assert (budget.maybe_images, budget.maybe_spent) == (1, PRICE)


async def test_a_cancelled_call_may_have_been_billed() -> None:
    budget = Budget()
    with anyio.CancelScope() as scope:
        async with budget.attempt(PRICE):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert (budget.images, budget.maybe_images) == (0, 1)


async def test_a_call_beyond_the_budget_does_not_start() -> None:
    budget = Budget(usd=0.1)
    await pay(budget)
    await pay(budget)
    with pytest.raises(BudgetExhausted, match=r"budget of \$0.10 is used up: 2 images, \$0.07"):
        await pay(budget)
    assert budget.images == 2


async def test_a_budget_that_is_just_enough_is_enough() -> None:
    budget = Budget(usd=3 * PRICE)
    for _ in range(3):
        await pay(budget)
    with pytest.raises(BudgetExhausted):
        await pay(budget)


async def test_a_bill_above_its_price_leaves_less_for_others() -> None:
    budget = Budget(usd=0.1)
    await pay(budget, 0.09)
    with pytest.raises(BudgetExhausted, match=r"1 image, \$0.09"):
        await pay(budget)


async def test_most_images_bound_what_may_have_been_billed_too() -> None:
    budget = Budget(max_images=2)
    await pay(budget)
    with pytest.raises(Unavailable):
        async with budget.attempt(None):
            raise Unavailable("lost", maybe_paid=True)
    match = r"max_images of 2 is reached: 1 image, \$0.03, and perhaps 1 more call, \$0.00"
    with pytest.raises(BudgetExhausted, match=match):
        await pay(budget)


async def test_no_image_may_be_paid_for() -> None:
    with pytest.raises(BudgetExhausted):
        await pay(Budget(max_images=0))


async def test_a_budget_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget needs a price"):
        async with Budget(usd=1.0).attempt(None):
            pytest.fail("started")
    async with Budget(max_images=1).attempt(None) as attempt:
        attempt.paid(None)


@pytest.mark.parametrize("bounds", [{"usd": -1.0}, {"usd": float("nan")}, {"max_images": -1}])
def test_bounds_below_zero_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=">= 0"):
        Budget(**bounds)  # type: ignore[arg-type]


async def test_a_call_waits_for_one_that_may_leave_it_room() -> None:
    budget, end = Budget(max_images=1), Event()
    order: list[str] = []

    async def reject() -> None:
        with pytest.raises(Rejected):
            async with budget.attempt(PRICE):
                await end.wait()
                order.append("rejected")
                raise Rejected("no", status=400)

    async def follow() -> None:
        await pay(budget)
        order.append("paid")

    async with create_task_group() as tasks:
        tasks.start_soon(reject)
        await wait_all_tasks_blocked()
        tasks.start_soon(follow)
        await wait_all_tasks_blocked()
        assert order == []
        end.set()
    assert order == ["rejected", "paid"]


async def test_a_cancelled_wait_leaves_the_others_waiting_in_order() -> None:
    budget, end = Budget(max_images=1), Event()
    paid: list[int] = []

    async def hold() -> None:
        with pytest.raises(Rejected):
            async with budget.attempt(PRICE):
                await end.wait()
                raise Rejected("no", status=400)

    async def follow(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await pay(budget)
            paid.append(number)

    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    async with create_task_group() as tasks:
        tasks.start_soon(hold)
        await wait_all_tasks_blocked()
        for number, scope in enumerate(scopes):
            tasks.start_soon(follow, number, scope)
        await wait_all_tasks_blocked()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        end.set()
    assert paid == [1]


@only_asyncio
async def test_a_natively_cancelled_wait_costs_nothing() -> None:
    import asyncio

    budget, end = Budget(max_images=1), Event()

    async def hold() -> None:
        async with budget.attempt(PRICE) as attempt:
            await end.wait()
            attempt.paid(PRICE)

    holding, waiting = asyncio.create_task(hold()), asyncio.create_task(pay(budget))
    await wait_all_tasks_blocked()
    waiting.cancel()
    end.set()
    await holding
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (budget.images, budget.maybe_images) == (1, 0)


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@pytest.mark.parametrize("seed", range(30))
def test_no_failure_pattern_pays_for_more_than_the_budget(backend: str, seed: int) -> None:
    pick = random.Random(seed)
    budget = Budget(usd=1.0)
    billed = 0

    async def attempt() -> None:
        nonlocal billed
        async with budget.attempt(PRICE) as attempt:
            await anyio.sleep(pick.random())
            if (fate := pick.random()) < 0.2:
                raise Rejected("not billed", status=400)
            billed += 1
            if fate < 0.4:
                raise Unavailable("billed, and lost", maybe_paid=True)
            await anyio.sleep(pick.random())
            attempt.paid(PRICE)

    async def generate(prompt: int) -> None:
        for _ in range(3):
            try:
                return await attempt()
            except Unavailable:
                await anyio.sleep(pick.random())

    async def main() -> list[Outcome[int, None]]:
        k = pick.choice([1, 3, 50])
        if pick.random() < 0.5:
            return await collect(generate, range(200), max_concurrent=k)
        async with stream(generate, range(200), max_concurrent=k) as outcomes:
            with anyio.move_on_after(pick.uniform(0, 20)):
                return [outcome async for outcome in outcomes]
        return []

    virtual.run(backend, main, seed=seed)
    assert billed <= 29
    assert budget.spent + budget.maybe_spent <= 1.0 + 1e-9
    assert budget.images + budget.maybe_images >= billed


async def reserved(budget: Budget, price: float, model: str = "a") -> float | None:
    """Return what is reserved for an attempt that turns out not to be billed."""
    with pytest.raises(Rejected):
        async with budget.attempt(price, model) as attempt:
            raise Rejected("no", status=400)
    return attempt.price


async def test_a_bill_above_its_price_raises_all_later_ones_of_its_model() -> None:
    budget = Budget(usd=10.0)
    assert await reserved(budget, 0.1) == 0.1
    async with budget.attempt(0.1, "a") as attempt:
        attempt.paid(0.2, 2)
    assert await reserved(budget, 0.3) == pytest.approx(0.6)  # as many times as dear
    assert await reserved(budget, 0.05) == pytest.approx(0.15)  # as much dearer
    assert await reserved(budget, 0.1, "b") == 0.1
    async with budget.attempt(0.1, "a") as attempt:
        assert attempt.cost_of(2) == pytest.approx(0.2)  # not twice what is raised already
        attempt.paid(0.15)
    assert await reserved(budget, 0.1) == pytest.approx(0.2)


async def test_a_waiting_call_learns_what_answers_have_cost_meanwhile() -> None:
    budget, end = Budget(usd=0.3), Event()

    async def pay_double() -> None:
        async with budget.attempt(0.15, "a") as attempt:
            await end.wait()
            attempt.paid(0.1)

    async def pay_more() -> None:
        async with budget.attempt(0.1, "a") as attempt:
            await end.wait()
            attempt.paid(0.15, 1)

    async def follow() -> None:
        with pytest.raises(BudgetExhausted):
            await reserved(budget, 0.1)

    async with create_task_group() as tasks:
        for each in (pay_double, pay_more, follow):
            tasks.start_soon(each)
            await wait_all_tasks_blocked()
        end.set()
    assert budget.spent == pytest.approx(0.25)


async def test_after_a_pair_of_images_there_must_be_room_for_another_pair() -> None:
    budget = Budget(max_images=5)
    for _ in range(2):
        async with budget.attempt(None, "a") as attempt:
            attempt.paid(None, 2)
    match = r"an answer with 2 images could exceed max_images of 5: 4 images"
    with pytest.raises(BudgetExhausted, match=match):
        async with budget.attempt(None, "a"):
            pytest.fail("started")
    async with budget.attempt(None, "b") as attempt:
        attempt.paid(None)
    with pytest.raises(BudgetExhausted, match="max_images of 5 is reached: 5 images"):
        async with budget.attempt(None, "b"):
            pytest.fail("started")


async def test_a_budget_that_is_raised_lets_a_waiting_call_go() -> None:
    budget = Budget(usd=1.5 * PRICE)
    async with budget.attempt(PRICE), create_task_group() as tasks:
        tasks.start_soon(pay, budget)
        await wait_all_tasks_blocked()
        assert budget.images == 0
        budget.usd = 2 * PRICE
        await wait_all_tasks_blocked()
        assert budget.images == 1
    with pytest.raises(ValueError, match="budget must be >= 0"):
        budget.usd = -1.0
