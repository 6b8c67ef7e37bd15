"""Answers that are held back until the test says so."""

from __future__ import annotations

import threading
from typing import Any

from genbatch.testing import Call, Fault


class Gate:
    """Holds the answers to prompts with a text in them, made and paid for, until it is opened."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._is_open = threading.Event()

    def open(self) -> None:
        """Let the answers go, and those to come."""
        self._is_open.set()

    def close(self) -> None:
        """Hold those to come."""
        self._is_open.clear()

    def __call__(self, call: Call) -> Fault | None:
        return Fault(edit=self._wait) if self._text in call.prompt else None

    def _wait(self, answer: dict[str, Any]) -> dict[str, Any]:
        assert self._is_open.wait(60)
        return answer
