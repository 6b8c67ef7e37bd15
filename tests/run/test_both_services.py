"""What every service must keep, over the client of each: faults, bill, stops, resuming, kills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from genbatch import Budget, Failure, GeminiClient, Prompt, Success, generate_images
from genbatch._client import _retry
from genbatch.openai import OpenAIClient
from genbatch.testing import (
    Call,
    FakeGemini,
    FakeOpenAI,
    Fault,
    bad_key,
    broken_json,
    html_page,
    no_credit,
    openai_error,
    redirect,
    reset,
    retired_model,
    short_body,
)
from support.backends import until
from support.batch_runs import kinds, prompts, spent_in
from support.commands import arrival, images, started, write_prompts
from support.warm import run_module

pytestmark = pytest.mark.anyio

Faults = Callable[[Call], Fault | None]


@dataclass(frozen=True)
class Named:
    """A service: its client, its fake, its words, and what an image of it costs and reserves."""

    client: Any
    fake: Any
    model: str
    cost: float
    most: float
    key: Fault
    credit: Fault
    gone: Fault
    refused: Fault
    cut: Callable[[dict[str, Any]], dict[str, Any]]

    @asynccontextmanager
    async def running(self, faults: Any = ()) -> AsyncIterator[tuple[Any, Any]]:
        async with (
            self.fake(image_size=8, faults=faults) as fake,
            self.client("a-key", base_url=fake.url) as client,
        ):
            yield fake, client


def cut_of_gemini(answer: dict[str, Any]) -> dict[str, Any]:
    for part in answer["candidates"][0]["content"]["parts"]:
        if "inlineData" in part:
            part["inlineData"]["data"] = part["inlineData"]["data"][:40]
    return answer


def cut_of_openai(answer: dict[str, Any]) -> dict[str, Any]:
    answer["data"][0]["b64_json"] = answer["data"][0]["b64_json"][:40]
    return answer


SERVICES = {
    "gemini": Named(
        client=GeminiClient,
        fake=FakeGemini,
        model="flash",
        cost=0.0336,
        most=0.0487,
        key=bad_key(),
        credit=no_credit(),
        gone=retired_model("gemini-9"),
        refused=Fault(status=400, body={"error": {"code": 400, "message": "No such field."}}),
        cut=cut_of_gemini,
    ),
    "openai": Named(
        client=OpenAIClient,
        fake=FakeOpenAI,
        model="flare",
        cost=0.0527,
        most=0.2109,
        key=openai_error(401, "invalid_api_key", "Incorrect API key."),
        credit=openai_error(429, "insufficient_quota", "Your prepayment credits are depleted."),
        gone=openai_error(404, "model_not_found", "No such model.", param="model"),
        refused=openai_error(400, "unknown_parameter", "No such field."),
        cut=cut_of_openai,
    ),
}
SAME = {
    "reset": reset(),
    "cut off": short_body(60),
    "busy": Fault(status=503),
    "garbage": broken_json(),
    "page": html_page(200),
}


@pytest.fixture(params=SERVICES.values(), ids=SERVICES)
def service(request: pytest.FixtureRequest) -> Named:
    named: Named = request.param
    return named


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "FIRST_PAUSE", 0.001)


async def run(client: Any, wanted: Any, directory: Path, **options: Any) -> list[Any]:
    async with generate_images(client, wanted, save_dir=directory, **options) as outcomes:
        return [each async for each in outcomes]


@pytest.mark.parametrize("fault", SAME.values(), ids=SAME)
async def test_what_may_pass_is_tried_again_and_all_images_come(
    tmp_path: Path, service: Named, fault: Fault
) -> None:
    async with service.running([fault, None, fault]) as (fake, client):
        outcomes = await run(client, prompts(6), tmp_path, max_concurrent=2)
        assert kinds(outcomes) == {"image": 6}
        assert fake.stats.calls == 8
    assert (await spent_in(tmp_path)).images == 6


async def test_what_is_there_is_not_asked_for_again(tmp_path: Path, service: Named) -> None:
    async with service.running() as (fake, client):
        for number in (3, 5, 5):
            assert kinds(await run(client, prompts(number), tmp_path)) == {"image": number}
        assert fake.stats.calls == 5


async def test_a_budget_holds_over_runs_and_is_the_bill(tmp_path: Path, service: Named) -> None:
    limit = service.most + 2.5 * service.cost
    async with service.running() as (fake, client):
        for _ in range(3):
            budget = Budget(limit)
            if (tmp_path / ".genbatch").exists():
                budget.spent, budget.maybe_spent, *_ = await spent_in(tmp_path)
            await run(client, prompts(9), tmp_path, budget=budget, max_concurrent=3)
            assert fake.stats.images == 3
            assert budget.spent == pytest.approx(3 * service.cost, rel=0.02)
    assert (await spent_in(tmp_path)).usd == pytest.approx(budget.spent)


async def test_an_answer_without_usage_counts_as_reserved(tmp_path: Path, service: Named) -> None:
    def without(answer: dict[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in answer.items() if "usage" not in name.lower()}

    budget = Budget(9.0)
    async with service.running(lambda call: Fault(edit=without)) as (_, client):
        assert kinds(await run(client, prompts(2), tmp_path, budget=budget)) == {"image": 2}
    assert budget.spent == pytest.approx(2 * service.most, rel=0.02)
    assert (await spent_in(tmp_path)).usd == pytest.approx(budget.spent)


async def test_a_cut_image_is_paid_kept_and_not_asked_for_again(
    tmp_path: Path, service: Named
) -> None:
    async with service.running(lambda call: Fault(edit=service.cut)) as (fake, client):
        for _ in range(2):
            assert kinds(await run(client, prompts(1), tmp_path)) == {"DamagedImage": 1}
        assert fake.stats.calls == 1
    assert (await spent_in(tmp_path))[2:] == (1, 0)
    assert len([each async for each in anyio.Path(tmp_path / "damaged").iterdir()]) == 1


@pytest.mark.parametrize("why", ["key", "credit", "gone", "refused", "redirect"])
async def test_what_every_prompt_would_meet_stops_the_run_and_is_not_held_against_them(
    tmp_path: Path, service: Named, why: str
) -> None:
    fault: Fault = redirect("http://127.0.0.2/") if why == "redirect" else getattr(service, why)
    is_broken = True
    async with service.running(lambda call: fault if is_broken else None) as (fake, client):
        outcomes = await run(client, prompts(60), tmp_path, max_concurrent=5)
        assert not any(isinstance(each, Success) for each in outcomes)
        assert fake.stats.calls <= 5 + 10
        assert (await spent_in(tmp_path))[:2] == (0.0, 0.0)
        is_broken = False
        assert kinds(await run(client, prompts(60), tmp_path)) == {"image": 60}


async def test_an_image_that_comes_is_saved_whatever_is_cancelled(
    tmp_path: Path, service: Named
) -> None:
    async with service.running() as (fake, client):
        with anyio.CancelScope() as scope:
            async with generate_images(client, prompts(40), save_dir=tmp_path) as outcomes:
                await outcomes.receive()
                scope.cancel()
        await until(lambda: fake.stats.in_flight == 0)
        saved, paid = (await spent_in(tmp_path)).images, fake.stats.images
        left = (await spent_in(tmp_path)).maybe_images
        assert saved <= paid <= saved + left
        assert kinds(await run(client, prompts(40), tmp_path)) == {"image": 40}


async def test_a_prompt_that_cannot_be_asked_fails_alone(tmp_path: Path, service: Named) -> None:
    wanted = [Prompt("a fox", image_size="9K"), "an owl"]
    async with service.running() as (fake, client):
        outcomes = await run(client, wanted, tmp_path)
        assert kinds(outcomes) == {"ValueError": 1, "image": 1}
        assert fake.stats.calls == 1
    assert [each.index for each in outcomes if isinstance(each, Failure)] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kills_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Named, backend: str
) -> None:
    """Sixty kills in all, a few calls after each start."""
    monkeypatch.chdir(tmp_path)
    genbatch = partial(run_module, "genbatch")
    write_prompts(120)
    run = ["run", "prompts.txt", "--model", service.model, "-k", "3", "--backend", backend]
    kills, calls = 15, 0
    with anyio.from_thread.start_blocking_portal() as portal:
        latest = 0
        arrived: Any = None

        def latency(call: Call) -> float:
            nonlocal latest
            latest = call.number
            return float(arrived[1](call))

        fake = service.fake(image_size=8, latency=latency)
        arrived = arrival(1, lambda call: 0.02)
        with portal.wrap_async_context_manager(fake):
            for name in ("GOOGLE_GEMINI_BASE_URL", "OPENAI_BASE_URL"):
                monkeypatch.setenv(name, fake.url)
            for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
                monkeypatch.setenv(name, "a-key")
            for _ in range(kills):
                arrived = arrival(latest + 4, lambda call: 0.02)
                with started(run) as process:
                    while not arrived[0].wait(0.05):
                        assert process.poll() is None, process.communicate()
                    process.kill()
                assert genbatch("status", "--json").returncode == 0
            done = genbatch(*run)
            assert done.returncode == 0, done.stderr
            calls = fake.stats.images
    assert len(images("genbatch-out")) == 120
    assert calls <= 120 + 3 * kills
    assert genbatch("verify").returncode == 0
