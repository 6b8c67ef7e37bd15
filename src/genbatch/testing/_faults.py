"""Named faults: what goes wrong with the service, the connection, or the content of an answer.

Answers that have an image are billed; those without one are not.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._http import Fault, JsonObject
from ._pictures import draw
from ._server import Exceeded
from ._wire import (
    candidate,
    error_body,
    inline,
    key_error,
    model_error,
    quota_error,
    token_error,
)

__all__ = [
    "bad_base64",
    "bad_key",
    "bad_token",
    "blocked",
    "broken_json",
    "closed_port",
    "denied_project",
    "disabled_account",
    "downgraded",
    "dripping",
    "empty_body",
    "empty_image",
    "expired_key",
    "filtered",
    "garbage",
    "hidden_error",
    "html_page",
    "jpeg_as_png",
    "no_candidates",
    "no_credit",
    "no_image",
    "no_quota",
    "no_usage",
    "not_an_image",
    "rate_limited",
    "redirect",
    "reset",
    "retired_model",
    "several_images",
    "short_body",
    "slow_headers",
    "spending_cap",
    "stalled",
    "unknown_values",
    "unsupported_location",
    "with_drafts",
]

# One grey pixel, in base64.
_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP////////////////////////////////////////////////////////"
    "//////////////////////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAA"
    "AAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)
_EXTRA_PIXELS = 32
_NOT_CHARGED = (
    "Unable to show the generated image. You will not be charged for blocked images. Try "
    "rephrasing the prompt."
)
_NO_CREDIT = (
    "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to "
    "manage your project and billing."
)
_SPENDING_CAP = (
    "Your billing account has exceeded its monthly spending cap. Please go to AI Studio at "
    "https://aistudio.google.com to manage your billing."
)


# Refused by the service


def rate_limited(
    retry_after: float | None = None, *, per_day: bool = False, in_header: bool = False
) -> Fault:
    """Return a 429: too many calls in a minute, or in a day.

    Args:
        retry_after: Seconds the service asks to wait; the real one does so even with per_day.
        per_day: Whether the daily quota is used up.
        in_header: Send retry_after as a Retry-After header, in whole seconds, not in the body.
    """
    wait = None if in_header else retry_after
    beyond = Exceeded("Day", 250, wait) if per_day else Exceeded("Minute", 10, wait)
    seconds = "" if retry_after is None else str(math.ceil(retry_after))
    return Fault(
        status=429,
        headers={"retry-after": seconds} if in_header and seconds else {},
        body=quota_error(beyond),
    )


def no_quota() -> Fault:
    """Return the 429 of a project without paid access: its limit is 0."""
    return Fault(status=429, body=quota_error(Exceeded("Day", 0, None)))


def no_credit(status: int = 429) -> Fault:
    """Return the error of a project whose prepaid credit is used up, without details.

    Args:
        status: 429 as users report it, or 402 as it is documented.
    """
    return Fault(status=status, body=error_body(status, _NO_CREDIT))


def spending_cap() -> Fault:
    """Return the 429 of an account at its monthly spending cap, without details."""
    return Fault(status=429, body=error_body(429, _SPENDING_CAP))


def bad_key(key: str = "a-wrong-key") -> Fault:
    """Return the 400 that refuses an API key, and repeats it."""
    return Fault(status=400, body=key_error(key))


def expired_key(status: int = 400) -> Fault:
    """Return the error that refuses an API key because it has expired."""
    message = "API key expired. Please renew the API key."
    return Fault(status=status, body=key_error(message=message, status=status))


def denied_project() -> Fault:
    """Return the 403 of a project that the service has shut out."""
    message = "Your project has been denied access. Please contact support."
    return Fault(status=403, body=error_body(403, message))


def unsupported_location() -> Fault:
    """Return the 400 for calls from a country that the service does not serve."""
    body = error_body(400, "User location is not supported for the API use.")
    body["error"]["status"] = "FAILED_PRECONDITION"
    return Fault(status=400, body=body)


def bad_token() -> Fault:
    """Return the 401 that refuses an OAuth token of Vertex, as when it has expired."""
    return Fault(status=401, body=token_error())


def retired_model(model: str = "gemini-2.5-flash-image") -> Fault:
    """Return the 404 for a model that was shut down."""
    return Fault(status=404, body=model_error(model))


# Something between here and the service


def redirect(location: str, status: int = 307) -> Fault:
    """Return a redirect to location."""
    return Fault(status=status, headers={"location": location})


def html_page(status: int = 200) -> Fault:
    """Return the HTML page of a front end."""
    page = f"<!DOCTYPE html><html><title>Error {status}</title><p>That's an error.</p></html>"
    return Fault(status=status, body=page, headers={"content-type": "text/html; charset=UTF-8"})


# The connection


def reset(after: int | None = None) -> Fault:
    """Return a TCP reset: in place of an answer, or after this many bytes of its body."""
    return Fault(reset=True, truncate=after)


def short_body(after: int = 100) -> Fault:
    """Return an answer whose connection closes after this many bytes of its body."""
    return Fault(truncate=after)


def stalled(after: int = 100) -> Fault:
    """Return an answer that stops for ever after this many bytes of its body, without closing."""
    return Fault(drip=(after, math.inf))


def slow_headers(after: int = 20, seconds: float = math.inf) -> Fault:
    """Return an answer that arrives, headers included, a few bytes at a time, seconds apart.

    The image is made and billed; by default nothing ever follows the first bytes.
    """
    return Fault(drip=(after, seconds), drip_head=True)


def dripping(size: int = 8, seconds: float = 0.3) -> Fault:
    """Return an answer whose body arrives in pieces of size bytes, seconds apart."""
    return Fault(drip=(size, seconds))


@contextmanager
def closed_port() -> Iterator[str]:
    """Yield the URL of a port that refuses connections while the block runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and not listened on, so nobody else can take it either
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


