"""The apps of the documentation that send images one by one, behind their servers."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sniffio
import trio_websocket
import websockets
from anyio import BrokenResourceError, Event, create_task_group

from genbatch import OutcomeStream
from genbatch.testing import FakeGemini, blocked
from support.backends import until
from support.gates import Gate
from support.integrations import install, needs_packages
from support.pages import text_of
from support.servers import SERVERS, serving, tab

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[str]]

APPS = {
    "fastapi": ["uvicorn", "hypercorn+trio"],
    "starlette": ["uvicorn+uvloop", "hypercorn+trio"],
    "litestar": ["uvicorn", "hypercorn"],
    "quart": ["uvicorn", "hypercorn"],
    "quart_trio": ["hypercorn+trio"],
    "django": ["uvicorn", "hypercorn"],
}
PACKAGES = {"quart": ["quart"], "quart_trio": ["quart", "quart-trio"], "django": ["django"]}
SETTINGS = """
ROOT_URLCONF, ALLOWED_HOSTS = "app_with_events", ["*"]
TIME_ZONE = LOGGING_CONFIG = None  # or they would be changed for the whole process
"""
on_all_apps = pytest.mark.parametrize(
    ("app", "anyio_backend", "server"),
    [
        pytest.param(
            app, *SERVERS[name], id=f"{app}-{name}", marks=needs_packages if app in PACKAGES else ()
        )
        for app, servers in APPS.items()
        for name in servers
    ],
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the frameworks that the tests do not need otherwise."""
    folder = tmp_path_factory.mktemp("packages")
    install(folder, *sorted({each for names in PACKAGES.values() for each in names}))
    return folder


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Open:
    """Return what serves an app of the documentation in front of a fake service."""
    if app in PACKAGES:
        sys.path.append(str(request.getfixturevalue("packages")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = text_of(f"{app.removesuffix('_trio')}_events.py")
    if app == "quart_trio":
        text = text.replace(
            "from quart import Quart, ",
            "from quart_trio import QuartTrio as Quart\nfrom quart import ",
        )
    Path("app_with_events.py").write_text(text, encoding="utf-8")
    Path("shop_settings.py").write_text(SETTINGS)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop_settings")
    Path("studio.py").write_text(text_of("studio.py"), encoding="utf-8")

    @asynccontextmanager
    async def run(server: str, fake: FakeGemini, padding: int = 0) -> AsyncIterator[str]:
        if padding:
            larger = f'"padding": "x" * {padding}, "image"'
            Path("studio.py").write_text(text_of("studio.py").replace('"image"', larger))
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
        monkeypatch.setenv("GEMINI_API_KEY", "a-key")
        for name in ("studio", "app_with_events"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        module: Any = importlib.import_module("app_with_events")
        async with serving(module.app, server) as url:
            yield url

    return run


def saved() -> list[Path]:
    return list(Path("images").glob("*.png"))


@on_all_apps
async def test_images_arrive_before_the_last_is_made(server: str, opened: Open) -> None:
    gate = Gate("slow")
    faults = lambda call: blocked() if "secret" in call.prompt else gate(call)  # noqa: E731
    async with FakeGemini(image_size=8, faults=faults) as fake, opened(server, fake) as url:
        async with tab(url, ["a fox", "a secret", "a slow one"], "/events") as mine:
            first = sorted(
                [await mine.outcome(), await mine.outcome()], key=lambda told: told["index"]
            )
            assert Path("images", first[0]["image"]).is_file()
            assert "blocked" in first[1]["error"]
            gate.open()
            last = await mine.outcome()
            assert last is not None
            assert last["index"] == 2
            assert await mine.outcome() is None
            assert mine.is_whole


@on_all_apps
async def test_closing_a_tab_starts_no_call_and_saves_those_in_flight(
    server: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, noticed = Gate("slow"), Event()
    drain = OutcomeStream.drain

    def noticing(self: Any) -> None:
        noticed.set()
        drain(self)

    monkeypatch.setattr(OutcomeStream, "drain", noticing)
    prompts = ["a fox", *(f"slow {number}" for number in range(40))]
    async with FakeGemini(image_size=8, faults=gate) as fake, opened(server, fake) as url:
        async with tab(url, prompts, "/events") as mine:
            assert await mine.outcome()
            await until(lambda: fake.stats.in_flight == 5)
        # Some frameworks leave a generator that they cancelled to the garbage collector, which is
        # slow in a large process: the event loop must get on in between.
        looks = count()
        await until(lambda: bool(next(looks) % 100 or gc.collect() >= 0) and noticed.is_set())
        gate.open()
        async with tab(url, ["another"], "/events") as other:
            assert await other.outcome()
        await until(lambda: len(saved()) == 7)
    assert fake.stats.calls == 7


@on_all_apps
async def test_a_tab_that_never_reads_stops_its_batch_alone(server: str, opened: Open) -> None:
    prompts = [f"unread {number}" for number in range(200)]
    async with FakeGemini(image_size=8) as fake:
        async with opened(server, fake, padding=30_000) as url:
            async with tab(url, prompts, "/events") as mine:
                assert await mine.status() == 200
                before = -1
                while fake.stats.calls > before:  # until its window is full
                    before = fake.stats.calls
                    async with tab(url, ["another"], "/events") as other:
                        assert await other.outcome()
            assert len(saved()) < 150


@on_all_apps
async def test_a_server_that_shuts_down_cuts_answers_off_and_saves_what_is_in_flight(
    app: str, server: str, opened: Open
) -> None:
    if server == "hypercorn.asyncio" and sys.version_info >= (3, 12):
        pytest.skip("hypercorn waits for answers for ever: pgjones/hypercorn#308")
    if app in ("quart", "django") and server == "hypercorn.asyncio":
        pytest.skip(f"{app} does not cancel an answer that hypercorn cancels: it ends in an error")
    gate = Gate("slow")
    prompts = [f"slow {number}" for number in range(40)]

    async def watch(url: str) -> None:
        async with tab(url, prompts, "/events") as mine:
            with suppress(BrokenResourceError):
                assert await mine.outcomes() == []
            assert not mine.is_whole
        gate.open()

    async with FakeGemini(image_size=8, faults=gate) as fake, create_task_group() as tasks:
        async with opened(server, fake) as url:
            tasks.start_soon(watch, url)
            await until(lambda: fake.stats.in_flight == 5)
    assert len(saved()) == fake.stats.calls == 5


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[Callable[..., Any], Callable[..., Any]]]:
    """Open a WebSocket, and yield what sends and what receives on it."""
    url = url.replace("http", "ws")
    if sniffio.current_async_library() == "trio":
        async with trio_websocket.open_websocket_url(url) as trios:
            yield trios.send_message, trios.get_message
    else:
        async with websockets.connect(url, proxy=None) as socket:
            yield socket.send, socket.recv


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # trio_websocket's
@pytest.mark.parametrize("app", ["fastapi"])
@pytest.mark.parametrize(
    ("anyio_backend", "server"), [SERVERS["uvicorn"], SERVERS["hypercorn+trio"]]
)
async def test_a_socket_is_told_of_images_and_closing_it_starts_no_call(
    server: str, opened: Open
) -> None:
    gate = Gate("slow")
    closed = (websockets.ConnectionClosedOK, trio_websocket.ConnectionClosed)
    async with FakeGemini(image_size=8, faults=gate) as fake, opened(server, fake) as url:
        async with connected(f"{url}/socket") as (send, receive):
            await send(json.dumps(["a fox", "a hen"]))
            told = [json.loads(await receive()) for _ in range(2)]
            assert {Path("images", each["image"]).is_file() for each in told} == {True}
            with pytest.raises(closed):
                await receive()
        async with connected(f"{url}/socket") as (send, _):
            await send(json.dumps([f"slow {number}" for number in range(40)]))
            await until(lambda: fake.stats.in_flight == 5)
        async with connected(f"{url}/socket") as (send, receive):
            await send(json.dumps(["a fox"]))
            await receive()
        gate.open()
        await until(lambda: len(saved()) == 7)
    assert fake.stats.calls == 7
