"""The plugin in projects of users, one for each runner of asynchronous tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.integrations import install, needs_packages, register_plugin
from support.pages import text_of

pytestmark = pytest.mark.slow

ASYNC_TESTS = """
import pytest

import genbatch
from genbatch.openai import OpenAIClient
from genbatch.testing import FakeGemini, Fault, rate_limited


@pytest.fixture
async def client(fake_gemini):
    async with genbatch.GeminiClient() as client:
        yield client


@pytest.fixture
async def small_fake():
    async with FakeGemini(image_size=8, thread=True) as server:
        yield server


async def test_a_batch(client, fake_gemini, tmp_path):
    async with genbatch.generate_images(client, ["a fox", "an owl"], save_dir=tmp_path) as outcomes:
        paths = [outcome.unwrap().path async for outcome in outcomes]
    assert fake_gemini.stats.images == len(paths) == 2


async def test_both_services(fake_gemini, fake_openai):
    async with genbatch.GeminiClient() as gemini, OpenAIClient() as openai:
        await gemini.generate_image("a fox")
        await openai.generate_image("a fox")
    assert fake_gemini.stats.images == fake_openai.stats.images == 1


async def test_a_fake_of_their_own(small_fake):
    async with genbatch.GeminiClient("a-key", base_url=small_fake.url) as client:
        await client.generate_image("a fox")
    assert small_fake.stats.images == 1


@pytest.mark.fake_gemini(faults=[rate_limited(0.01)], api_keys={"a-key"})
class TestFaults:
    async def test_of_the_class(self, client, fake_gemini):
        await client.generate_image("a fox")
        assert fake_gemini.stats.calls == 2

    @pytest.mark.fake_gemini(faults=[Fault(status=503), Fault(status=503)])
    async def test_of_the_test_alone(self, client, fake_gemini):
        await client.generate_image("a fox")
        assert fake_gemini.stats.calls == 3


@pytest.mark.fake_openai(models={"gpt-image-9"})
async def test_options_of_the_other(fake_openai):
    async with OpenAIClient() as client:
        with pytest.raises(genbatch.Rejected, match="does not exist"):
            await client.generate_image("a fox")
"""

BOTH_LOOPS = """
import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param
"""

PLAIN_TESTS = """
import os
import subprocess
import sys

import anyio
import pytest

import genbatch


async def draw():
    async with genbatch.GeminiClient() as client:
        await client.generate_image("a fox")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program(fake_gemini, backend):
    anyio.run(draw, backend=backend)
    assert fake_gemini.stats.images == 1


def test_a_command(fake_gemini, tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox")
    command = [sys.executable, "-m", "genbatch", "run", "prompts.txt", "-o", "out"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert fake_gemini.stats.images == 1


def test_settings_of_the_project_do_not_lead_past_it(fake_gemini):
    anyio.run(draw)
    assert fake_gemini.calls[0].headers["x-goog-api-key"] == "a-key"
    assert not {"GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"} & set(os.environ)


def test_the_markers_are_registered(pytestconfig):
    markers = "".join(pytestconfig.getini("markers"))
    assert "fake_gemini(**options)" in markers
    assert "fake_openai(**options)" in markers
"""


def passed(folder: Path, settings: str, *paths: Path, **files: str) -> str:
    """Run the tests of a project, and return how many passed."""
    project, plugin = folder / "project", folder / "plugin"
    project.mkdir()
    register_plugin(plugin)
    (project / "pytest.ini").write_text(f"[pytest]\n{settings}\n")
    for name, text in files.items():
        (project / f"{name}.py").write_text(text)
    path = os.pathsep.join([*map(str, paths), str(plugin), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "--strict-markers"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1].partition(" passed")[0]


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of pytest-asyncio and pytest-trio, which need only what is here."""
    folder = tmp_path_factory.mktemp("runners")
    install(folder, "--no-deps", "pytest-asyncio", "pytest-trio")
    return folder


def test_plain_tests_use_the_fixtures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "a-real-key")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    assert passed(tmp_path, "", test_plain=PLAIN_TESTS) == "5"


def test_anyio_runs_them_on_both_loops(tmp_path: Path) -> None:
    files = {"conftest": BOTH_LOOPS, "test_async": ASYNC_TESTS}
    assert passed(tmp_path, "anyio_mode = auto", **files) == "12"


@needs_packages
def test_pytest_asyncio_runs_them_in_auto_mode(runners: Path, tmp_path: Path) -> None:
    settings = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function"
    assert passed(tmp_path, settings, runners, test_async=ASYNC_TESTS) == "6"


@needs_packages
def test_pytest_trio_runs_them_and_its_clock_may_jump(runners: Path, tmp_path: Path) -> None:
    files = {"test_async": ASYNC_TESTS, "test_autojump": text_of("test_autojump.py")}
    settings = "trio_mode = true\naddopts = -p no:asyncio"
    assert passed(tmp_path, settings, runners, **files) == "7"
