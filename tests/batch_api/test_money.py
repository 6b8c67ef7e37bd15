"""Budgets, live leftovers, and runs that end early: what is paid, and what is counted as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import (
    Budget,
    GenbatchError,
    ImageRequest,
    Prompt,
    Stopped,
    batch_api,
    generate_images,
)
from genbatch.batch_api import _queue
from genbatch.batch_api._queue import Queue
from genbatch.gemini import price, reserved_price, resolve
from genbatch.testing import Call, FakeGemini, Fault, JobFault, blocked, rate_limited, reset
from support.backends import until
from support.batch_runs import (
    POLL,
    check_whole,
    client_of,
    errors,
    images,
    jobs_in,
    kinds,
    prompts,
    run,
    run_with,
    spent_in,
    submitted,
)

pytestmark = pytest.mark.anyio

HALF = (price("flash") or 0.0) / 2
RESERVED = (reserved_price(resolve(ImageRequest("a fox, number 0"))) or 0.0) / 2
ENDLESS = 3600.0


async def test_a_budget_counts_half_the_price(tmp_path: Path) -> None:
    budget = Budget(4.1 * HALF + RESERVED)
    async with FakeGemini(image_size=4) as fake:
        outcomes = await run(fake, tmp_path, prompts(8), budget=budget)
        assert kinds(outcomes) == {"image": 5, "BudgetExhausted": 3}
        assert fake.stats.images == 5
    assert (budget.images, budget.maybe_images) == (5, 0)
    assert budget.spent == pytest.approx(5 * HALF, rel=0.01)


async def test_a_price_of_ones_own_is_that_of_a_live_image(tmp_path: Path) -> None:
    budget = Budget(1.0)
    async with FakeGemini(image_size=4) as fake:
        outcomes = await run(fake, tmp_path, prompts(2), budget=budget, price=0.2, model="mine")
    assert [image.cost for image in images(outcomes)] == [0.1, 0.1]
    assert budget.spent == pytest.approx(0.2)


async def test_requests_that_never_were_sent_cost_nothing(tmp_path: Path) -> None:
    budget = Budget(1.0)
    asked = [Prompt("a fox", images=(tmp_path / "missing.png",)), Prompt("a", images=(b"no",))]
    async with FakeGemini(image_size=4) as fake:
        faults = {"start_upload": [Fault(status=400)]}
        assert kinds(await run(fake, tmp_path, asked, budget=budget)) == {
            "FileNotFoundError": 1,
            "ValueError": 1,
        }
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2), budget=budget)) == {"Stopped": 2}
    assert (budget.spent, budget.maybe_spent, budget.maybe_images) == (0, 0, 0)


async def leave(fake: FakeGemini, directory: Path, count: int) -> None:
    """Leave a run once its jobs are at the service."""
    with anyio.CancelScope() as scope:
        await run(
            fake,
            directory,
            prompts(count),
            watch=lambda line: scope.cancel() if line.endswith("1 pending") else None,
        )


async def test_what_jobs_of_earlier_runs_may_cost_is_in_the_budget_until_it_is_known(
    tmp_path: Path,
) -> None:
    async with FakeGemini(
        image_size=4,
        job_latency=0.2,
        faults=lambda call: Fault(status=503) if "number 3" in call.prompt else None,
    ) as fake:
        await leave(fake, tmp_path, 4)
        budget = Budget(4 * RESERVED)  # which is that of the four
        seen: list[tuple[int, int]] = []
        outcomes = await run(
            fake,
            tmp_path,
            [*prompts(4), "another"],
            budget=budget,
            watch=lambda line: seen.append((budget.images, budget.maybe_images)),
        )
        assert seen[0] == (0, 4)
        assert kinds(outcomes) == {"image": 3, "Unavailable": 1, "BudgetExhausted": 1}
        assert set(submitted(fake).values()) == {1}
    assert (budget.images, budget.maybe_images) == (3, 0)
    assert budget.spent == pytest.approx(3 * HALF, rel=0.01)
    assert budget.maybe_spent == pytest.approx(0)


async def test_a_create_that_was_lost_gives_its_price_back(tmp_path: Path) -> None:
    faults = {"create_batch": [reset()], "list_batches": [Fault(status=503)] * 4}
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        await run(fake, tmp_path, prompts(2))
        budget = Budget(2 * RESERVED)
        outcomes = await run(fake, tmp_path, prompts(2), budget=budget, max_concurrent=1)
    # Whether the job is there is found out while the prompts wait for it, so there is room again.
    assert kinds(outcomes) == {"image": 2}
    assert (budget.images, budget.maybe_images) == (2, 0)


def fault_of(call: Call) -> Fault | None:
    """Let rows of jobs go wrong, not live calls."""
    if not call.path.endswith(":batchGenerateContent"):
        return None
    if "number 0" in call.prompt:
        return rate_limited()
    if "number 1" in call.prompt:
        return blocked("IMAGE_SAFETY")
    return Fault(status=500) if "number 2" in call.prompt else None


async def test_leftovers_go_on_live_where_they_may_pass(tmp_path: Path) -> None:
    budget = Budget(10.0)
    async with FakeGemini(image_size=4, faults=fault_of) as fake:
        outcomes = await run(fake, tmp_path, prompts(5), live=True, budget=budget)
        assert kinds(outcomes) == {"image": 4, "Blocked": 1}
        assert (fake.stats.calls, fake.stats.images, fake.stats.jobs) == (2, 4, 1)
    costs = [image.cost for image in images(outcomes)]
    assert costs[2:] == pytest.approx([HALF, HALF], rel=0.01)
    assert all(cost and cost > 1.5 * HALF for cost in costs[:2])
    assert budget.spent == pytest.approx(sum(cost or 0 for cost in costs))
    assert (budget.images, budget.maybe_images) == (4, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"job_faults": [JobFault(state="FAILED")]},
        {"job_faults": [JobFault(state="EXPIRED", after=0.5)]},
        {"job_faults": [JobFault(edit=lambda line: [])]},
        {"control_faults": lambda call: Fault(status=400) if "create" in call.action else None},
        {"control_faults": lambda call: Fault(status=503) if "start" in call.action else None},
    ],
    ids=["failed", "expired", "nothing came", "no jobs", "no uploads"],
)
async def test_what_jobs_did_not_make_goes_on_live(tmp_path: Path, options: Any) -> None:
    async with FakeGemini(image_size=4, **options) as fake:
        outcomes = await run(fake, tmp_path, prompts(6), live=True, max_concurrent=2)
        assert kinds(outcomes) == {"image": 6}
        assert fake.stats.peak <= 2
        assert fake.stats.calls


async def test_nothing_goes_on_live_while_its_job_may_bring_it(tmp_path: Path) -> None:
    faults = {
        "create_batch": [Fault(status=500, late=True)],
        "list_batches": [Fault(status=503)] * 4,
    }
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        outcomes = await run(fake, tmp_path, prompts(2), live=True)
        assert kinds(outcomes) == {"Unavailable": 2}
        async with (
            client_of(fake) as client,
            generate_images(client, prompts(2), save_dir=tmp_path) as live,
        ):
            got = [each async for each in live]
        assert [type(error) for error in errors(got)] == [GenbatchError] * 2
        assert "job genbatch-" in str(errors(got)[0])
        assert fake.stats.calls == 0
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)


async def test_draining_leaves_the_jobs_to_the_next_run(tmp_path: Path) -> None:
    latency = [ENDLESS]
    async with FakeGemini(image_size=4, job_latency=lambda job: latency[0]) as fake:
        budget = Budget(1.0)
        async with client_of(fake) as client:
            pending = anyio.Event()

            def watch(line: str) -> None:
                if line.endswith("pending"):
                    pending.set()

            options: dict[str, Any] = {"poll": POLL, "budget": budget, "watch": watch}
            async with batch_api.generate_images(
                client, prompts(3), save_dir=tmp_path, **options
            ) as outcomes:
                await pending.wait()
                now = outcomes.progress
                assert (now.in_flight, now.waiting) == (0, 3)
                outcomes.drain()
                got = [each async for each in outcomes]
        assert kinds(got) == {"Stopped": 3}
        assert all(isinstance(error, Stopped) and error.maybe_paid for error in errors(got))
        assert "is still running at the service" in str(errors(got)[0])
        assert (budget.images, budget.maybe_images) == (0, 3)
        assert (await spent_in(tmp_path)).maybe_images == 3
        [job] = await jobs_in(tmp_path)
        assert (job.ended, job.open) == (None, 3)


async def test_draining_before_a_job_is_sent_sends_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[anyio.CancelScope] = []  # for further requests, until the test has drained
    is_drained = False

    def wait(seconds: float) -> anyio.CancelScope:
        waits.append(anyio.CancelScope())
        if is_drained:
            waits[-1].cancel()
        return waits[-1]

    ended, run_job = anyio.Event(), Queue._run

    async def watched(*args: Any) -> None:
        try:
            await run_job(*args)
        finally:
            ended.set()

    monkeypatch.setattr(_queue, "move_on_after", wait)
    monkeypatch.setattr(Queue, "_run", watched)
    asked: list[Any] = []
    async with (
        FakeGemini(image_size=4, control_faults=asked.append) as fake,
        client_of(fake) as client,
    ):
        batch = batch_api.generate_images(client, prompts(3), save_dir=tmp_path, poll=POLL)
        async with batch as outcomes:
            await until(lambda: outcomes.progress.waiting == 3 and bool(waits))
            outcomes.drain()
            got = [each async for each in outcomes]
            is_drained = True
            for each in waits:
                each.cancel()
            await ended.wait()
        assert kinds(got) == {"Stopped": 3}
        assert not any(error.maybe_paid for error in errors(got))
        assert asked == []
        assert kinds(await run_with(client, tmp_path, prompts(3))) == {"image": 3}


async def test_draining_while_a_file_is_uploaded_creates_no_job(tmp_path: Path) -> None:
    uploading = anyio.Event()

    def watch(call: Any) -> Fault | None:
        if call.action == "upload":
            uploading.set()
            return Fault(delay=0.2)
        return None

    async with FakeGemini(image_size=4, control_faults=watch) as fake, client_of(fake) as client:
        batch = batch_api.generate_images(
            client, prompts(2), save_dir=tmp_path, poll=POLL, job_size=2
        )
        async with batch as outcomes:
            await uploading.wait()
            outcomes.drain()
            got = [each async for each in outcomes]
            await anyio.sleep(0.3)
        assert kinds(got) == {"Stopped": 2}
        assert fake.stats.jobs == 0
    assert await jobs_in(tmp_path) == []
    assert (await spent_in(tmp_path)).maybe_images == 0


async def test_fail_fast_leaves_the_other_jobs(tmp_path: Path) -> None:
    faults = [JobFault(state="FAILED"), None]
    async with FakeGemini(
        image_size=4, job_faults=faults, job_latency=lambda job: 0 if job.number == 1 else ENDLESS
    ) as fake:
        with pytest.raises(ExceptionGroup) as caught:
            await run(fake, tmp_path, prompts(4), job_size=2, fail_fast=True)
        assert {type(error).__name__ for error in caught.value.exceptions} == {"Unavailable"}
        assert [job.state for job in await jobs_in(tmp_path)].count("FAILED") == 1


async def test_a_used_up_quota_stops_its_model(tmp_path: Path) -> None:
    fault = rate_limited(per_day=True)

    def refuse(call: Any) -> Fault | None:
        is_pro = "pro" in call.id
        return fault if call.action == "create_batch" and not is_pro else None

    asked = [Prompt("a fox"), Prompt("a hen", model="pro"), Prompt("an owl")]
    async with FakeGemini(image_size=4, control_faults=refuse) as fake:
        outcomes = await run(fake, tmp_path, asked)
        assert kinds(outcomes) == {"QuotaExhausted": 2, "image": 1}


async def test_no_more_prompts_wait_than_the_window_has_room_for(tmp_path: Path) -> None:
    pulled = 0

    def endless() -> Any:
        nonlocal pulled
        while True:
            pulled += 1
            yield f"a fox, number {pulled}"

    async with FakeGemini(image_size=4) as fake, client_of(fake) as client:
        async with batch_api.generate_images(
            client, endless(), save_dir=tmp_path, window=3, poll=POLL
        ) as outcomes:
            for _ in range(5):
                await outcomes.receive()
                assert pulled - outcomes.progress.done <= 6


async def test_the_key_is_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fault(call: Any) -> Fault:
        return Fault(status=400, body={"error": {"message": f"no {client._secret.reveal()}"}})

    async with FakeGemini(image_size=4, control_faults=fault) as fake:
        client = client_of(fake)
        async with client:
            outcomes = await run_with(client, tmp_path, prompts(1))
    assert "[API key]" in str(errors(outcomes)[0])
    assert "canary" not in caplog.text + repr(errors(outcomes))
    assert not any(b"canary" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
