"""The programs that the documentation shows as files, as they stand there."""

from __future__ import annotations

import runpy
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from litestar import Litestar

from genbatch.testing import Call, FakeGemini, Fault, blocked, rate_limited
from support.backends import until
from support.pages import text_of

pytestmark = pytest.mark.anyio

Running = tuple[httpx.AsyncClient, FakeGemini, Any]
Open = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return what runs an app of the documentation beside a fake service."""

    @asynccontextmanager
    async def run(file: str, **options: Any) -> AsyncIterator[Running]:
        (tmp_path / file).write_text(text_of(file), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        async with FakeGemini(**{"image_size": 16} | options) as fake:
            monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
            monkeypatch.setenv("GEMINI_API_KEY", "a-key")
            app = runpy.run_path(file)["app"]
            transport = httpx.ASGITransport(app)
            async with (
                lifespan_of(app),
                httpx.AsyncClient(transport=transport, base_url="http://app") as browser,
            ):
                yield browser, fake, app

    return run


def lifespan_of(app: Any) -> AbstractAsyncContextManager[object]:
    lifespan = app.lifespan() if isinstance(app, Litestar) else app.router.lifespan_context(app)
    return cast("AbstractAsyncContextManager[object]", lifespan)


def trouble(call: Call) -> Fault | None:
    if "secret" in call.prompt:
        return blocked()
    return rate_limited(7) if "busy" in call.prompt else None


@pytest.mark.parametrize("file", ["fastapi_app.py", "starlette_app.py", "litestar_app.py"])
async def test_an_app_answers_with_an_image(opened: Open, file: str) -> None:
    async with opened(file) as (browser, fake, _):
        answer = await browser.post("/image", params={"prompt": "a fox"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.content.startswith(b"\x89PNG")
        assert fake.stats.images == 1


@pytest.mark.parametrize("file", ["fastapi_app.py", "starlette_app.py", "litestar_app.py"])
async def test_an_app_passes_a_rate_limit_on(opened: Open, file: str) -> None:
    async with opened(file, faults=trouble) as (browser, _, app):
        app.state.client.throttle()._patience = 0  # seconds, or the test would wait
        answer = await browser.post("/image", params={"prompt": "a busy fox"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


async def test_an_error_of_the_prompt_is_told_and_spares_the_others(opened: Open) -> None:
    async with opened("fastapi_app.py", faults=trouble) as (browser, _, _):
        answer = await browser.post("/image", params={"prompt": "a secret"})
        assert answer.status_code == 422
        assert "blocked" in answer.json()["error"]
        assert (await browser.post("/image", params={"prompt": " "})).status_code == 422
        fox, secret = (await browser.post("/images", json=["a fox", "a secret"])).json()
    assert fox.endswith(" bytes")
    assert "blocked" in secret


async def test_a_job_is_accepted_at_once_and_goes_on(opened: Open) -> None:
    prompts = ["a fox", "an owl", "a secret"]
    async with opened("jobs_app.py", faults=trouble) as (browser, fake, _):
        answer = await browser.put("/jobs/foxes", json=prompts)
        assert (answer.status_code, answer.headers["location"]) == (202, "/jobs/foxes")
        assert answer.json()["state"] == "running"
        job = await ended(browser, "/jobs/foxes")
        assert job["state"] == "incomplete"
        assert job["progress"] == "3/3 done, 1 failed, 100 %"
        assert len(job["files"]) == 2
        assert all((Path("jobs/foxes") / name).is_file() for name in job["files"])
        await browser.put("/jobs/foxes", json=prompts[:2])
        assert (await ended(browser, "/jobs/foxes"))["state"] == "done"
        assert fake.stats.images == 2


async def test_a_job_may_be_asked_for_twice_and_its_name_is_checked(opened: Open) -> None:
    async with opened("jobs_app.py", latency=0.02) as (browser, fake, _):
        for _ in range(2):
            assert (await browser.put("/jobs/foxes", json=["a fox"])).status_code == 202
        assert (await ended(browser, "/jobs/foxes"))["state"] == "done"
        assert fake.stats.calls == 1
        assert (await browser.put("/jobs/..%5Cfoxes", json=["a fox"])).status_code == 400
        assert (await browser.get("/jobs/owls")).status_code == 404


async def test_an_app_that_ends_drains_its_jobs(opened: Open) -> None:
    gate = threading.Event()

    def held(answer: Any) -> Any:
        assert gate.wait(60)
        return answer

    async with opened("jobs_app.py", faults=lambda _: Fault(edit=held)) as (browser, fake, _):
        await browser.put("/jobs/foxes", json=[f"fox {number}" for number in range(400)])
        await until(lambda: fake.stats.in_flight == 5)
        gate.set()
    saved = list(Path("jobs/foxes").glob("*.png"))
    assert 5 <= len(saved) == fake.stats.images < 400


async def ended(browser: httpx.AsyncClient, url: str) -> Any:
    """Return the status of a job once it runs no more."""
    with anyio.fail_after(60):
        while True:
            job = (await browser.get(url)).json()
            if job["state"] != "running":
                return job
            await anyio.sleep(0.01)
