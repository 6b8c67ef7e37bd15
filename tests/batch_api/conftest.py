"""Batches by jobs that wait for next to nothing."""

from __future__ import annotations

import anyio.lowlevel
import pytest

from genbatch._client import _retry
from genbatch.batch_api import _collect, _queue, _submit


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited before something was tried again; nothing waits."""
    seconds: list[float] = []

    async def sleep(pause: float) -> None:
        seconds.append(pause)
        await anyio.lowlevel.checkpoint()

    for module in (_collect, _submit, _retry):
        monkeypatch.setattr(module, "sleep", sleep)
    monkeypatch.setattr(_queue, "_LINGER", 0.1)
    return seconds
