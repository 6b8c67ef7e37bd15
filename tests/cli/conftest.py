"""The command ``genbatch`` in an empty folder, and a fake service for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.commands import Genbatch, Serve, served
from support.warm import run_module


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")
    ours = [name for name in os.environ if name.startswith("GENBATCH_")]
    for name in (*keys, *ours, "FORCE_COLOR", "NO_COLOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def genbatch() -> Genbatch:
    return partial(run_module, "genbatch")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Run a fake service in a thread, and point the environment of the command to it."""
    with served(monkeypatch) as serve:
        yield serve
