"""Made: what a client returns, brought into the shape that a run relies on.

An image is paid for whatever stands beside it: what is of the wrong type there is dropped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from genbatch._money import Account, Attempt, dollars
from genbatch._values import (
    DamagedImage,
    Image,
    ImageRequest,
    InvalidResponse,
    Usage,
    is_whole,
    sniff_mime_type,
)

_MOST_ID = 1000  # characters


def image_of(made: object, request: ImageRequest, service: str) -> Image:
    """Return what a client has made as an image of the request's model.

    Raises:
        DamagedImage: If its bytes are no image, or a cut one.
        InvalidResponse: If there are none; for all calls, if it is neither bytes nor an Image.
    """
    if isinstance(made, bytes | bytearray | memoryview):
        made = Image(bytes(made), "")
    if not isinstance(made, Image) or not isinstance(made.data, bytes | bytearray | memoryview):
        wrong = made.data if isinstance(made, Image) else made
        raise no_image(f"{service} must return an Image or bytes, got {type(wrong).__name__}")
    if not made.data:
        raise InvalidResponse(f"{service} made an image without bytes", maybe_paid=True)
    image = _shaped(made, request.model)
    if wrong_with := _what_is_wrong(image):
        error = DamagedImage(f"{service} made {wrong_with}", maybe_paid=True)
        error.data, error.cost, error.images = image.data, image.cost, image.images
        raise error
    return image


def no_image(message: str) -> InvalidResponse:
    """Return the error of a client that makes no images at all."""
    error = InvalidResponse(message, maybe_paid=True)
    error.scope = "service"
    return error


def _shaped(made: Image, model: str) -> Image:
    data = bytes(made.data)
    told = _items(made.extras)
    extras = [_shaped(each, model) for each in told if isinstance(each, Image) and each.data]
    cut = tuple(each.data for each in extras if _what_is_wrong(each))
    damaged = (*(bytes(each) for each in _items(made.damaged) if isinstance(each, bytes)), *cut)
    return Image(
        data,
        sniff_mime_type(data) or "",
        made.model if made.model and isinstance(made.model, str) else model,
        usage=made.usage if isinstance(made.usage, Usage) else None,
        text=made.text if isinstance(made.text, str) else "",
        cost=dollars(made.cost),
        response_id=None if made.response_id is None else str(made.response_id)[:_MOST_ID],
        extras=tuple(each for each in extras if not _what_is_wrong(each)),
        damaged=damaged,
        is_placeholder=bool(made.is_placeholder),
    )


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else ()


def _what_is_wrong(image: Image) -> str:
    if not image.mime_type:
        return "no PNG, JPEG, WebP or GIF"
    return "" if is_whole(image.data, image.mime_type) else "an image that is cut off"


class CountedAccount:
    """An account that knows what the last attempt was charged.

    An attempt that ends without an error, and of which its client says nothing, counts as an image
    at what was reserved for it.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._last: Attempt | None = None

    @asynccontextmanager
    async def attempt(self, price: float | None, model: str = "") -> AsyncIterator[Attempt]:
        """As that of the account."""
        async with self._account.attempt(price, model) as self._last:
            yield self._last
            if self._last.maybe_images:
                self._last.paid(None)

    def cost_of(self, error: DamagedImage) -> float | None:
        """Return what was charged for an image that cannot be used."""
        return error.cost if self._last is None or self._last.price is None else self._last.cost

    def charged(self, image: Image) -> Image:
        """Return an image with the cost that was charged for it, where a price is known."""
        last = self._last
        if last is None or last.price is None or not last.images or last.cost == image.cost:
            return image
        return replace(image, cost=last.cost)
