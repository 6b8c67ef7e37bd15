"""One attempt of a call: paid from an account, timed, and told to the log."""

from __future__ import annotations

from dataclasses import replace
from logging import DEBUG, getLogger
from time import perf_counter
from typing import TYPE_CHECKING

from genbatch._logs import log
from genbatch._money import Account
from genbatch._values import GenbatchError, Image, ImageRequest

from ._answer import image_from
from ._models import price as price_of

if TYPE_CHECKING:
    from ._sdk import Wire

_log = getLogger("genbatch.client")


async def make_attempt(
    wire: Wire, request: ImageRequest, account: Account, price: float | None
) -> Image | GenbatchError:
    """Make one attempt and return its image, or why an answer that is paid for has none.

    Args:
        wire: To ask.
        request: What for.
        account: To pay from.
        price: US dollars an image, in place of the price table's.

    Raises:
        GenbatchError: If no answer came, or one that is not paid for.
    """
    expected = price_of(request.model, request.image_size) if price is None else price
    async with account.attempt(expected) as attempt:
        log(_log, DEBUG, "asking for an image")
        began = perf_counter()
        try:
            answer = await wire.ask(request)
        except GenbatchError as error:
            _tell_failure(error, began)
            raise
        try:
            image = image_from(answer, request.model)
        except GenbatchError as error:
            attempt.failed(error)
            _tell_failure(error, began)
            return error
        if price is not None:
            image = replace(image, cost=price)
        attempt.paid(image.cost)
        _tell_image(image, began)
        return image


def image_or_error(result: Image | GenbatchError) -> Image:
    """Return the image of an attempt, or raise why there is none."""
    if isinstance(result, GenbatchError):
        raise result
    return result


def _tell_image(image: Image, began: float) -> None:
    size, elapsed = len(image.data), perf_counter() - began
    message = "an image of %d bytes came after %.1f s"
    log(_log, DEBUG, message, size, elapsed, elapsed=elapsed, bytes=size, cost=image.cost)


def _tell_failure(error: GenbatchError, began: float) -> None:
    elapsed = perf_counter() - began
    log(_log, DEBUG, "no image after %.1f s", elapsed, error=error, elapsed=elapsed)
