"""The one backend matrix, and the guard against code that blocks an event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import google.genai  # noqa: F401 - its import reads many files, once; not in a running loop
import pytest
from blockbuster import blockbuster_ctx


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


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    with blockbuster_ctx("genbatch"):
        yield
