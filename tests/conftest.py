"""The one backend matrix, and the guard against code that blocks an event loop."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.lowlevel
import google.genai  # noqa: F401 - its import reads many files, once; not in a running loop
import hypothesis  # noqa: F401 - at its import trio's random numbers must not be frozen yet
import pytest
from blockbuster import blockbuster_ctx

from genbatch import _http
from genbatch._client import _retry
from support.backends import BACKENDS

# A job in the background ignores it, and so would the processes that tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Reading all certificates of the system takes a tenth of a second for each client that is opened.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "fixtures" / "authority.pem")


# Where the event loop itself is what is tested; elsewhere a third loop is for the longer runs.
_ABOUT_LOOPS = ("core", "faults", "property", "run", "throttle", "test_http.py")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave what runs on uvloop too to the slow tests, unless it is about event loops."""
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    if room not in _ABOUT_LOOPS and "uvloop" in item.name.partition("[")[2]:
        item.add_marker("slow")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers ``-n auto`` starts: tests wait as long as they compute."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """Take modules and tests out of the garbage collector's sight."""
    gc.collect()
    gc.freeze()


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
    """Return what arranges for an act in the read that returns the last byte of an answer."""

    def arrange(act: Callable[[], object]) -> None:
        read = _http._Stream.read
        received: dict[_http._Stream, bytes] = {}

        async def acting(self: _http._Stream, *args: Any, **options: Any) -> bytes:
            data = await read(self, *args, **options)
            received[self] = received.get(self, b"") + data
            head, _, body = received[self].partition(b"\r\n\r\n")
            announced = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            if announced is not None and len(body) >= int(announced[1]):
                act()
            return data

        monkeypatch.setattr(_http._Stream, "read", acting)

    return arrange
