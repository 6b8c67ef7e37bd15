"""Clients that are not ours get images from ``genbatch serve-fake``.

google-genai runs as it is installed. The others are installed into a temporary folder, if
GENBATCH_TEST_CLIENTS is 1; ``-rP`` shows their versions.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from anyio import to_thread

from genbatch.testing import FakeOpenAI
from support.backends import only_trio
from support.commands import started
from support.programs import environment
from support.wire import PATH, asking, png_size

CLIENTS = Path(__file__).parents[1] / "fixtures" / "clients"

pytestmark = pytest.mark.timeout(1800)  # for what is installed
others = pytest.mark.skipif(
    os.environ.get("GENBATCH_TEST_CLIENTS") != "1",
    reason="installs clients from npm and PyPI: set GENBATCH_TEST_CLIENTS=1",
)


@pytest.fixture
def url() -> Iterator[str]:
    with started(["serve-fake", "--port", "0", "--latency", "0"]) as server:
        assert server.stdout
        found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found
        yield found[0]
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


def output_of(*command: str | Path, **settings: str) -> str:
    """Return what a program prints, and show what it says of itself."""
    done = subprocess.run(
        command, env=environment(**settings), capture_output=True, encoding="utf-8"
    )
    sys.stdout.write(done.stderr)
    assert done.returncode == 0
    return done.stdout


def installed(folder: Path, package: str) -> Path:
    """Return the Python of a new environment that has a package."""
    output_of(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    output_of(python, "-m", "pip", "install", "-qq", "--no-compile", package)
    return python


def check_images(url: str, images: list[str]) -> None:
    """Check that images, in base64, are what the server made, and that it made no other."""
    stats = httpx.get(f"{url}/stats", trust_env=False).json()
    assert stats["images"] == stats["calls"] == len(images)
    assert {png_size(base64.b64decode(image, validate=True)) for image in images} == {(512, 512)}


def images_of(url: str, *command: str | Path) -> list[str]:
    return output_of(*command, GOOGLE_GEMINI_BASE_URL=url, GEMINI_API_KEY="a-key").splitlines()


def test_google_genai_gets_images_whole_and_streamed_with_and_without_asyncio(url: str) -> None:
    images = images_of(url, sys.executable, CLIENTS / "google_genai.py")
    assert len(images) == 4
    check_images(url, images)


@others
@only_trio  # once: each run installs it
@pytest.mark.anyio
async def test_openai_gets_images_from_its_own_fake(tmp_path: Path) -> None:
    python = await to_thread.run_sync(installed, tmp_path, "openai")
    async with FakeOpenAI() as server:
        settings = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "a-key"}
        program = partial(output_of, python, CLIENTS / "open_ai.py", **settings)
        images = (await to_thread.run_sync(program)).splitlines()
    assert server.stats.images == server.stats.calls == len(images) == 3
    assert {png_size(base64.b64decode(image)) for image in images} == {(512, 512)}


@others
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_curl_gets_images_with_the_key_in_the_query(url: str, version: str) -> None:
    path = PATH.replace("v1beta", version)
    stream = path.replace("generateContent", "streamGenerateContent")
    body = json.dumps(asking())
    answers = [
        output_of("curl", "--silent", "--fail", "--data", body, f"{url}{target}key=a-key")
        for target in (f"{path}?", f"{stream}?", f"{stream}?alt=sse&")
    ]
    sys.stdout.write(output_of("curl", "--version"))
    found = [re.findall(r'"data": "([A-Za-z0-9+/=]+)"', answer) for answer in answers]
    check_images(url, [image for (image,) in found])


@others
def test_google_genai_of_npm_gets_images_whole_and_streamed(url: str, tmp_path: Path) -> None:
    options = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
    output_of("npm", "install", "--silent", *options, "--prefix", tmp_path, "@google/genai")
    program = shutil.copy(CLIENTS / "google_genai.mjs", tmp_path)  # beside its node_modules
    images = images_of(url, "node", program)
    assert len(images) == 2
    check_images(url, images)


@others
def test_litellm_gets_images_whole_and_streamed(url: str, tmp_path: Path) -> None:
    python = installed(tmp_path, "litellm")
    images = images_of(url, python, CLIENTS / "lite_llm.py")
    assert len(images) == 2
    check_images(url, images)
