"""One budget over several processes: of all that is granted, nothing exceeds it."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import TaskStatus

from genbatch import Budget, BudgetExhausted, ObjectStore
from genbatch._bucket._ledger import SharedLedger

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


@pytest.mark.parametrize("limit", ["usd", "images"])
async def test_one_budget_holds_over_several_stores(url: str, limit: str) -> None:
    paid: list[int] = []

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


async def test_a_budget_counts_earlier_runs(url: str) -> None:
    paid: list[int] = []
    for _ in range(3):
        async with ObjectStore(url) as store:
            paid.append(await spend(store, 6, Budget(0.10)))
    assert paid[0] == 6
    assert sum(paid) <= 10


async def test_what_one_store_does_not_use_another_may_spend(url: str) -> None:
    async with ObjectStore(url) as one, ObjectStore(url) as other:
        assert await spend(one, 3, Budget(0.06)) == 3
        await one.run_in_thread(one._give_back)  # as its claims do, from a thread of theirs
        assert await spend(other, 3, Budget(0.06)) == 3


async def test_giving_back_grants_nothing_to_a_call_that_waits(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch._bucket._ledger._PATIENCE", 3600.0)
    refused = anyio.Event()
    ask = SharedLedger._is_granted

    def is_granted(self: SharedLedger, reserved: dict[str, float]) -> bool:
        granted = ask(self, reserved)
        if not granted:
            anyio.from_thread.run_sync(refused.set)
        return granted

    monkeypatch.setattr(SharedLedger, "_is_granted", is_granted)
    async with ObjectStore(url) as one, ObjectStore(url) as other:
        assert await spend(one, 3, Budget(0.05)) == 3
        await one.run_in_thread(one._give_back)
        account = await other.account(Budget(0.05), 3)

        async def call(*, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            async with account.attempt(0.01):
                task_status.started()
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            await tasks.start(call)  # which leaves more images granted than are used
            for _ in range(2):  # for which there is room in its own budget, and in all of them not
                tasks.start_soon(call)
            await refused.wait()
            await other.run_in_thread(other._give_back)
            granted = other.objects.ledger().values()
            tasks.cancel_scope.cancel()
        assert sum(each["dollars"] for each in granted) <= 0.05 + 1e-9
