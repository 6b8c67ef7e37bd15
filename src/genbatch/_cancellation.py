"""Telling the batch's own cancellation from one that generate or the source raised by itself."""

from __future__ import annotations

import math

from anyio import current_effective_deadline, get_cancelled_exc_class


def is_cancelled() -> bool:
    """Return whether a scope around the current task is cancelled."""
    return current_effective_deadline() == -math.inf


def without_cancellation(exc: BaseException) -> BaseException | None:
    """Return exc, or of a group what is not cancellation; None if nothing remains."""
    if isinstance(exc, BaseExceptionGroup):  # a nursery's: cancellations beside cleanup errors
        return exc.split(get_cancelled_exc_class())[1]
    return None if isinstance(exc, get_cancelled_exc_class()) else exc


def as_failure(exc: BaseException, origin: str) -> Exception:
    """Return the failure that exc is; raise it if it is the batch's own cancellation, or an exit.

    A cancellation that origin raised while nobody cancels the batch comes back as a RuntimeError
    with that cancellation as its cause: raised bare it would look like the reader's own.
    """
    rest = without_cancellation(exc)
    if isinstance(rest, Exception):
        return rest
    if rest is not None or is_cancelled():
        raise exc
    error = RuntimeError(f"{origin} raised a cancellation of its own")
    error.__cause__ = exc
    return error


def is_foreign(error: Exception) -> bool:
    """Return whether as_failure made error of a cancellation."""
    cause = error.__cause__
    return cause is not None and without_cancellation(cause) is None
