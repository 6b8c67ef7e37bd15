"""Quotas, budgets and what stops a run, against a service on loopback that really counts."""

from __future__ import annotations

import random
from pathlib import Path
from time import perf_counter

import anyio
import pytest

import genbatch
from genbatch import (
    Budget,
    BudgetExhausted,
    Failure,
    GeminiClient,
    Prompt,
    QuotaExhausted,
    Stopped,
    Success,
    Throttle,
    Unauthorized,
    generate_images,
)
from genbatch.testing import (
    Call,
    FakeGemini,
    Fault,
    blocked,
    empty_body,
    no_quota,
    not_an_image,
    rate_limited,
)
from support.backends import until

pytestmark = pytest.mark.anyio

FLASH = "gemini-nano-banana-2.1"


def client_for(server: FakeGemini, **settings: object) -> GeminiClient:
    return GeminiClient("a-key-of-some-length", base_url=server.url, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quota", "speed", "told", "n"), [("60/min", 60.0, True, 180), ("5/min", 400.0, False, 60)]
)
async def test_a_batch_goes_as_fast_as_a_quota_allows(
    quota: str, speed: float, told: bool, n: int
) -> None:
    server = FakeGemini(image_size=8, quota=quota, speed=speed, retry_info=told, latency=3.0)
    async with server, client_for(server) as client:
        outcomes = await genbatch.collect(
            client.generate_image, map(str, range(n)), max_concurrent=50
        )
        assert all(isinstance(outcome, Success) for outcome in outcomes)
        assert server.stats.images == n
        # A rate is learned in virtual time: here a busy machine may be slower than the quota.
        assert server.stats.limited <= 20 + 0.1 * n


async def test_a_daily_quota_ends_the_prompts_of_its_model_alone() -> None:
    def daily(call: Call) -> Fault | None:
        return rate_limited(47, per_day=True) if call.model == FLASH else None

    prompts = [Prompt(f"p {n}", model="flash" if n % 2 else "lite") for n in range(40)]
    async with FakeGemini(image_size=8, faults=daily) as server, client_for(server) as client:
        async with generate_images(client, prompts, max_concurrent=4) as outcomes:
            ended = [outcome async for outcome in outcomes]
        assert [call.model for call in server.calls].count(FLASH) <= 4
    for outcome in ended:
        if outcome.index % 2:
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.error, QuotaExhausted)
            assert "daily quota" in str(outcome.error)
        else:
            assert isinstance(outcome, Success)
    assert len(ended) == 40


async def test_a_model_without_quota_says_that_billing_is_missing() -> None:
    async with FakeGemini(faults=lambda _: no_quota()) as server, client_for(server) as client:
        async with generate_images(client, ["a", "b"], max_concurrent=1) as outcomes:
            errors = [outcome.error async for outcome in outcomes if isinstance(outcome, Failure)]
        assert [type(error) for error in errors] == [QuotaExhausted, QuotaExhausted]
        assert all("enable billing" in str(error) for error in errors)
        assert server.stats.calls == 1


async def test_a_refused_key_ends_the_run_after_the_first_calls() -> None:
    refuse = Fault(status=403)
    async with FakeGemini(faults=lambda _: refuse) as server, client_for(server) as client:
        async with generate_images(client, map(str, range(1632)), max_concurrent=50) as outcomes:
            errors = [outcome.error async for outcome in outcomes if isinstance(outcome, Failure)]
        assert len(errors) == 1632
        assert {type(error) for error in errors} == {Unauthorized}
        assert server.stats.calls <= 20
        async with generate_images(client, ["again"]) as outcomes:  # a stop is of one run
            await outcomes.receive()
        assert server.stats.calls <= 21


@pytest.mark.parametrize("down", [Fault(status=503), empty_body(), not_an_image()])
async def test_a_service_that_always_fails_ends_the_run(down: Fault) -> None:
    async with (
        FakeGemini(faults=lambda _: down) as server,
        client_for(server, max_retries=0) as client,
    ):
        async with generate_images(client, map(str, range(200)), max_concurrent=5) as outcomes:
            errors = [outcome.error async for outcome in outcomes if isinstance(outcome, Failure)]
        assert len(errors) == 200
        # Those in flight at the stop may be the last to end.
        stopped = [error for error in errors if isinstance(error, Stopped)]
        assert len(stopped) >= 175
        assert all("20 calls in a row have failed" in str(error) for error in stopped)
        assert 20 <= server.stats.calls <= 25


