"""The world's errors; a programmer's mistake is ValueError or TypeError, a timeout TimeoutError."""

from __future__ import annotations


class GenbatchError(Exception):
    """Base of everything below.

    Attributes:
        status: HTTP status of the answer, None where there was none.
        maybe_paid: Whether the call may have been billed although it brought no image.
    """

    def __init__(
        self, message: str, *, status: int | None = None, maybe_paid: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.maybe_paid = maybe_paid


class RateLimited(GenbatchError):
    """Too many calls for now (429).

    Attributes:
        retry_after: Seconds the server asks to wait, None where it does not say.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, status: int | None = 429
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class QuotaExhausted(GenbatchError):
    """No quota left today, or none at all; waiting seconds does not help."""


class Unavailable(GenbatchError):
    """The service could not be reached or failed on its side, retries included."""


class InvalidResponse(GenbatchError):
    """The answer was not what the wire promises: not JSON, bad base64, not an image."""


class Rejected(GenbatchError):
    """The service refused the request itself (400, 404); the same request will fail again."""


class Unauthorized(GenbatchError):
    """The key is missing, wrong, or not allowed to do this (401, 403)."""


class Blocked(GenbatchError):
    """A safety or policy filter refused the prompt or the image.

    Attributes:
        reason: The service's own word for it, such as ``"IMAGE_SAFETY"``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoImage(GenbatchError):
    """The model answered without an image.

    Attributes:
        text: What it said instead, possibly empty.
    """

    def __init__(self, message: str, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class StoreError(GenbatchError):
    """An image could not be saved, or the output directory cannot be used."""
