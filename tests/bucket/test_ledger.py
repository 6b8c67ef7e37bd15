"""One budget over several processes: of all that is granted, nothing exceeds it."""

from __future__ import annotations

from uuid import uuid4

import anyio
import pytest

from genbatch import Budget, BudgetExhausted, ObjectStore

pytestmark = pytest.mark.anyio


async def spend(store: ObjectStore, calls: int, budget: Budget) -> int:
    """Pay for calls, several at once, and return how many were paid."""
    paid = 0
    account = await store.account(budget, 3)

    async def call() -> None:
        nonlocal paid
        try:
            async with account.attempt(0.01) as attempt:
                await anyio.lowlevel.checkpoint()
                attempt.paid(0.01)
                paid += 1
        except BudgetExhausted:
            pass

    for _ in range(calls // 3):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
    return paid


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a grant wait for nobody."""
    monkeypatch.setattr("genbatch._bucket._ledger._PATIENCE", 0.0)
    monkeypatch.setattr("genbatch._bucket._ledger._SETTLING", 0.0)


@pytest.mark.parametrize("limit", ["usd", "images"])
async def test_one_budget_holds_over_several_stores(limit: str) -> None:
    url, paid = f"memory://{uuid4().hex}", []

    async def run() -> None:
        budget = Budget(1.0) if limit == "usd" else Budget(max_images=100)
        async with ObjectStore(url) as store:
            paid.append(await spend(store, 60, budget))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(run)
    assert sum(paid) <= 100
    async with ObjectStore(url) as store:
        (granted,) = store.objects.ledger().values()
        assert granted["images"] == sum(paid)


async def test_a_budget_counts_earlier_runs() -> None:
    url, paid = f"memory://{uuid4().hex}", []
    for _ in range(3):
        async with ObjectStore(url) as store:
            paid.append(await spend(store, 6, Budget(0.10)))
    assert paid[0] == 6
    assert sum(paid) <= 10


async def test_what_one_store_does_not_use_another_may_spend() -> None:
    url = f"memory://{uuid4().hex}"
    async with ObjectStore(url) as one, ObjectStore(url) as other:
        assert await spend(one, 3, Budget(0.06)) == 3
        await one.run_in_thread(one._give_back)  # as its claims do, from a thread of theirs
        assert await spend(other, 3, Budget(0.06)) == 3
