"""Telling the batch's own cancellation from one that generate or the source raised by itself."""

from __future__ import annotations

import math

from anyio import current_effective_deadline, get_cancelled_exc_class


def as_failure(exc: BaseException, origin: str) -> Exception:
    """Return the failure that exc is; raise it if it is the batch's own cancellation, or an exit.

    A cancellation that origin raised while nobody cancels the batch comes back as a RuntimeError
    with that cancellation as its cause: raised bare it would look like the reader's own.
    """
    if isinstance(exc, Exception):
        return exc
    is_cancellation = isinstance(exc, get_cancelled_exc_class())
    if isinstance(exc, BaseExceptionGroup):  # of a nursery: cancellations beside cleanup errors
        rest = exc.split(get_cancelled_exc_class())[1]
        if isinstance(rest, Exception):
            return rest
        is_cancellation = rest is None
    if not is_cancellation or current_effective_deadline() == -math.inf:
        raise exc
    error = RuntimeError(f"{origin} raised a cancellation of its own")
    error.__cause__ = exc
    return error
