"""The one backend matrix, and the guard against code that blocks an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import google.genai  # noqa: F401 - its import reads many files, once; not in a running loop
import pytest
from blockbuster import blockbuster_ctx

from backends import BACKENDS


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    with blockbuster_ctx("genbatch") as guard:
        # The measurement of coverage locks its own data, for a moment, in whatever runs.
        guard.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield
