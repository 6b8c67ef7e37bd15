"""A call: attempts in their turn, each paid for, and again where a failure may pass.

There are no other retries: a service's own library has its own off, and batches do not retry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from logging import DEBUG, WARNING, getLogger
from random import random
from time import perf_counter
from typing import TypeVar

from anyio import sleep

from genbatch._core import waiting
from genbatch._logs import log, log_context
from genbatch._money import Account, Budget
from genbatch._throttle import Throttle
from genbatch._values import (
    DamagedImage,
    GenbatchError,
    Image,
    ImageRequest,
    InvalidResponse,
    Stopped,
    TimedOut,
    Unavailable,
)
from genbatch._watch import current_watch, watching
from genbatch.events import OnEvent, RetryScheduled

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
            if (watch := current_watch()) is not None:
                watch.tell(RetryScheduled(watch.call, watch.attempts, seconds, error))
            await sleep(seconds)
    except Stopped:
        return False
    return True


def backoff(made: int) -> float:
    """Return the seconds to wait after a number of attempts: exponential, with full jitter."""
    doublings = min(made - 1, 99)  # of a float, which overflows at a thousand
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**doublings)
    return longest * random()  # noqa: S311 - spreads load, guards nothing


class Throttles(dict[str, Throttle]):
    """The throttles of models by full id, each made when it is first asked for.

    Args:
        throttle: One for all models, or what makes that of a model; None for one each.
    """

    def __init__(self, throttle: Throttle | Callable[[str], Throttle] | None) -> None:
        super().__init__()
        self._throttle = throttle

    def __missing__(self, model: str) -> Throttle:
        made = Throttle() if self._throttle is None else self._throttle
        self[model] = made if isinstance(made, Throttle) else made(model)
        return self[model]


async def paid_image(
    ask: Callable[[], Awaitable[A]],
    read: Callable[[A], Awaitable[Image]],
    *,
    request: ImageRequest,
    service: str,
    price: float | None,
    account: Account | None,
    throttle: Throttle,
    max_retries: int,
    on_event: OnEvent | None = None,
    room: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> Image:
    """Make a call: attempts in the throttle's turn, each paid from an account.

    Args:
        ask: Makes one attempt and returns its answer, awaiting nothing after the last byte.
        read: Returns the image of an answer, or raises the error of one that is paid for.
        request: With the full id of its model.
        service: Whose image it is.
        price: Most US dollars that an attempt should cost, None where unknown.
        account: None for a budget without bounds. One that is not a Budget is that of a run, which
            watches its calls itself.
        throttle: That of the model.
        max_retries: Most attempts after the first.
        on_event: Listens to the call, outside a run.
        room: Waited for and kept around each attempt: a connection that it may open.

    Raises:
        GenbatchError: As with_retries.
    """
    payer = Budget() if account is None else account
    attempt = partial(_make_attempt, ask, read, request.model, price, payer, room)
    make = partial(with_retries, partial(throttle.run, attempt), max_retries, _image_or_error)
    with log_context(model=request.model):
        if not isinstance(payer, Budget):
            return await make()
        with watching(request, service, on_event) as watch:
            image = await make()
            if watch is not None:
                watch.image = image
            return image


async def _make_attempt(
    ask: Callable[[], Awaitable[A]],
    read: Callable[[A], Awaitable[Image]],
    model: str,
    price: float | None,
    account: Account,
    room: Callable[[], AbstractAsyncContextManager[None]],
) -> Image | GenbatchError:
    """Make one attempt and return its image, or the error of an answer that is paid for.

    Raises:
        GenbatchError: If there was no answer, or one that is not paid for.
    """
    # Before it is paid for: a call without a connection may wait for long.
    async with room(), account.attempt(price, model) as attempt:
        log(_log, DEBUG, "asking for an image")
        began = perf_counter()
        try:
            answer = await ask()
        except GenbatchError as error:
            _log_failure(error, began)
            raise
        try:
            image = await read(answer)
        except GenbatchError as error:
            attempt.failed(error)
            if isinstance(error, DamagedImage) and error.cost is None:
                error.cost = attempt.cost_of(error.images)
            _log_failure(error, began)
            return error
        image = attempt.brought(image)
        _log_image(image, began)
        return image


def _image_or_error(result: Image | GenbatchError) -> Image:
    """Return the image of an attempt, or raise its error."""
    if isinstance(result, GenbatchError):
        raise result
    return result


def _log_image(image: Image, began: float) -> None:
    size, elapsed = len(image.data), perf_counter() - began
    message = "an image of %d bytes came after %.1f s"
    log(_log, DEBUG, message, size, elapsed, elapsed=elapsed, bytes=size, cost=image.cost)


def _log_failure(error: GenbatchError, began: float) -> None:
    elapsed = perf_counter() - began
    log(_log, DEBUG, "no image after %.1f s", elapsed, error=error, elapsed=elapsed)
