"""The only retries there are: the SDK's are off, and batches have none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from logging import WARNING, getLogger
from random import random
from typing import TypeVar

from anyio import sleep

from genbatch._core import waiting
from genbatch._logs import log, log_context
from genbatch._values import GenbatchError, InvalidResponse, Stopped, TimedOut, Unavailable

_log = getLogger("genbatch.client")

A = TypeVar("A")
T = TypeVar("T")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
LONGEST_ASKED = 120.0  # seconds; a service that asks for more is not waited for

# What may pass by itself. A rate limit is the throttle's.
_PASSING = (Unavailable, TimedOut, InvalidResponse)


async def with_retries(
    attempt: Callable[[], Awaitable[A]], max_retries: int, read: Callable[[A], T]
) -> T:
    """Make attempts until one is answered, fails for good, or is the last.

    Between attempts it waits: outside any timeout of theirs, and not in flight.

    Args:
        attempt: Makes one; InvalidResponse from it means an answer damaged on its way.
        max_retries: Most attempts after the first.
        read: Makes the result of an answer. An error of it is final: the answer was as the model
            meant it, and is paid for.

    Raises:
        GenbatchError: That of the last attempt. It tells how many there were, and whether any of
            them may have been paid for.
    """
    made, maybe_paid = 0, False
    while True:
        made += 1
        answered = False
        try:
            with log_context(attempt=made):
                answer = await attempt()
            answered = True
            return read(answer)
        except GenbatchError as error:
            error.attempts = made
            error.maybe_paid = maybe_paid = maybe_paid or error.maybe_paid
            pause = None if answered or made > max_retries else _pause_after(error, made)
            if pause is None or not await _wait(pause, error):
                raise


def _pause_after(error: GenbatchError, made: int) -> float | None:
    """Return seconds to wait after an attempt that failed, None if it failed for good."""
    if not isinstance(error, _PASSING):
        return None
    if error.retry_after is None:
        return backoff(made)
    # Whoever is asked to wait longer wants to know.
    return error.retry_after if error.retry_after <= LONGEST_ASKED else None


async def _wait(seconds: float, error: GenbatchError) -> bool:
    """Wait, and return whether another attempt may be made: not if the batch stops meanwhile."""
    message = "attempt %d failed, another in %.1f s"
    made = error.attempts
    try:
        with waiting():
            log(_log, WARNING, message, made, seconds, error=error, attempt=made, delay=seconds)
            await sleep(seconds)
    except Stopped:
        return False
    return True


def backoff(made: int) -> float:
    """Return seconds to wait after so many attempts: exponential with full jitter."""
    doublings = min(made - 1, 99)  # of a float, which overflows at a thousand
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**doublings)
    return longest * random()  # noqa: S311 - spreads load, guards nothing
