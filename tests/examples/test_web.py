"""The web example behind its servers: tabs see their images arrive, and are of no matter to others.

Tabs are connections here; tests/browser has real ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import Event, create_task_group, wait_all_tasks_blocked
from fastapi import FastAPI, Request

from genbatch.testing import Call, FakeGemini, Fault, blocked, rate_limited
from support.backends import until
from support.gates import Gate
from support.servers import app_of, on_all_servers, serving, tab
from web import app as web

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def prompts(text: str, count: int = 6) -> list[str]:
    return [f"{text} {number}" for number in range(count)]


def never(text: str) -> Any:
    """Return the latency of a service that never answers prompts with a text in them."""
    return lambda call: math.inf if text in call.prompt else 0.0


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate("gated")
    yield gate
    gate.open()


@on_all_servers
async def test_images_arrive_before_the_last_is_made(server: str, folder: Path) -> None:
    async with FakeGemini(image_size=8, latency=never("5")) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, prompts("a fox")) as mine:
                arrived = [await mine.outcome() for _ in range(5)]
                await until(lambda: fake.stats.in_flight == 1)
                assert {told["index"] for told in arrived if told} == {0, 1, 2, 3, 4}
                assert [told["done"] for told in arrived if told] == [1, 2, 3, 4, 5]
                assert len(list(folder.glob("*.png"))) == 5


@on_all_servers
async def test_where_no_image_comes_progress_is_told(
    server: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TICK", 0.01)
    async with FakeGemini(image_size=8, latency=math.inf) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, prompts("a fox")) as mine:
                for _ in range(3):
                    assert await mine.news() == {"done": 0, "progress": "0/6 done, 0 %"}


@on_all_servers
async def test_closing_a_tab_ends_its_calls_and_no_others(
    server: str, folder: Path, gate: Gate
) -> None:
    async with FakeGemini(image_size=8, latency=never("endless"), faults=gate) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, prompts("gated")) as other:
                async with tab(url, prompts("endless")):
                    await until(lambda: fake.stats.in_flight == 8)
                await until(lambda: fake.stats.in_flight == 4)
                gate.open()
                assert [sorted(told) for told in await other.outcomes()] == 6 * [
                    ["done", "image", "index", "progress"]
                ]
                assert (fake.stats.calls, fake.stats.images) == (10, 6)


@on_all_servers
async def test_what_a_closed_tab_has_got_is_paid_for_once(server: str, folder: Path) -> None:
    async with FakeGemini(image_size=8) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, prompts("a fox")) as first:
                before = await first.outcomes()
            async with tab(url, prompts("a fox")) as again:
                assert [told["image"] for told in await again.outcomes()] == [
                    told["image"] for told in before
                ]
        assert fake.stats.calls == 6


@on_all_servers
async def test_a_prompt_that_fails_is_told_beside_the_others(server: str, folder: Path) -> None:
    faults = [blocked("IMAGE_SAFETY")]
    async with FakeGemini(image_size=8, faults=faults) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, prompts("a fox", 3)) as mine:
                outcomes = await mine.outcomes()
    (failed,) = [told for told in outcomes if "error" in told]
    assert "IMAGE_SAFETY" in failed["error"]
    assert len(outcomes) == 3


@on_all_servers
async def test_too_much_is_refused_unread(server: str, folder: Path) -> None:
    async with FakeGemini(image_size=8) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, ["x" * web.MOST_BYTES]) as mine:
                assert await mine.status() == 413
    assert fake.stats.calls == 0


@on_all_servers
async def test_fifty_tabs_share_what_there_is(
    server: str, folder: Path, pauses: list[float]
) -> None:
    """With rate limits, a service that fails now and then, and a tab that never reads."""
    failed: set[str] = set()
    ended: list[int] = []

    def fault(call: Call) -> Fault | None:
        if call.number in range(20, 26):
            return rate_limited(0.01)
        if not call.prompt.endswith("1") or call.prompt in failed:
            return None
        failed.add(call.prompt)
        return Fault(status=503)

    async def visit(url: str, number: int) -> None:
        async with tab(url, prompts(f"fox of {number}", 3)) as mine:
            outcomes = await mine.outcomes()
        assert ["image" in told for told in outcomes] == [True] * 3, outcomes
        ended.append(number)

    async with FakeGemini(image_size=8, latency=0.01, faults=fault) as fake:
        async with serving(app_of(fake, folder), server) as url:
            async with tab(url, prompts("nobody reads", web.MOST_PROMPTS)):
                await until(lambda: fake.stats.calls > 0)
                async with create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(visit, url, number)
                assert fake.stats.peak <= web.MOST_CALLS
    assert sorted(ended) == list(range(50))
    assert len(failed) >= 50


@on_all_servers
async def test_the_response_is_one_for_fastapi_too(server: str, folder: Path) -> None:
    async with FakeGemini(image_size=8, latency=never("endless")) as fake:
        studio = app_of(fake, folder)
        app = FastAPI(lifespan=studio.router.lifespan_context)

        @app.post("/batches")
        async def make(prompts: list[str], request: Request) -> web.BatchResponse:
            return web.BatchResponse(request.state.studio.batch(prompts))

        async with serving(app, server) as url:
            async with tab(url, prompts("a fox")) as mine:
                assert len(await mine.outcomes()) == 6
                assert mine.is_whole
            async with tab(url, prompts("endless")):
                await until(lambda: fake.stats.in_flight == 4)
            await until(lambda: fake.stats.in_flight == 0)


# Without a server


async def test_a_tab_that_does_not_read_pauses_and_holds_up_nobody(folder: Path) -> None:
    async with FakeGemini(image_size=8) as fake:
        app = app_of(fake, folder)
        async with app.router.lifespan_context(app) as state, create_task_group() as tasks:
            studio: web.Studio = state["studio"]
            gone, sending, ended = Event(), Event(), Event()

            async def receive() -> dict[str, Any]:
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: dict[str, Any]) -> None:
                if "body" in message:
                    sending.set()
                    await anyio.sleep_forever()

            async def visit() -> None:
                await web.BatchResponse(studio.batch(prompts("unread", 50)))({}, receive, send)
                ended.set()

            tasks.start_soon(visit)
            await sending.wait()
            most = 1 + 2 * web.MOST_CALLS_OF_A_TAB  # the one being sent, and the batch's window
            await until(lambda: fake.stats.images == most)
            await until(lambda: studio.limiter.borrowed_tokens == 0)
            async with studio.batch(prompts("read", 20)) as outcomes:
                assert len([outcome.unwrap() async for outcome in outcomes]) == 20
            assert fake.stats.images == most + 20
            gone.set()
            await ended.wait()


async def test_all_tabs_together_make_no_more_calls_than_the_app_may(folder: Path) -> None:
    async with FakeGemini(image_size=8, latency=math.inf) as fake:
        app = app_of(fake, folder)
        async with app.router.lifespan_context(app) as state, create_task_group() as tasks:
            studio: web.Studio = state["studio"]

            async def visit(number: int) -> None:
                async with studio.batch(prompts(f"fox of {number}")) as outcomes:
                    await outcomes.receive()

            for number in range(3):
                tasks.start_soon(visit, number)
            await until(lambda: fake.stats.in_flight == web.MOST_CALLS)
            await until(lambda: studio.limiter.statistics().tasks_waiting == 4)
            assert fake.stats.peak == web.MOST_CALLS
            tasks.cancel_scope.cancel()


async def test_the_store_stays_open_until_the_last_batch_has_ended(folder: Path) -> None:
    """A server that shuts down cancels requests, and may not wait for them."""
    hold, saved = Event(), list[Path]()
    async with FakeGemini(image_size=8) as fake, create_task_group() as tasks:
        app = app_of(fake, folder)

        async def visit(studio: web.Studio) -> None:
            async with studio.batch(["a fox"]) as outcomes:
                await hold.wait()
                saved.extend([outcome.unwrap().path async for outcome in outcomes])

        async def let_go() -> None:
            await wait_all_tasks_blocked()
            hold.set()

        async with app.router.lifespan_context(app) as state:
            tasks.start_soon(visit, state["studio"])
            await wait_all_tasks_blocked()
            tasks.start_soon(let_go)
        assert len(saved) == 1
        assert saved[0].exists()
