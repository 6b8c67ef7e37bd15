"""The one boundary where errors of google-genai become genbatch's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from google.genai import errors

from genbatch._client import JsonObject, Secret, excerpt, mapping, objects
from genbatch._client.http import LOST, delay_in, error_of, error_of_status, seconds_of
from genbatch._values import (
    GenbatchError,
    QuotaExhausted,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
)

from ._models import advice

# What an attempt may raise. The SDK reads the JSON of error answers and lets through what it
# cannot.
THIRD_PARTY: tuple[type[Exception], ...] = (errors.APIError, *LOST)
# What a 429 says that only a person can mend.
# "Check your plan and billing details" is how each 429 about a quota begins.
_MONEY = re.compile(
    r"prepa(id|yment)|credits? (are|is) depleted|spend(ing)? (cap|limit)|billing(?! details)", re.I
)
_LONG = 2_000  # characters of a message that are looked at
_AROUND = 120  # characters shown before what was found in a long message


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
    return error_of(exc, model=model, timeout=timeout, secret=secret)


def refused(status: int, body: bytes, answer: Any) -> errors.APIError:
    """Return the SDK's error for a request that it did not send.

    Args:
        status: Of the answer.
        body: Of the answer, JSON or not.
        answer: As httpx has it.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = {"error": {"message": excerpt(body.decode("utf-8", "replace"))}}
    return errors.APIError(status, told if isinstance(told, dict) else {}, answer)


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
    if status == 429:
        return _too_many(message, details, model)
    if _key_is_invalid(message, details):
        return Unauthorized(f"{model} refused the API key ({status}): {excerpt(message)}")
    if status == 499:  # what an overloaded service answers when it has cancelled the call
        return Unavailable(f"{model} is not available ({status}): {excerpt(message)}")
    error = error_of_status(status, message, model)
    if status == 404 and (hint := advice(model)):
        error = Rejected(f"{model} {hint}; the service says (404): {excerpt(message)}")
        error.scope = "model"
    if isinstance(error, Rejected) and "location is not supported" in message:
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
        return error_of_status(402, message, model)
    return RateLimited(f"too many calls of {model}: {excerpt(message)}")


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
    asked = [
        seconds_of(str(d["retryDelay"]).removesuffix("s")) for d in details if "retryDelay" in d
    ]
    asked.append(delay_in(headers))
    return max((seconds for seconds in asked if seconds is not None), default=None)
