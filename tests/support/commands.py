"""How tests run the command ``genbatch`` and look at what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from genbatch.testing import Call, FakeGemini
from support.warm import PythonProcess, start_module

COMMAND = [sys.executable, "-m", "genbatch"]
CANARY = "canary-key-0123456789"
PARTI = Path(__file__).parents[3] / "shared" / "data" / "PartiPrompts.tsv"

Finished = subprocess.CompletedProcess[str]


class Genbatch(Protocol):
    """Runs the command to its end."""

    def __call__(self, *arguments: str, **options: Any) -> Finished: ...


class Serve(Protocol):
    """Starts a fake service that the command then talks to."""

    def __call__(self, **options: Any) -> FakeGemini: ...


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Get what starts fake services for the block, to which commands of the environment talk."""
    with ExitStack() as stack:

        def start(**options: Any) -> FakeGemini:
            fake = stack.enter_context(FakeGemini(**{"image_size": 16} | options))
            monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
            monkeypatch.setenv("GEMINI_API_KEY", CANARY)
            return fake

        yield start


def started(arguments: list[str], **options: Any) -> PythonProcess:
    return start_module("genbatch", *arguments, **options)


def write_prompts(count: int = 8) -> None:
    Path("prompts.txt").write_text("".join(f"a fox, number {n}\n" for n in range(count)))


def images(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.png"))


def arrival(number: int, latency: Callable[[Call], float]) -> tuple[threading.Event, Any]:
    """Return an event that the call of this number sets, and the latency that makes it so."""
    arrived = threading.Event()

    def watched(call: Call) -> float:
        if call.number == number:
            arrived.set()
        return latency(call)

    return arrived, watched
