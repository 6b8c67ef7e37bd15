"""Logs: records of the loggers below ``genbatch``, each of which knows the call it is about.

1. No record shows a key, a header, bytes of an image, or more than 80 characters of a prompt.
2. What an app's own filter, handler or record factory raises is not raised here: an image may have
   come, and been paid for, just before.
3. Where no handler listens, a record costs one check of its level.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from genbatch._values import GenbatchError, StoreError

_LONGEST_REASON = 100  # characters, of which 20 are ours: the others may quote a prompt

_about: ContextVar[dict[str, object]] = ContextVar("genbatch_about")
_quiet = logging.NullHandler()
logging.getLogger("genbatch").addHandler(_quiet)  # or warnings would go to stderr unasked


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add fields to every record that is written in the block."""
    token = _about.set({**_about.get({}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def log_fields(*names: str) -> tuple[Any, ...]:
    """Return the fields of these names that records have now, None for one that is not known."""
    return tuple(map(_about.get({}).get, names))


def log(
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    error: Exception | None = None,
    **fields: object,
) -> None:
    """Write a record, with what is known of the call.

    Args:
        logger: One below ``genbatch``.
        level: Of the standard library.
        message: Follows the prompt, or the model, that it is about.
        args: For the message.
        error: Adds what it tells, and to the message its own.
        fields: Attributes of the record. None leaves one out, also one of those around this.
    """
    if not logger.isEnabledFor(level):
        return
    known = {**_about.get({}), **fields}
    if error is not None:
        message, args = f"{message}: %s", (*args, _reason(error))
        known = {**_details(error), **known}
    for name, form in (("index", "prompt %s: "), ("model", "%s: ")):
        if (whose := known.get(name)) is not None:
            message, args = form + message, (whose, *args)
            break
    extra = {name: value for name, value in known.items() if value is not None}
    try:
        logger.log(level, message, *args, extra=extra, stacklevel=2)
    except Exception:  # noqa: BLE001 - see 2
        show_error(message, *args, name=logger.name, level=level)


def show_error(
    message: str, *args: object, name: str = "genbatch", level: int = logging.ERROR
) -> None:
    """Show the exception that is being handled as logging shows what its own handlers raise."""
    _quiet.handleError(logging.LogRecord(name, level, "", 0, message, args, None))


def _reason(error: Exception) -> str:
    line = " ".join(str(error).split())
    if len(line) <= _LONGEST_REASON or isinstance(error, StoreError):  # of paths, and all ours
        return line
    return line[: _LONGEST_REASON - 1] + "…"


def _details(error: Exception) -> dict[str, object]:
    details: dict[str, object] = {"error": type(error).__name__}
    if isinstance(error, GenbatchError):
        details.update(
            status=error.status, retry_after=error.retry_after, request_id=error.request_id
        )
    return details
