"""The worker of the documentation on arq, with a Redis of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from genbatch.testing import FakeGemini
from support.gates import Gate
from support.integrations import install, needs_packages
from support.pages import text_of
from support.programs import read_until
from support.waiting import until

pytestmark = [
    pytest.mark.slow,
    needs_packages,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is missing"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arq")
    install(folder, "arq")
    return folder


@pytest.fixture
def python(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return what starts Python beside the files of the documentation, a Redis and a store."""
    for file in ("arq_worker.py", "arq_enqueue.py"):
        (tmp_path / file).write_text(text_of(file), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}")
    monkeypatch.setenv("STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("PYTHONPATH", f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "store").mkdir()

    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        redis = start("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "")
        read_until(redis, "Ready to accept connections")
        yield lambda *arguments: start(sys.executable, *arguments)


def prompts(first: int, last: int) -> list[str]:
    return [f"fox {number}" for number in range(first, last)]


def test_a_worker_drains_at_sigterm_and_two_others_make_the_rest(
    python: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    worker = ("-m", "arq", "arq_worker.WorkerSettings")
    with FakeGemini(image_size=8, faults=gate) as fake:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
        monkeypatch.setenv("GEMINI_API_KEY", "a-key")
        for _ in range(2):  # one job
            assert python("arq_enqueue.py", "foxes", *prompts(0, 50)).wait(60) == 0
        first = python(*worker)
        until(lambda: fake.stats.in_flight == 20)
        first.send_signal(signal.SIGTERM)
        read_until(first, "shutdown on SIGTERM")
        gate.open()
        shown, _ = first.communicate(timeout=60)
        assert "cancelled, will be run again" in shown
        assert first.returncode == 0
        saved = list((tmp_path / "store").iterdir())
        assert len(saved) == fake.stats.images == fake.stats.calls == 20

        gate.close()
        assert python("arq_enqueue.py", "more", *prompts(50, 100)).wait(60) == 0
        others = [python(*worker) for _ in range(2)]
        until(lambda: fake.stats.in_flight == 40)  # a job each
        gate.open()
        for other in others:
            read_until(other, "draw ●")
    assert len(list((tmp_path / "store").iterdir())) == fake.stats.images == fake.stats.calls == 100
