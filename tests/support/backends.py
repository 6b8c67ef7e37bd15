"""The event loops that tests run on, as anyio's pytest plugin takes them, and their hazards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import pytest

_TURNS = 1000
_PAUSE = 0.001  # seconds


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
if sys.version_info >= (3, 12):
    BACKENDS["asyncio+eager"] = ("asyncio", {"loop_factory": eager_loop})

# For what only asyncio has, such as a native Task.cancel().
only_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [options for options in BACKENDS.values() if options[0] == "asyncio"],
    ids=[name for name, options in BACKENDS.items() if options[0] == "asyncio"],
)
only_trio = pytest.mark.parametrize("anyio_backend", ["trio"])


async def foreign_cancellation() -> BaseException:
    """Return a cancellation that has nothing to do with the scopes around the caller."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class() as exc:
            caught = exc
            raise
    return caught


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until condition holds, where there is no event to wait for."""
    with anyio.fail_after(60):
        for turn in count():
            if condition():
                return
            # Threads and processes that are waited for need the processor, too.
            await anyio.sleep(0 if turn < _TURNS else _PAUSE)
