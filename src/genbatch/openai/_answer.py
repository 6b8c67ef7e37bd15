"""Answers of the Images API as images, or as the errors that say why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from genbatch._client import (
    MOST_TOKENS,
    JsonObject,
    Secret,
    excerpt,
    images_of,
    mapping,
    no_whole_image,
    objects,
    parse_answer,
)
from genbatch._client.http import delay_in, error_of_status, seconds_of
from genbatch._http import CapturedBody
from genbatch._values import (
    FAKE_HEADER,
    Blocked,
    GenbatchError,
    Image,
    ImageRequest,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    Rejected,
    Unavailable,
    Usage,
)

from ._models import cost

REQUEST_ID = "x-request-id"  # the header, and what its value is called in an answer here
# What only money or a person mends, whatever the status.
_UNPAID = frozenset(
    {
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)
# Of errors that came with status 200: the status that they should have had.
_STATUSES = {
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "authentication_error": 401,
    "invalid_request_error": 400,
}
_BLOCKED = frozenset({"content_policy_violation", "moderation_blocked"})


def image_from(answer: JsonObject, request: ImageRequest, price: float | None = None) -> Image:
    """Return the first image of an answer; further ones are its extras.

    Args:
        answer: The body of an answer of status 200.
        request: What it answers, with the model's full id.
        price: US dollars of each image, in place of the published prices.

    Raises:
        NoImage: If there is none.
        DamagedImage: If the data is not a whole image.
        InvalidResponse: If there is no data.
    """
    model, items = request.model, objects(answer.get("data"))
    encoded = [item["b64_json"] for item in items if item.get("b64_json") is not None]
    request_id, usage = answer.get(REQUEST_ID), _usage(answer)
    if not encoded:
        has_url = any("url" in item for item in items)
        reason = "an image by URL, which is not fetched" if has_url else "no image"
        maybe_paid = bool(items or (usage and usage.output_tokens))
        raise NoImage(
            f"{model} sent {reason}", status=200, request_id=request_id, maybe_paid=maybe_paid
        )
    images, reason, damaged = images_of(encoded, model)
    if price is not None:
        billed: float | None = price * len(encoded)
    else:
        billed = cost(
            request, usage, input_image_tokens=_shown(answer), images=len(encoded), told=answer
        )
    if not images:
        raise no_whole_image(model, reason, damaged, billed, len(encoded), request_id)
    return replace(
        images[0],
        usage=usage,
        cost=billed,
        response_id=request_id,
        extras=tuple(images[1:]),
        damaged=tuple(damaged),
        is_placeholder=answer.get(FAKE_HEADER) is not None,
    )


def _usage(answer: JsonObject) -> Usage | None:
    """Return the tokens billed, None where they are not given or are not counts."""
    told = mapping(answer.get("usage"))
    text = mapping(told.get("output_tokens_details")).get("text_tokens", 0)
    names = ("input_tokens", "output_tokens", "total_tokens")
    tokens = [*(told.get(name, 0) for name in names), text, _shown(answer)]
    if not told or not all(type(n) is int and 0 <= n <= MOST_TOKENS for n in tokens):
        return None
    given, made, total, text, shown = tokens
    if text > made or shown > given:
        return None
    return Usage(given, made, total, text_tokens=text)


def _shown(answer: JsonObject) -> int:
    """Return the tokens of input images; not checked."""
    details = mapping(mapping(answer.get("usage")).get("input_tokens_details"))
    shown: int = details.get("image_tokens", 0)
    return shown


def error_from(status: int, captured: CapturedBody, model: str, secret: Secret) -> GenbatchError:
    """Return the error that an answer of another status than 200 is.

    Args:
        status: HTTP status.
        captured: The body of the answer, JSON or not, and its headers.
        model: Full id of the model, for the message.
        secret: The key, masked in the message.
    """
    body, headers = captured.take(), captured.headers
    try:
        answer = parse_answer(body, model, secret.hide)
    except InvalidResponse:
        text = body if isinstance(body, str) else body.decode(errors="replace")
        answer = {"error": {"message": secret.hide(text)}}
    return error_told(status, answer, headers, model, secret)


def is_refusal(answer: JsonObject) -> bool:
    """Return whether an answer of status 200 is an error, as some servers send it."""
    return bool(answer.get("error")) and not objects(answer.get("data"))


def error_told(
    status: int, answer: JsonObject, headers: Mapping[str, str], model: str, secret: Secret
) -> GenbatchError:
    """Return the error that an answer tells of; the others are as for error_from."""
    told = mapping(answer.get("error"))
    words = told.get("message") or answer.get("error") or answer.get("message") or _detail(answer)
    error = _error_of(status, told, excerpt(str(words)) or "no message", model)
    error.status = status
    error.request_id = excerpt(secret.hide(headers.get(REQUEST_ID, "")), 100) or None
    if not isinstance(error, QuotaExhausted):
        precise = seconds_of(headers.get("retry-after-ms", ""))
        error.retry_after = delay_in(headers) if precise is None else precise / 1000
    return error


def _detail(answer: JsonObject) -> str:
    """Return the words of a FastAPI server: a text, or what is wrong with each field."""
    detail = answer.get("detail") or ""
    fields = [(each.get("loc"), each.get("msg")) for each in objects(detail)]
    told = [f"{loc[-1]}: {msg}" if isinstance(loc, list) and loc else msg for loc, msg in fields]
    return "; ".join(map(str, told)) or str(detail)


def _error_of(status: int, told: JsonObject, message: str, model: str) -> GenbatchError:
    reasons = [str(told.get(name)) for name in ("code", "type")]
    if not _UNPAID.isdisjoint(reasons):
        return error_of_status(402, message, model)
    if not _BLOCKED.isdisjoint(reasons):
        reason = next(each for each in reasons if each in _BLOCKED)
        # Where the image itself was blocked, it had been made.
        made = mapping(told.get("moderation_details")).get("moderation_stage") == "output"
        return Blocked(f"{model} blocked it: {message}", reason=reason, maybe_paid=made)
    if status == 409:  # which OpenAI's own client repeats
        return Unavailable(f"{model} is not available (409): {message}")
    if status == 200:
        codes = [code for code in (told.get("code"), told.get("status")) if type(code) is int]
        statuses = [*codes, *(_STATUSES.get(reason, 0) for reason in reasons)]
        status = next((code for code in statuses if 400 <= code < 600), status)
    if status == 200:
        return NoImage(f"{model} sent no image: {message}")
    error = error_of_status(status, message, model)
    if isinstance(error, Rejected) and told.get("param") == "model":
        error.scope = "model"
    return error
