"""The one boundary where errors of google-genai and the HTTP libraries become genbatch's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

import httpcore
import httpcore2
import httpx
import httpx2
from google.genai import errors

from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    QuotaExhausted,
    RateLimited,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
)

from ._answer import JsonObject, excerpt, mapping, objects
from ._models import advice
from ._settings import Secret


def _named(*names: str) -> tuple[type[Exception], ...]:
    """Return the exceptions of these names in every HTTP library.

    httpcore's too: a caller's own transport may let them through.
    """
    libraries = (httpx, httpx2, httpcore, httpcore2)
    return tuple(
        getattr(library, name) for library in libraries for name in names if hasattr(library, name)
    )


# What an attempt may raise. ValueError and RecursionError: the SDK reads the JSON of error
# answers and lets through what it cannot. OSError: timeouts, and sockets httpx left untranslated.
THIRD_PARTY: tuple[type[Exception], ...] = (
    errors.APIError,
    OSError,
    ValueError,
    RecursionError,
    *_named("HTTPError", "NetworkError", "ProtocolError", "ProxyError", "TimeoutException"),
    *_named("UnsupportedProtocol"),
)
_TIMEOUTS: tuple[type[Exception], ...] = (TimeoutError, *_named("TimeoutException"))
_GARBAGE: tuple[type[Exception], ...] = (ValueError, RecursionError, *_named("DecodingError"))
# What a 429 says that only a person can mend.
# "Check your plan and billing details" is how each 429 about a quota begins.
_MONEY = re.compile(
    r"prepa(id|yment)|credits? (are|is) depleted|spend(ing)? (cap|limit)|billing(?! details)", re.I
)
_LONG = 2_000  # characters of a message that are looked at
_AROUND = 120  # characters shown before what was found in a long message
# The request was not fully sent, so there was nothing to bill.
_UNSENT = _named(
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "WriteError",
    "WriteTimeout",
)


def translate(exc: Exception, *, model: str, timeout: float, secret: Secret) -> GenbatchError:
    """Return genbatch's error for what an attempt raised.

    Args:
        exc: One of THIRD_PARTY.
        model: Full id of the model, for the message.
        timeout: Seconds the attempt had, for the message.
        secret: The key, masked in the message.
    """
    if isinstance(exc, errors.APIError):
        return _from_status(exc, model, secret)
    if isinstance(exc, _TIMEOUTS):
        message = f"no answer from {model} within {timeout:g} s"
        return TimedOut(message, maybe_paid=not isinstance(exc, _UNSENT))
    reason = excerpt(secret.hide(str(exc))) or type(exc).__name__
    if isinstance(exc, _GARBAGE):
        return InvalidResponse(f"{model} sent an unreadable answer: {reason}", maybe_paid=True)
    if isinstance(exc, _UNSENT):
        error = Unavailable(f"the service could not be reached: {reason}")
        error.is_reached = False
        return error
    return Unavailable(f"the connection to {model} was lost: {reason}", maybe_paid=True)


def showable(exc: BaseException, secret: Secret) -> bool:
    """Return whether neither exc nor its causes show the key, so that it can be chained."""
    return all(secret.hide(text) == text for text in map(str, _chain(exc)))


def without_frames(exc: BaseException) -> BaseException:
    """Remove the tracebacks of exc and its causes, and return it.

    The SDK's frames hold the request with its input images, and show the key to any tool that
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
    message = excerpt(secret.hide(str(exc.message or "")), _LONG) or "no message"
    details = objects(mapping(mapping(exc.details).get("error")).get("details"))
    headers: Mapping[str, str] = exc.response.headers if exc.response is not None else {}
    error = of_status(exc.code, message, details, model)
    error.status = exc.code
    if request_id := _request_id(details, headers):
        error.request_id = excerpt(secret.hide(request_id), 100)
    # A daily quota comes with a delay of some seconds, which means nothing.
    if not isinstance(error, QuotaExhausted):
        error.retry_after = _retry_after(details, headers)
    return error


