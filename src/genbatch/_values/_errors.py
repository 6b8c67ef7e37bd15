"""The world's errors; a programmer's mistake is ValueError or TypeError."""

from __future__ import annotations

from genbatch._core import GenbatchError


class RateLimited(GenbatchError):
    """Too many calls for now (429); its scope is the model's where patience is at its end."""


class QuotaExhausted(GenbatchError):
    """No quota or money left; only time or a person helps, not waiting some seconds."""

    scope = "model"


class Unavailable(GenbatchError):
    """The service could not be reached or failed on its side, retries included.

    Attributes:
        is_reached: False where no connection to the service could be made: there may be no network.
    """

    is_reached = True


class TimedOut(GenbatchError, TimeoutError):
    """No attempt was answered whole in time."""


class InvalidResponse(GenbatchError):
    """The answer was malformed: not JSON, bad base64, not a whole image.

    Attributes:
        data: The bytes received, and paid for, in place of an image; the base64 itself where that
            is malformed. None where there were none.
    """

    data: bytes | None = None


class DamagedImage(InvalidResponse):
    """The image in an answer is cut off or fake; it is paid for, and not asked for again.

    Attributes:
        cost: US dollars for all that came in the answer, None where unknown.
        images: How many damaged images came in the answer.
        file: Where a run has kept the data, relative to its folder; the message tells it too.
    """

    cost: float | None = None
    images: int = 1
    file: str | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.file is None else f"{message}; what came is kept as {self.file}"


class Rejected(GenbatchError):
    """The service refused the request itself (400, 404); the same request will fail again."""


class Unauthorized(GenbatchError):
    """The key is missing, wrong, expired, or not allowed to do this (401, 403)."""

    scope = "service"


class Blocked(GenbatchError):
    """A safety or policy filter refused the prompt or the image.

    Attributes:
        reason: The service's own word for it, such as ``"IMAGE_SAFETY"``.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        status: int | None = None,
        request_id: str | None = None,
        maybe_paid: bool = False,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, maybe_paid=maybe_paid)
        self.reason = reason


class NoImage(GenbatchError):
    """The model answered without an image.

    Attributes:
        text: What it said instead, possibly empty.
    """

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        status: int | None = None,
        request_id: str | None = None,
        maybe_paid: bool = False,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id, maybe_paid=maybe_paid)
        self.text = text


class StoreError(GenbatchError):
    """An image could not be saved, or the output directory cannot be used."""


class ImageMissing(GenbatchError):
    """The file of an image that was made and paid for is gone; nothing was sent for it now."""


class BudgetExhausted(GenbatchError):
    """A further call could exceed the budget; nothing was sent or paid for this one."""
