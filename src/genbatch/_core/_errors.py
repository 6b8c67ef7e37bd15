"""The base of the errors that are not a programmer's mistake, and the one that a batch raises."""

from __future__ import annotations

from typing import Literal


class GenbatchError(Exception):
    """Base of everything below.

    Attributes:
        status: HTTP status of the answer, None where there was none.
        retry_after: Seconds the service asks to wait, None where it does not say.
        request_id: The service's id of the request, None where it gives none.
        maybe_paid: Whether any attempt of the call may have been billed although it brought no
            image.
        attempts: How many attempts were made; the message tells them where there were several.
        scope: Whose calls would all meet the same, as far as is known: those of this ``"prompt"``
            only, of its ``"model"``, or all of the ``"service"``.
    """

    scope: Literal["prompt", "model", "service"] = "prompt"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        maybe_paid: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.request_id = request_id
        self.maybe_paid = maybe_paid
        self.attempts = 1

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.attempts == 1 else f"{message} ({self.attempts} attempts)"


class Stopped(GenbatchError):
    """The batch was stopped before this prompt's call was made; nothing was sent or paid."""
