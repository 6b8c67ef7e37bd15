"""Retries. There are no others: the SDK's are off, and batches do not retry."""

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
LONGEST_ASKED = 120.0  # seconds; a longer delay is raised to the caller

# Transient errors. Rate limits are the throttle's.
_PASSING = (Unavailable, TimedOut, InvalidResponse)


async def with_retries(
    attempt: Callable[[], Awaitable[A]], max_retries: int, read: Callable[[A], T]
) -> T:
    """Make attempts until one is answered, fails for good, or is the last.

    The pauses between attempts are outside their timeouts, and not in flight.

    Args:
        attempt: Makes one. An InvalidResponse raised by it means that the answer was damaged in
            transit, and is retried.
        max_retries: Most attempts after the first.
        read: Returns the result of an answer. Its errors are final: the answer arrived intact and
            is paid for.

    Raises:
        GenbatchError: The last attempt's error, with the number of attempts and whether any of them
            may have been paid for.
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
    """Return the seconds to wait after a failed attempt, or None if it must not be retried."""
    if not isinstance(error, _PASSING):
        return None
    if error.retry_after is None:
        return backoff(made)
    # Longer delays are raised to the caller.
    return error.retry_after if error.retry_after <= LONGEST_ASKED else None


async def _wait(seconds: float, error: GenbatchError) -> bool:
    """Wait, and return whether to try again: not if the batch has stopped meanwhile."""
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
    """Return the seconds to wait after a number of attempts: exponential, with full jitter."""
    doublings = min(made - 1, 99)  # of a float, which overflows at a thousand
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**doublings)
    return longest * random()  # noqa: S311 - spreads load, guards nothing