def error_within(answer: JsonObject, model: str) -> GenbatchError | None:
    """Return the error that an answer of status 200 has in place of candidates, if it has one.

    Args:
        answer: Its strings show no key.
        model: Full id of the model, for the message.
    """
    told = mapping(answer.get("error"))
    code, details = told.get("code"), objects(told.get("details"))
    if objects(answer.get("candidates")) or type(code) is not int or not 400 <= code < 600:
        return None
    message = excerpt(str(told.get("message") or ""), _LONG) or "no message"
    error = of_status(code, message, details, model)
    error.status = code
    error.request_id = excerpt(_request_id(details, {}), 100) or None
    if not isinstance(error, QuotaExhausted):
        error.retry_after = _retry_after(details, {})
    return error


def of_status(status: int, message: str, details: list[JsonObject], model: str) -> GenbatchError:
    """Return the error for an HTTP status and the message and details sent with it.

    The message may be long: what matters often stands at its end, but only an excerpt is shown.
    """
    shown = excerpt(message)
    if status == 402:  # so the service's list of errors has it; users report 429
        return _unpaid(message, model)
    if status == 429:
        return _too_many(message, details, model)
    if status in (401, 403) or _key_is_invalid(message, details):
        return Unauthorized(f"{model} refused the API key ({status}): {shown}")
    # 499 is what an overloaded service answers when it has cancelled the call.
    if status in (408, 499) or status >= 500:
        return Unavailable(f"{model} is not available ({status}): {shown}")
    if status < 300:
        return InvalidResponse(
            f"{model} sent an unexpected answer ({status}): {shown}", maybe_paid=True
        )
    return _rejected(status, message, model)


def _rejected(status: int, message: str, model: str) -> Rejected:
    hint = advice(model) if status == 404 else None
    if status < 400:
        error = Rejected(f"a redirect of {model} ({status}) was not followed")
        error.scope = "service"
    elif hint:
        error = Rejected(f"{model} {hint}; the service says (404): {excerpt(message)}")
    else:
        error = Rejected(f"{model} refused the request ({status}): {excerpt(message)}")
    if status == 404:
        error.scope = "model"
    if "location is not supported" in message:
        error.scope = "service"
    return error


def _too_many(message: str, details: list[JsonObject], model: str) -> GenbatchError:
    # First: such an answer may name a PerDay quota too, but waiting a day does not help.
    if no_quota := re.search(r"\blimit:\s*0(?!\.?\d)", message):
        why = "enable billing or choose another model"
        said = excerpt(message[max(0, no_quota.end() - _AROUND) :])
        return QuotaExhausted(f"no quota for {model}: {why}; the service says: {said}")
    violations = (v for detail in details for v in objects(detail.get("violations")))
    # Even if there is a retryDelay of seconds, as such answers have.
    if any("PerDay" in str(violation.get("quotaId")) for violation in violations):
        why = "rerun after midnight Pacific"
        return QuotaExhausted(
            f"daily quota of {model} is used up: {why}; the service says: {excerpt(message)}"
        )
    if _MONEY.search(message) and not any("retryDelay" in detail for detail in details):
        return _unpaid(message, model)
    return RateLimited(f"too many calls of {model}: {excerpt(message)}")


def _unpaid(message: str, model: str) -> QuotaExhausted:
    return QuotaExhausted(f"{model} takes no more calls until it is paid for: {excerpt(message)}")


def _key_is_invalid(message: str, details: list[JsonObject]) -> bool:
    is_expired = "API key expired" in message
    return is_expired or any(detail.get("reason") == "API_KEY_INVALID" for detail in details)


def _request_id(details: list[JsonObject], headers: Mapping[str, str]) -> str:
    """Return the service's id of the request, from the error or a header; else an empty string."""
    named = (detail["requestId"] for detail in details if detail.get("requestId"))
    told = headers.get("x-request-id") or headers.get("x-goog-request-id") or ""
    return str(next(named, told))


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
    """Return the seconds between two HTTP dates of the server, whose clock may differ from ours."""
    try:
        delta = parsedate_to_datetime(later) - parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return max(0.0, delta.total_seconds())