# No image


def blocked(reason: str = "PROHIBITED_CONTENT", message: str = "") -> Fault:
    """Return an answer that refuses the prompt: feedback, with a message if any, no candidates."""
    feedback = {"blockReason": reason} | ({"blockReasonMessage": message} if message else {})
    return Fault(body={"promptFeedback": feedback})


def filtered(reason: str = "IMAGE_SAFETY", message: str | None = None) -> Fault:
    """Return an answer whose candidate has a finish reason and no content; it is not billed.

    Args:
        reason: The finish reason.
        message: The finishMessage, by default the service's for IMAGE_SAFETY, else none.
    """
    usual = _NOT_CHARGED if reason == "IMAGE_SAFETY" else ""
    told = {"finishMessage": words} if (words := usual if message is None else message) else {}
    return Fault(body={"candidates": [{"finishReason": reason, "index": 0, **told}]})


def disabled_account() -> Fault:
    """Return the answer to an account disabled for violating the Prohibited Use Policy."""
    return filtered("PUP_LIMITED_DISABLED")


def no_image(text: str = "I can only describe it.", *, finish_reason: str = "STOP") -> Fault:
    """Return an answer that has text and no image."""
    return Fault(body={"candidates": [candidate([{"text": text}], finish_reason)]})


def no_candidates() -> Fault:
    """Return an answer with an empty list of candidates."""
    return Fault(body={"candidates": []})


# An invalid image


def not_an_image(content: bytes = b"not an image") -> Fault:
    """Return an answer whose image part holds content, labelled a PNG."""
    return Fault(body={"candidates": [candidate([inline(content)])]})


def empty_image() -> Fault:
    """Return an answer whose image part holds no bytes."""
    return not_an_image(b"")


def bad_base64() -> Fault:
    """Return an answer whose image part is not valid base64."""
    part = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo*not*base64*"}}
    return Fault(body={"candidates": [candidate([part])]})


# An unreadable answer


def broken_json() -> Fault:
    """Return a complete HTTP response whose JSON stops in the middle."""
    return Fault(body='{"candidates": [{"content": {"role": "model", "parts": [{"inlineDa')


def garbage() -> Fault:
    """Return bytes that are not text in any encoding that JSON allows."""
    return Fault(body=b"\x93\xff\x00\xfe" * 64)


def hidden_error(status: int = 503, message: str = "") -> Fault:
    """Return an error of this status in the body of a response whose own status is 200."""
    return Fault(body=error_body(status, message))


def empty_body() -> Fault:
    """Return an answer with an empty body."""
    return Fault(body=b"")


# An image, and something about it


def jpeg_as_png() -> Fault:
    """Return an answer whose image is a JPEG of one pixel, labelled a PNG."""

    def relabel(answer: JsonObject) -> JsonObject:
        _parts(answer)[-1]["inlineData"]["data"] = _JPEG
        return answer

    return Fault(edit=relabel)


def with_drafts(count: int = 2) -> Fault:
    """Return an answer whose image comes after thoughts: each a text and a draft image."""

    def think(answer: JsonObject) -> JsonObject:
        drafts = [draft for n in range(count) for draft in ({"text": f"Draft {n}."}, _extra(n))]
        _parts(answer)[:0] = [{**draft, "thought": True} for draft in drafts]
        _parts(answer)[-1]["thoughtSignature"] = "c2lnbmF0dXJl"
        _bill(answer, "thoughtsTokenCount", 100 * count)
        return answer

    return Fault(edit=think)


def several_images(count: int = 2) -> Fault:
    """Return an answer with count images, each of them billed."""

    def repeat(answer: JsonObject) -> JsonObject:
        _parts(answer).extend(_extra(n) for n in range(1, count))
        tokens = answer["usageMetadata"]["candidatesTokenCount"]
        _bill(answer, "candidatesTokenCount", tokens * (count - 1))
        return answer

    return Fault(edit=repeat)


def no_usage() -> Fault:
    """Return an answer with an image and without usageMetadata; the image is billed."""
    return Fault(edit=lambda answer: {k: v for k, v in answer.items() if k != "usageMetadata"})


def downgraded(tier: str = "standard") -> Fault:
    """Return an answer served at this tier, whichever was asked for."""
    return Fault(headers={"x-gemini-service-tier": tier})


def unknown_values() -> Fault:
    """Return an answer with an image, and with fields and enum values of the future."""

    def renew(answer: JsonObject) -> JsonObject:
        harm = {"category": "HARM_CATEGORY_OF_THE_FUTURE", "probability": "UNHEARD_OF"}
        answer["candidates"][0] |= {
            "finishReason": "A_REASON_OF_THE_FUTURE",
            "safetyRatings": [harm],
        }
        _parts(answer).insert(0, {"hologram": {"data": 1}})
        tokens = [{"modality": "HOLOGRAM", "tokenCount": 1}]
        answer["usageMetadata"]["candidatesTokensDetails"] = tokens
        answer["fieldOfTheFuture"] = {"a": [None]}
        return answer

    return Fault(edit=renew)


def _parts(answer: JsonObject) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = answer["candidates"][0]["content"]["parts"]
    return parts


def _extra(number: int) -> JsonObject:
    return inline(draw(f"extra {number}", width=_EXTRA_PIXELS, height=_EXTRA_PIXELS))


def _bill(answer: JsonObject, name: str, tokens: int) -> None:
    usage = answer["usageMetadata"]
    usage[name] = usage.get(name, 0) + tokens
    usage["totalTokenCount"] += tokens
