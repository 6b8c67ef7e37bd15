"""The one boundary where errors of google-genai, httpx and httpx2 become genbatch's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

import httpx
import httpx2
from google.genai import errors

from genbatch._errors import (
    GenbatchError,
    InvalidResponse,
    QuotaExhausted,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
)

from ._json import JsonObject, excerpt, mapping, objects
from ._settings import Secret

# What an attempt may raise. ValueError and RecursionError: the SDK reads the JSON of error
# answers and lets through what it cannot. OSError: timeouts, and sockets httpx left untranslated.
THIRD_PARTY = (
    errors.APIError,
    httpx.HTTPError,
    httpx2.HTTPError,
    OSError,
    ValueError,
    RecursionError,
)
_TIMEOUTS = (TimeoutError, httpx.TimeoutException, httpx2.TimeoutException)
_GARBAGE = (ValueError, RecursionError, httpx.DecodingError, httpx2.DecodingError)
# The request was not sent whole, so there was nothing to bill.
_UNSENT = (
    httpx.ConnectError,
    httpx.WriteError,
    httpx.ProxyError,
    httpx2.ConnectError,
    httpx2.WriteError,
    httpx2.ProxyError,
)


def translate(exc: Exception, *, model: str, timeout: float, secret: Secret) -> Exception:
    """Return genbatch's error for what an attempt raised.

    Args:
        exc: One of THIRD_PARTY.
        model: Full id of the model asked, for the message.
        timeout: Seconds the attempt had, for the message.
        secret: The key, which no message shows.
    """
    if isinstance(exc, errors.APIError):
        return _from_status(exc, model, secret)
    if isinstance(exc, _TIMEOUTS):
        return TimeoutError(f"no answer from {model} within {timeout:g} s")
    reason = excerpt(secret.hide(str(exc))) or type(exc).__name__
    if isinstance(exc, _GARBAGE):
        return InvalidResponse(f"{model} sent an unreadable answer: {reason}", maybe_paid=True)
    if isinstance(exc, _UNSENT):
        return Unavailable(f"the service could not be reached: {reason}")
    return Unavailable(f"the connection to {model} was lost: {reason}", maybe_paid=True)


def showable(exc: BaseException, secret: Secret) -> bool:
    """Return whether exc can be chained: neither it nor its causes show the key."""
    return all(secret.hide(text) == text for text in map(str, _chain(exc)))


def without_frames(exc: BaseException) -> BaseException:
    """Return exc, it and its causes without tracebacks.

    Frames of the SDK hold the request, and so its input images, and the key for any tool that
    prints local variables.
    """
    for each in _chain(exc):
        each.__traceback__ = None
    return exc


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _from_status(exc: errors.APIError, model: str, secret: Secret) -> GenbatchError:
    status = exc.code
    message = excerpt(secret.hide(str(exc.message or ""))) or "no message"
    details = objects(mapping(mapping(exc.details).get("error")).get("details"))
    if status == 429:
        return _too_many(message, details, _headers(exc), model)
    if status in (401, 403) or _key_is_invalid(details):
        return Unauthorized(f"{model} refused the API key ({status}): {message}", status=status)
    if 300 <= status < 400:
        return Rejected(f"a redirect of {model} ({status}) was not followed", status=status)
    if status == 408 or status >= 500:
        return Unavailable(f"{model} is not available ({status}): {message}", status=status)
    if status >= 400:
        return Rejected(f"{model} refused the request ({status}): {message}", status=status)
    return InvalidResponse(
        f"{model} sent an unexpected answer ({status}): {message}", status=status, maybe_paid=True
    )


def _too_many(
    message: str, details: list[JsonObject], headers: Mapping[str, str], model: str
) -> GenbatchError:
    # First: such an answer may name a PerDay quota too, but tomorrow changes nothing about it.
    if re.search(r"\blimit:\s*0(?!\.?\d)", message):
        text = f"no quota for {model}: enable billing or choose another model"
        return QuotaExhausted(text, status=429)
    violations = (v for detail in details for v in objects(detail.get("violations")))
    # Believed even beside a retryDelay of seconds, which such answers have.
    if any("PerDay" in str(violation.get("quotaId")) for violation in violations):
        text = f"daily quota of {model} is used up: rerun after midnight Pacific"
        return QuotaExhausted(text, status=429)
    retry_after = _retry_after(details, headers)
    return RateLimited(f"too many calls of {model}: {message}", retry_after=retry_after)


def _key_is_invalid(details: list[JsonObject]) -> bool:
    return any(detail.get("reason") == "API_KEY_INVALID" for detail in details)


def _headers(exc: errors.APIError) -> Mapping[str, str]:
    return exc.response.headers if exc.response is not None else {}


def _retry_after(details: list[JsonObject], headers: Mapping[str, str]) -> float | None:
    """Return the longest delay asked for, in seconds, or None."""
    asked = [_seconds(str(d["retryDelay"]).removesuffix("s")) for d in details if "retryDelay" in d]
    header = headers.get("retry-after", "")
    asked += [_seconds(header), _seconds_between(headers.get("date", ""), header)]
    return max((seconds for seconds in asked if seconds is not None), default=None)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_between(date: str, later: str) -> float | None:
    """Return the seconds between two HTTP dates, both by the server's clock: ours may be wrong."""
    try:
        delta = parsedate_to_datetime(later) - parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return max(0.0, delta.total_seconds())
