"""The fixtures ``fake_gemini`` and ``fake_openai``, for the tests of programs that use genbatch.

pytest loads this module by itself. The fake services run in threads of their own, so the fixtures
work in plain tests and under any runner of asynchronous ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # every run of pytest imports this module
    from .testing import FakeGemini, FakeOpenAI

__all__ = ["fake_gemini", "fake_openai"]

_MARKERS = {"fake_gemini": "FakeGemini", "fake_openai": "FakeOpenAI"}
# A project's own settings of these would lead past the fake service.
_GEMINI_VARIABLES = ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for marker, fake in _MARKERS.items():
        text = f"{marker}(**options): options of the {fake} that the fixture {marker} starts."
        config.addinivalue_line("markers", text)


@pytest.fixture
def fake_gemini(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeGemini]:
    """A running FakeGemini that the environment names, with options from the marker fake_gemini."""
    from .testing import FakeGemini

    with FakeGemini(**_options(request, "fake_gemini")) as server:
        for name in _GEMINI_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("GEMINI_API_KEY", "a-key")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server


@pytest.fixture
def fake_openai(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeOpenAI]:
    """A running FakeOpenAI that the environment names, with options from the marker fake_openai."""
    from .testing import FakeOpenAI

    with FakeOpenAI(**_options(request, "fake_openai")) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def _options(request: pytest.FixtureRequest, marker: str) -> dict[str, Any]:
    """Return the options of all markers of a test; the closest one wins."""
    options: dict[str, Any] = {"image_size": 64}
    for mark in reversed(list(request.node.iter_markers(marker))):
        options |= mark.kwargs
    return options
