"""The one backend matrix, and the guard against code that blocks an event loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import anyio.lowlevel
import google.genai  # noqa: F401 - its import reads many files, once; not in a running loop
import pytest
from blockbuster import blockbuster_ctx

from genbatch.gemini import _retry
from genbatch.gemini._connection import Connection
from support.backends import BACKENDS

# A job in the background ignores it, and so would the processes that tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    with blockbuster_ctx("genbatch") as guard:
        # The measurement of coverage locks its own data, for a moment, in whatever runs.
        guard.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a client has slept between attempts; nothing sleeps."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(_retry, "sleep", sleep)
    return slept


@pytest.fixture
def at_last_byte(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return what arranges for an act as soon as the last byte of an answer has been read."""

    def arrange(act: Callable[[], object]) -> None:
        receive = Connection._receive

        async def acting(self: Connection, http: Any) -> Any:
            received = await receive(self, http)
            act()
            return received

        monkeypatch.setattr(Connection, "_receive", acting)

    return arrange
