"""Workers and their coordinator over the loopback wire: one bound, one stop, nothing paid twice."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from genbatch import (
    BudgetExhausted,
    DamagedImage,
    GenbatchError,
    QuotaExhausted,
    Stopped,
    StoreError,
    Unauthorized,
)
from genbatch._bucket import Objects, StoredImage
from genbatch._client import _retry
from genbatch.ray._worker import Worker
from genbatch.testing import (
    Call,
    FakeGemini,
    Fault,
    blocked,
    not_an_image,
    rate_limited,
    reset,
    several_images,
)
from support.fleets import fleet, item, saved_in

pytestmark = pytest.mark.anyio


async def make_all(workers: list[Worker], each: int) -> list[list[Any]]:
    """Have every worker make its images; return what each returned or raised."""
    results: list[list[Any]] = [[] for _ in workers]

    async def make(worker: Worker, number: int) -> None:
        first = number * each
        try:
            results[number] += await worker.make([item(n) for n in range(first, first + each)])
        except GenbatchError as exc:
            results[number].append(exc)

    async with anyio.create_task_group() as tasks:
        for number, worker in enumerate(workers):
            tasks.start_soon(make, worker, number)
    return results


async def test_each_prompt_has_its_image_in_its_place(tmp_path: Path) -> None:
    async with FakeGemini() as server, fleet(tmp_path, server.url) as (_, [worker]):
        made = await worker.make([item(n) for n in range(5)])
    assert [image.key for image in made if isinstance(image, StoredImage)] == [
        item(n)[0] for n in range(5)
    ]
    assert await saved_in(tmp_path) == 5


async def test_what_is_spent_is_what_images_cost(tmp_path: Path) -> None:
    async with (
        FakeGemini() as server,
        fleet(tmp_path, server.url, price=1.0, usd=10.0) as (coordinator, [worker]),
    ):
        made = await worker.make([item(n) for n in range(3)])
        costs = [image.cost or 0.0 for image in made if isinstance(image, StoredImage)]
        assert (await coordinator.state())["spent"] == pytest.approx(sum(costs))
    assert 0 < sum(costs) < 1


async def test_all_workers_together_keep_to_one_bound(tmp_path: Path) -> None:
    async with (
        FakeGemini(latency=0.01) as server,
        fleet(tmp_path, server.url, workers=3, max_concurrent=2) as (_, workers),
    ):
        results = await make_all(workers, 6)
    assert server.stats.peak == 2
    assert sum(isinstance(image, StoredImage) for images in results for image in images) == 18


async def test_what_is_in_the_store_is_not_asked_for(tmp_path: Path) -> None:
    async with FakeGemini() as server, fleet(tmp_path, server.url, workers=2) as (_, workers):
        first = await workers[0].make([item(0), item(1)])
        again = await workers[1].make([item(0), item(1)])
    assert again == first
    assert server.stats.images == 2


async def test_a_failed_prompt_is_a_failed_row(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[blocked()]) as server,
        fleet(tmp_path, server.url, max_concurrent=1) as (_, [worker]),
    ):
        made = await worker.make([item(0), item(1)])
    assert sorted(type(each).__name__ for each in made) == ["Blocked", "StoredImage"]


async def test_a_damaged_image_is_paid_and_kept_in_the_store(tmp_path: Path) -> None:
    cut = b"\x89PNG\r\n\x1a\nthe first half"
    async with (
        FakeGemini(faults=[not_an_image(cut)]) as server,
        fleet(tmp_path, server.url, price=0.5, own_price=0.5, usd=10.0) as (coordinator, [worker]),
    ):
        [error] = await worker.make([item(0)])
        state = await coordinator.state()
    assert isinstance(error, DamagedImage)
    assert error.data is None
    assert error.file is not None
    assert error.file in str(error)
    assert (tmp_path / error.file).read_bytes() == cut
    assert state["spent"] == 0.5
    assert server.stats.calls == 1


async def test_a_rejected_call_is_made_again_when_the_coordinator_says_so(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[rate_limited(0.01), rate_limited(0.01)]) as server,
        fleet(tmp_path, server.url) as (_, [worker]),
    ):
        made = await worker.make([item(0)])
    assert isinstance(made[0], StoredImage)
    assert server.stats.calls == 3


async def test_a_refused_key_ends_the_calls_of_all_workers(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[None, Fault(status=403)]) as server,
        fleet(tmp_path, server.url, workers=3, max_concurrent=1) as (_, workers),
    ):
        results = await make_all(workers, 4)
        before = server.stats.calls
        with pytest.raises(Unauthorized):
            await workers[0].make([item(100)])
    assert [type(each[-1]) for each in results] == [Unauthorized] * 3
    assert server.stats.calls == before == 2
    assert await saved_in(tmp_path) == server.stats.images == 1


async def test_what_was_in_flight_at_a_stop_is_saved_before_it_is_raised(tmp_path: Path) -> None:
    def fault(call: Call) -> Fault | None:
        return Fault(status=403) if call.number == 2 else Fault(delay=0.1)

    async with (
        FakeGemini(faults=fault) as server,
        fleet(tmp_path, server.url, workers=2, max_concurrent=4) as (_, workers),
    ):
        kept: list[int] = []

        async def make(worker: Worker, first: int) -> None:
            try:
                await worker.make([item(first), item(first + 1)])
            except Unauthorized:
                kept.append(await saved_in(tmp_path))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make, workers[0], 0)
            tasks.start_soon(make, workers[1], 10)
        assert set(kept) == {server.stats.images}


async def test_a_stop_ends_the_waiting_between_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> Fault:
        return Fault(status=503) if call.prompt == "fox 0" else Fault(status=403, delay=0.1)

    monkeypatch.setattr(_retry, "sleep", lambda _: anyio.sleep_forever())
    async with (
        FakeGemini(faults=fault) as server,
        fleet(tmp_path, server.url, retries=1) as (_, [worker]),
    ):
        with anyio.fail_after(30), pytest.raises(Unauthorized):
            await worker.make([item(0), item(1)])
        assert server.stats.calls == 2


async def test_a_used_up_day_ends_the_calls_of_all_workers(tmp_path: Path) -> None:
    async with (
        FakeGemini(daily=3) as server,
        fleet(tmp_path, server.url, workers=2, max_concurrent=1) as (_, workers),
    ):
        results = await make_all(workers, 4)
    assert [type(each[-1]) for each in results] == [QuotaExhausted] * 2
    assert server.stats.calls == 4
    assert await saved_in(tmp_path) == 3


async def test_a_service_that_only_fails_ends_the_run(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=lambda _: Fault(status=503)) as server,
        fleet(tmp_path, server.url, workers=2) as (_, workers),
    ):
        results = await make_all(workers, 30)
    assert [type(each[-1]) for each in results] == [Stopped] * 2
    assert server.stats.calls < 30


async def test_the_budget_of_all_workers_is_never_exceeded(tmp_path: Path) -> None:
    async with (
        FakeGemini() as server,
        fleet(tmp_path, server.url, workers=2, max_concurrent=4, usd=0.2) as (coordinator, workers),
    ):
        results = await make_all(workers, 10)
        assert (await coordinator.state())["spent"] <= 0.2
    assert [type(each[-1]) for each in results] == [BudgetExhausted] * 2
    assert server.stats.images == await saved_in(tmp_path) == 5


async def test_the_budget_holds_over_runs(tmp_path: Path) -> None:
    async with FakeGemini() as server:
        for first in (0, 10):
            async with fleet(tmp_path, server.url, max_images=5) as (_, [worker]):
                if first:
                    with pytest.raises(BudgetExhausted):
                        await worker.make([item(n) for n in range(first, first + 10)])
                else:
                    await worker.make([item(n) for n in range(3)])
        assert server.stats.images == 5


async def test_a_lost_connection_may_have_been_paid(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[reset(100)]) as server,
        fleet(tmp_path, server.url, max_concurrent=1) as (coordinator, [worker]),
    ):
        made = await worker.make([item(0), item(1)])
        assert (await coordinator.state())["maybe_spent"] > 0
    assert sorted(type(each).__name__ for each in made) == ["StoredImage", "Unavailable"]


async def test_without_a_key_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with FakeGemini() as server, fleet(tmp_path, server.url) as (_, [worker]):
        worker._work.client["api_key"] = None
        with pytest.raises(Unauthorized, match="GEMINI_API_KEY"):
            await worker.make([item(0)])
        assert server.stats.calls == 0


async def test_a_store_that_fails_for_a_moment_costs_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbatch._bucket import _store

    monkeypatch.setattr(_store, "_PAUSES", (0.0, 0.0))
    save, failures = Objects.save, [StoreError("away")] * 2

    def failing(self: Objects, *args: Any) -> StoredImage:
        if failures:
            raise failures.pop()
        return save(self, *args)

    monkeypatch.setattr(Objects, "save", failing)
    async with FakeGemini() as server, fleet(tmp_path, server.url) as (_, [worker]):
        [made] = await worker.make([item(0)])
    assert isinstance(made, StoredImage)
    assert server.stats.images == 1


async def test_a_store_that_takes_nothing_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbatch._bucket import _store

    def failing(self: Objects, *_: Any) -> StoredImage:
        raise StoreError("full")

    monkeypatch.setattr(_store, "_PAUSES", ())
    monkeypatch.setattr(Objects, "save", failing)
    async with (
        FakeGemini() as server,
        fleet(tmp_path, server.url, workers=2, max_concurrent=1) as (_, workers),
    ):
        results = await make_all(workers, 5)
    assert [type(each[-1]) for each in results] == [StoreError] * 2
    assert server.stats.calls <= 2


async def test_what_is_saved_is_in_the_index_when_all_is_over(tmp_path: Path) -> None:
    async with FakeGemini() as server, fleet(tmp_path, server.url) as (_, [worker]):
        await worker.make([item(n) for n in range(3)])
        segments = await anyio.to_thread.run_sync(
            lambda: [path.read_text() for path in (tmp_path / "index").iterdir()]
        )
    assert [len(segment.splitlines()) for segment in segments] == [3]


async def test_a_run_expects_as_many_images_an_answer_as_earlier_ones_brought(
    tmp_path: Path,
) -> None:
    async with FakeGemini(faults=lambda call: several_images(2)) as server:
        for run in range(3):
            async with fleet(tmp_path, server.url, max_images=3, max_concurrent=1) as (_, [worker]):
                with suppress(BudgetExhausted):
                    await worker.make([item(run)])
        assert server.stats.images == 2


async def test_equal_refusals_end_the_run(tmp_path: Path) -> None:
    body = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "No such field."}}
    async with (
        FakeGemini(faults=lambda call: Fault(status=400, body=body)) as server,
        fleet(tmp_path, server.url, max_concurrent=2) as (_, [worker]),
    ):
        with pytest.raises(Stopped, match="in the same words"):
            await worker.make([item(number) for number in range(60)])
    assert server.stats.calls <= 2 + 10
