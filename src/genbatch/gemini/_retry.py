"""The only retries there are: the SDK's are off, and batches have none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import random
from typing import TypeVar

from anyio import sleep

from genbatch._errors import InvalidResponse, RateLimited, Unavailable

T = TypeVar("T")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
LONGEST_ASKED = 120.0  # seconds; a service that asks for more is not waited for


async def with_retries(attempt: Callable[[], Awaitable[T]], max_retries: int) -> T:
    """Make attempts until one returns, fails for good, or is the last.

    Between attempts it sleeps outside any timeout of theirs.

    Args:
        attempt: Makes one; InvalidResponse from it means an answer damaged on its way.
        max_retries: Most attempts after the first.

    Raises:
        TimeoutError: If the last attempt timed out; tells how many there were.
        Exception: Any other error of the last attempt, unchanged.
    """
    made = 0
    while True:
        made += 1
        try:
            return await attempt()
        except TimeoutError as exc:
            if made > max_retries:
                attempts = "1 attempt" if made == 1 else f"{made} attempts"
                raise TimeoutError(f"{exc} ({attempts})") from exc
            pause = backoff(made)
        except (RateLimited, Unavailable, InvalidResponse) as exc:
            if made > max_retries:
                raise
            asked = exc.retry_after if isinstance(exc, RateLimited) else None
            if asked is not None and asked > LONGEST_ASKED:
                raise  # whoever waits that long wants to know
            pause = backoff(made) if asked is None else asked
        await sleep(pause)


def backoff(made: int) -> float:
    """Return seconds to wait after so many attempts: exponential with full jitter."""
    doublings = min(made - 1, 99)  # of a float, which overflows at a thousand
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**doublings)
    return longest * random()  # noqa: S311 - spreads load, guards nothing
