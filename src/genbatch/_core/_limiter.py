"""The batch's own limiter: a CapacityLimiter that says when it has been resized."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from anyio import CapacityLimiter


def open_limiter(total: int, resized: Callable[[], None]) -> CapacityLimiter:
    """Return a limiter of the running backend.

    A batch has to start more workers when there are more tokens, even if no task waits for one.

    Args:
        total: Its tokens.
        resized: Called after each change of its total_tokens, until close_limiter.
    """
    backend: Any = type(CapacityLimiter(total))
    limiter = _kind(backend)(total)
    limiter._resized = resized
    return limiter  # type: ignore[no-any-return]


def close_limiter(limiter: Any) -> None:
    """Stop notifying of changes."""
    del limiter._resized


@cache
def _kind(backend: Any) -> Any:
    class BatchLimiter(backend):  # type: ignore[misc]
        _resized: Callable[[], None] = staticmethod(lambda: None)
        _waiting = 0  # tasks waiting for a token; one may count twice

        async def __aenter__(self) -> None:
            await self.acquire()

        async def acquire(self) -> None:
            self._waiting += 1
            try:
                await super().acquire()
            finally:
                self._waiting -= 1

        async def acquire_on_behalf_of(self, borrower: object) -> None:
            self._waiting += 1
            try:
                await super().acquire_on_behalf_of(borrower)
            finally:
                self._waiting -= 1

        @property
        def total_tokens(self) -> float:
            return backend.total_tokens.fget(self)  # type: ignore[no-any-return]

        @total_tokens.setter
        def total_tokens(self, value: float) -> None:
            backend.total_tokens.fset(self, value)
            self._resized()

    return BatchLimiter
