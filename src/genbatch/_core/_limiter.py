"""The batch's own limiter: a CapacityLimiter that says when it has been resized."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from anyio import CapacityLimiter


def open_limiter(total: int, resized: Callable[[], None]) -> CapacityLimiter:
    """Return a limiter of the running backend.

    Nobody has to wait for a token to hear of more of them: a batch starts more workers then.

    Args:
        total: Its tokens.
        resized: Called after each change of its total_tokens, until close_limiter.
    """
    backend: Any = type(CapacityLimiter(total))
    limiter = _kind(backend)(total)
    limiter.resized = resized
    return limiter  # type: ignore[no-any-return]


def close_limiter(limiter: Any) -> None:
    """Tell nobody any more of changes."""
    del limiter.resized


@cache
def _kind(backend: Any) -> Any:
    class BatchLimiter(backend):  # type: ignore[misc]
        resized: Callable[[], None] = staticmethod(lambda: None)
        waiting = 0  # who waits for a token; each may count twice

        async def __aenter__(self) -> None:
            await self.acquire()

        async def acquire(self) -> None:
            self.waiting += 1
            try:
                await super().acquire()
            finally:
                self.waiting -= 1

        async def acquire_on_behalf_of(self, borrower: object) -> None:
            self.waiting += 1
            try:
                await super().acquire_on_behalf_of(borrower)
            finally:
                self.waiting -= 1

        @property
        def total_tokens(self) -> float:
            return backend.total_tokens.fget(self)  # type: ignore[no-any-return]

        @total_tokens.setter
        def total_tokens(self, value: float) -> None:
            backend.total_tokens.fset(self, value)
            self.resized()

    return BatchLimiter
