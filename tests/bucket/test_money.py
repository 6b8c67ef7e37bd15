"""What a bucket has paid for already, and what is still to be paid."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from genbatch import Blocked, Budget, Image, ObjectStore, StoreError, estimate, generate_images
from genbatch._bucket._ledger import SharedLedger
from support.stores import image

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the images of the tests for whole ones."""
    monkeypatch.setattr("genbatch._run._service.is_whole", lambda data, kind: True)


async def make(prompt: str) -> Image:
    await anyio.lowlevel.checkpoint()
    if prompt == "blocked":
        raise Blocked("no")
    return image(prompt)


async def test_an_estimate_counts_what_a_bucket_has(url: str) -> None:
    made = ["a", "a", "blocked"]
    async with generate_images(make, made, store=ObjectStore(url), price=0.04) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 3
    prompts = [*made, "a", "b"]

    def plan(**options: bool) -> tuple[int, int, int, float | None]:
        found = estimate(prompts, client=make, save_dir=url, price=0.04, **options)
        return found.done, found.failed, found.calls, found.cost

    plans = await anyio.to_thread.run_sync(plan)
    assert plans == (2, 1, 2, pytest.approx(0.08))
    again = await anyio.to_thread.run_sync(lambda: plan(retry_failed=True))
    assert again == (2, 0, 3, pytest.approx(0.12))


async def spend(account: SharedLedger, calls: int) -> None:
    for _ in range(calls):
        async with account.attempt(0.01) as attempt:
            attempt.paid(0.01)


async def test_what_killed_processes_were_granted_stays_counted_and_they_are_forgotten(
    url: str,
) -> None:
    for _ in range(3):
        killed = ObjectStore(url)
        async with killed:
            await spend(await killed.account(Budget(1.0), 1), 2)
            session = killed.claims.session
            assert session in killed.objects.ledger()
            killed._ledgers.clear()  # so that it settles nothing, as one that is killed
    async with ObjectStore(url) as store:
        usd, images = await store.spent()
        assert images >= 6
        assert usd >= 0.06 - 1e-9
        live = ObjectStore(url)
        async with live:
            await spend(await live.account(Budget(1.0), 1), 2)
            granted = (await live.spent())[1] - images
            await spend(await store.account(Budget(1.0), 1), 1)
            await store.run_in_thread(store._ledgers.pop().settle)
            left = store.objects.ledger()
            assert left.keys() == {"settled", live.claims.session}
            assert left["settled"]["images"] == images + 1
            assert left[live.claims.session]["images"] == granted
    async with ObjectStore(url) as store:
        assert session not in store.objects.ledger()
        assert (await store.spent())[1] == images + 3


async def test_a_budget_over_processes_that_cannot_share_it_is_refused_with_their_parts(
    tmp_path: Path,
) -> None:
    async with ObjectStore(tmp_path) as one, ObjectStore(tmp_path) as other:
        await one.account(Budget(), 1)
        parts = r"over 2 processes: give each .* \$0\.50 each and 5 images each"
        with pytest.raises(StoreError, match=parts):
            await other.account(Budget(1.0, max_images=10), 1)