async def test_an_answer_between_failures_keeps_the_run_going() -> None:
    def mostly_down(call: Call) -> Fault | None:
        return blocked() if call.number % 19 == 0 else Fault(status=503)

    async with (
        FakeGemini(faults=mostly_down) as server,
        client_for(server, max_retries=0) as client,
    ):
        async with generate_images(client, map(str, range(60)), max_concurrent=1) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 60
        assert server.stats.calls == 60


@pytest.mark.parametrize("seed", range(3))
async def test_a_budget_holds_whatever_goes_wrong(seed: int, tmp_path: Path) -> None:
    pick = random.Random(seed)
    faults = [None, None, Fault(truncate=60), Fault(reset=True), Fault(status=400), blocked()]

    async with (
        FakeGemini(image_size=8, faults=lambda _: pick.choice(faults)) as server,
        client_for(server, max_retries=1) as client,
    ):
        budget = Budget(usd=1.0)
        async with generate_images(
            client, map(str, range(100)), save_dir=tmp_path, max_concurrent=20, budget=budget
        ) as outcomes:
            ended = [outcome async for outcome in outcomes]
        assert len(ended) == 100
        assert server.stats.images <= 29
        assert server.stats.images <= budget.images + budget.maybe_images <= 29
    over = [o for o in ended if isinstance(o, Failure) and isinstance(o.error, BudgetExhausted)]
    assert over


async def test_a_budget_needs_a_price() -> None:
    async with FakeGemini() as server, client_for(server) as client:
        with pytest.raises(ValueError, match="no price of a-new-model is known"):
            generate_images(client, ["a"], model="a-new-model", budget=Budget(usd=1.0))
        budget = Budget(usd=1.0)
        batch = generate_images(client, ["a"], model="a-new-model", budget=budget, price=0.25)
        async with batch as outcomes:
            assert (await outcomes.receive()).unwrap().cost == 0.25
        assert budget.spent == 0.25


async def test_waiting_for_a_rate_limit_is_not_in_flight_and_no_part_of_elapsed() -> None:
    async with FakeGemini(image_size=8, faults=[rate_limited(0.5)]) as server:
        async with client_for(server, timeout=0.4, max_retries=0) as client:
            began = perf_counter()
            async with generate_images(client, ["a"]) as outcomes:
                await until(lambda: outcomes.progress.waiting == 1)
                assert outcomes.progress.in_flight == 0
                outcome = await outcomes.receive()
            whole = perf_counter() - began
    assert isinstance(outcome, Success)
    assert whole - outcome.elapsed > 0.45  # what was asked for, clocks being as they are


async def test_draining_drops_what_waits_for_a_rate_limit() -> None:
    limited = rate_limited(600)
    async with FakeGemini(faults=lambda _: limited) as server, client_for(server) as client:
        with anyio.fail_after(20):
            async with generate_images(client, map(str, range(9)), max_concurrent=3) as outcomes:
                await until(lambda: outcomes.progress.waiting == 3)
                outcomes.drain()
                ended = [outcome async for outcome in outcomes]
    assert [type(o.error) for o in ended if isinstance(o, Failure)] == [Stopped] * 3


async def test_one_throttle_may_serve_several_clients() -> None:
    throttle = Throttle(capacity=2)
    async with FakeGemini(image_size=8, latency=0.02) as server:
        async with client_for(server, throttle=throttle) as one:
            async with client_for(server, throttle=lambda _: throttle) as other:
                async with anyio.create_task_group() as tasks:
                    for client in (one, other):
                        tasks.start_soon(
                            genbatch.collect, client.generate_image, map(str, range(20))
                        )
        assert server.stats.images == 40
        assert server.stats.peak == 2
