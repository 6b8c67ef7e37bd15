"""Waiting for threads and processes, where there is no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

_LONGEST = 60.0  # seconds
_PAUSE = 0.01


def until(is_so: Callable[[], object]) -> None:
    """Look again and again until a condition holds; fail after a minute."""
    end = time.monotonic() + _LONGEST
    while not is_so():
        assert time.monotonic() < end
        time.sleep(_PAUSE)
