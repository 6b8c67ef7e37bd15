"""The coordinator by itself: what a worker that dies leaves, and what a ledger has in writing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from genbatch import BudgetExhausted, RateLimited
from genbatch._bucket import Objects
from genbatch.ray import _coordinator
from genbatch.ray._coordinator import Coordinator, Report
from support.fleets import PRICE, bounds, ledger

pytestmark = pytest.mark.anyio


class Silence:
    """Time as a coordinator sees it: none passes until a batch is not heard of any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        self._fell = anyio.Event()
        monkeypatch.setattr(_coordinator, "current_time", lambda: self._now)
        monkeypatch.setattr(_coordinator, "sleep_until", self._sleep_until)

    async def _sleep_until(self, _: float) -> None:
        await self._fell.wait()

    def fall(self) -> None:
        self._now = 100.0
        self._fell.set()
        self._fell = anyio.Event()


@asynccontextmanager
async def attended(coordinator: Coordinator, *batches: str) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for batch in batches:
            assert await coordinator.enter(batch) is None
            tasks.start_soon(coordinator.attend, batch)
        yield
        tasks.cancel_scope.cancel()


async def test_what_a_dead_worker_had_in_flight_is_possibly_paid_and_frees_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence(monkeypatch)
    coordinator = Coordinator(bounds(tmp_path, max_concurrent=1))
    admitted: list[Exception | None] = []

    async def admit(batch: str) -> None:
        admitted.append(await coordinator.admit(batch, 0))

    async with attended(coordinator, "dead", "alive"), anyio.create_task_group() as tasks:
        assert await coordinator.admit("dead", 0) is None
        tasks.start_soon(admit, "alive")
        await wait_all_tasks_blocked()
        assert admitted == []
        silence._now = 100.0
        await coordinator.beat("alive")
        silence.fall()
        await wait_all_tasks_blocked()
        state = await coordinator.state()
        assert (admitted, state.blocks) == ([None], 1)
        assert state.maybe_spent == pytest.approx(PRICE)


async def test_a_worker_taken_for_dead_makes_no_further_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence(monkeypatch)
    coordinator = Coordinator(bounds(tmp_path))
    async with attended(coordinator, "a"):
        assert await coordinator.admit("a", 0) is None
        silence.fall()
        await wait_all_tasks_blocked()
        error = RateLimited("too many")
        refusal = await coordinator.admit("a", 1)
        assert str(refusal) == "the worker was not heard from for 10 s, run again"
        assert await coordinator.report("a", 0, Report(error)) is error
        await coordinator.leave("a", [], stopped=False)


async def test_a_call_that_waits_is_told_of_a_stop(tmp_path: Path) -> None:
    coordinator = Coordinator(bounds(tmp_path, max_concurrent=1))
    told: list[Any] = []

    async def admit() -> None:
        told.append(await coordinator.admit("a", 1))

    async with attended(coordinator, "a"), anyio.create_task_group() as tasks:
        assert await coordinator.admit("a", 0) is None
        tasks.start_soon(admit)
        await wait_all_tasks_blocked()
        await coordinator.failed(BudgetExhausted("no more"))
        await wait_all_tasks_blocked()
        assert [type(each) for each in told] == [BudgetExhausted]
        assert isinstance(await coordinator.enter("b"), BudgetExhausted)


async def test_a_run_that_was_killed_counts_with_what_it_was_granted(tmp_path: Path) -> None:
    first = Coordinator(bounds(tmp_path, max_images=10, max_concurrent=4))
    async with attended(first, "a"):  # left without a word
        assert await first.admit("a", 0) is None
    granted = await ledger(tmp_path)
    assert granted == {"dollars": pytest.approx(5 * PRICE), "images": 5.0}
    second = Coordinator(bounds(tmp_path, max_images=5))
    async with attended(second, "b"):
        assert isinstance(await second.admit("b", 0), BudgetExhausted)


async def test_a_used_up_budget_lets_no_batch_in(tmp_path: Path) -> None:
    coordinator = Coordinator(bounds(tmp_path, max_images=0))
    async with attended(coordinator, "a"):
        assert isinstance(await coordinator.admit("a", 0), BudgetExhausted)
        assert isinstance(await coordinator.enter("b"), BudgetExhausted)


@pytest.mark.parametrize("_", range(10))  # trio wakes in any order
async def test_what_was_reported_is_paid_though_its_batch_leaves_at_once(
    tmp_path: Path, _: int
) -> None:
    coordinator = Coordinator(bounds(tmp_path, max_concurrent=8))
    async with attended(coordinator, "a"):
        for number in range(8):
            assert await coordinator.admit("a", number) is None
        for number in range(8):
            await coordinator.report("a", number, Report(cost=0.5))
        await coordinator.leave("a", [], stopped=False)
        state = await coordinator.state()
    assert (state.spent, state.maybe_spent) == (4.0, 0.0)


async def test_no_grant_exceeds_the_budget(tmp_path: Path) -> None:
    coordinator = Coordinator(bounds(tmp_path, max_images=2, usd=1.5 * PRICE, max_concurrent=50))
    async with attended(coordinator, "a"):
        assert await coordinator.admit("a", 0) is None
    granted = await ledger(tmp_path)
    assert granted == {"dollars": pytest.approx(1.5 * PRICE), "images": 2.0}


async def test_a_run_that_ended_counts_with_what_it_spent(tmp_path: Path) -> None:
    coordinator = Coordinator(bounds(tmp_path, max_concurrent=4))
    async with attended(coordinator, "a"):
        assert await coordinator.admit("a", 0) is None
        await coordinator.report("a", 0, Report(cost=0.5))
        await coordinator.leave("a", [], stopped=False)
        spent = await ledger(tmp_path)
    overrun = {"ratio": pytest.approx(0.5 / PRICE), "excess": pytest.approx(0.5 - PRICE)}
    assert spent == {"dollars": 0.5, "images": 1.0, "most_images": 1.0} | overrun


async def test_a_grant_is_not_written_for_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[dict[str, float]] = []
    note = Objects.note
    monkeypatch.setattr(
        Objects, "note", lambda self, run, spent: (writes.append(spent), note(self, run, spent))[1]
    )
    coordinator = Coordinator(bounds(tmp_path, max_concurrent=10))
    async with attended(coordinator, "a"):
        for number in range(33):
            assert await coordinator.admit("a", number) is None
            await coordinator.report("a", number, Report(cost=PRICE))
    assert len(writes) == 3
