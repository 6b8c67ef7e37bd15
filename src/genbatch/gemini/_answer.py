"""Parse the body of an answer into an Image, or the error that says why there is none.

No JSON that a server sends, however wrong, raises anything but a GenbatchError. Where the strict
parser refuses, a lenient one goes on, since the image inside is paid for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypedDict

import pybase64
from pydantic_core import from_json

from genbatch._values import (
    Blocked,
    DamagedImage,
    GenbatchError,
    Image,
    ImageRequest,
    InvalidResponse,
    NoImage,
    Unauthorized,
    Usage,
    dimensions,
    is_whole,
    sniff_mime_type,
)

from ._models import cost, is_plausible, tier_name

JsonObject: TypeAlias = dict[str, Any]

# Parsing blocks the event loop, for about a microsecond per value. Images have no commas.
_MOST_COMMAS = 100_000
_MOST_TOKENS = 2_000_000  # a larger count, or one below zero, is none
TIER = "x-gemini-service-tier"  # the header, and what its value is called in an answer here
_FROM_URL_SAFE = str.maketrans("-_", "+/")

# Any other reason, and any the service invents later, is a NoImage.
_BLOCKING_REASONS = frozenset(
    {
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "IMAGE_PROHIBITED_CONTENT",
        "RECITATION",
        "IMAGE_RECITATION",
        "BLOCKLIST",
        "SPII",
        "MODEL_ARMOR",
    }
)


class _Details(TypedDict):
    """What every error about an answer has."""

    status: int
    request_id: str | None
    maybe_paid: bool


def parse_answer(body: str | bytes, model: str, hide: Callable[[str], str] = str) -> JsonObject:
    """Return the JSON object in body.

    Args:
        body: The answer.
        model: Full id of the model, for the message.
        hide: Applied to every string but the images' data, which is never shown.

    Raises:
        InvalidResponse: If it is not an object, or has far more values than an answer should. The
            message shows how it begins.
    """
    if _has_too_many_commas(body):
        message = f"{model} sent an answer of more than {_MOST_COMMAS:,} values"
        raise InvalidResponse(message, status=200, maybe_paid=True)
    try:
        return _object(_shown(from_json(body, cache_strings="keys"), hide))
    # The image is paid for: a stray byte or half a character in the text beside it, which the fast
    # and strict parser refuses, must not lose it. Garbage may be nested too deeply for either.
    except (ValueError, RecursionError):
        text = body if isinstance(body, str) else body.decode("utf-8-sig", "replace")
        body = text = hide(text)  # both names: tracebacks hold them
    try:
        return _object(json.loads(text))
    except (ValueError, RecursionError) as exc:
        shown = excerpt(text) or "an empty body"
        # The error may be kept for long, and with it its frames, its cause, and that one's frames.
        body = text = ""
        exc.__traceback__ = exc.__context__ = None
        if isinstance(exc, json.JSONDecodeError):
            exc.doc = ""
        message = f"{model} sent an answer that is not JSON: {shown}"
        error = InvalidResponse(message, status=200, maybe_paid=True)
        if shown.startswith("<"):  # a page of something in between, such as a login
            error.scope = "service"
        raise error from exc


def _has_too_many_commas(body: str | bytes) -> bool:
    # Where there are few, finding each is a tenth of the work of counting them.
    find = partial(body.find, "," if isinstance(body, str) else b",")  # type: ignore[arg-type]
    at = -1
    for _ in range(_MOST_COMMAS + 1):
        if (at := find(at + 1)) < 0:
            return False
    return True


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} in place of an object")
    return value


def _shown(value: Any, hide: Callable[[str], str]) -> Any:
    """Return value with hide applied to its strings, except the images' data."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_shown(item, hide) for item in value]
    if isinstance(value, dict):
        return {
            name: each if name == "data" and isinstance(each, str) else _shown(each, hide)
            for name, each in value.items()
        }
    return value


def image_from(
    answer: JsonObject, request: ImageRequest, price: float | None = None, tier: str | None = None
) -> Image:
    """Return the first image of an answer that is not a draft within a thought.

    Args:
        answer: The body of a generateContent answer.
        request: What it answers, with the model's full id.
        price: US dollars of each image, in place of the published prices.
        tier: The service tier that served it; None for the standard one.

    Returns:
        The image; further ones are its extras.

    Raises:
        Blocked: If a filter blocked the image or the prompt.
        NoImage: If there is none for another reason.
        DamagedImage: If the data is not a whole image.
        InvalidResponse: If there is no data.
    """
    model, parts = request.model, _parts(answer)
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    inline = [mapping(part["inlineData"]).get("data") for part in parts if "inlineData" in part]
    if not inline:
        raise _why_none(answer, text, model)
    images, reason, damaged = _images(inline, model)
    came = len(images) + len(damaged)  # a damaged image is paid for too
    usage = _usage(answer)
    pixels = dimensions(images[0].data) if images else None
    if usage is not None and not is_plausible(usage, request, max(came, 1), pixels):
        usage = None
    billed = cost(model, usage, tier, _searches(answer)) if price is None else price * came
    if not images:
        message = f"{model} sent an invalid image: {reason}"
        details = _Details(status=200, request_id=_response_id(answer), maybe_paid=True)
        if not damaged:
            raise InvalidResponse(message, **details)
        error = DamagedImage(message, **details)
        error.data, error.cost, error.images = damaged[0], billed, came
        raise error
    return replace(
        images[0],
        usage=usage,
        text=text,
        cost=billed,
        response_id=_response_id(answer),
        extras=tuple(images[1:]),
        damaged=tuple(damaged),
    )


def _searches(answer: JsonObject) -> int:
    """Return how many search queries an answer was grounded with."""
    grounding = [mapping(c.get("groundingMetadata")) for c in objects(answer.get("candidates"))]
    names = ("webSearchQueries", "imageSearchQueries")
    queries = [each.get(name) for each in grounding for name in names]
    return sum(len(each) for each in queries if isinstance(each, list))


def served_tier(answer: JsonObject) -> str | None:
    """Return the service tier that an answer says has served it, None if it does not."""
    told = answer.get(TIER) or mapping(answer.get("usageMetadata")).get("serviceTier")
    return tier_name(told) if isinstance(told, str) else None


def _parts(answer: JsonObject) -> list[JsonObject]:
    return [
        part
        for candidate in objects(answer.get("candidates"))
        for part in objects(mapping(candidate.get("content")).get("parts"))
        if not part.get("thought")
    ]


def file_parts(answer: JsonObject) -> list[JsonObject]:
    """Return the parts that name the URL of an image in place of having its data."""
    return [part for part in _parts(answer) if "fileData" in part and "inlineData" not in part]


def _images(inline: list[object], model: str) -> tuple[list[Image], str, list[bytes]]:
    """Return the valid images, whatever types the answer claims.

    Returns:
        The images; what is wrong with the first invalid one; the bytes of those that have any.
    """
    images: list[Image] = []
    damaged: list[bytes] = []
    reason = ""
    for encoded in inline:
        try:
            data = _decoded(encoded)
        except ValueError:
            data, mime_type, wrong = str(encoded).encode(), None, "its base64 is broken"
        else:
            mime_type = sniff_mime_type(data)
            wrong = _what_is_wrong(data, mime_type)
        if mime_type and not wrong:
            images.append(Image(data, mime_type, model))
        else:
            reason = reason or wrong
            damaged += [data] if data else []
    return images, reason, damaged


def _what_is_wrong(data: bytes, mime_type: str | None) -> str:
    if not data:
        return "it has no bytes"
    if mime_type is None:
        return "it is not a PNG, JPEG, WebP or GIF"
    return "" if is_whole(data, mime_type) else "it is cut off"


def _decoded(encoded: object) -> bytes:
    """Return the bytes of base64 as servers send it, or none if encoded is not a string.

    Raises:
        ValueError: If it is not base64.
    """
    if not isinstance(encoded, str):
        return b""
    try:
        return pybase64.b64decode(encoded, validate=True)
    except ValueError:
        # It may have newlines, the URL-safe alphabet, or no padding.
        plain = "".join(encoded.split()).translate(_FROM_URL_SAFE).rstrip("=")
        return pybase64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _why_none(answer: JsonObject, text: str, model: str) -> GenbatchError:
    candidates = objects(answer.get("candidates"))
    feedback = mapping(answer.get("promptFeedback"))
    block_reason = feedback.get("blockReason")
    usage = _usage(answer)
    details = _Details(
        status=200,
        request_id=_response_id(answer),
        maybe_paid=bool(candidates or (usage and usage.output_tokens)),
    )
    said = _said(answer, text)
    # It says so itself: "You will not be charged for blocked images."
    says_free = any("not be charged" in str(c.get("finishMessage")) for c in candidates)
    free = details | {"maybe_paid": bool(usage and usage.output_tokens) and not says_free}
    if block_reason and not candidates:
        reason = excerpt(str(block_reason), 50)
        return Blocked(f"{model} blocked the prompt: {reason}{said}", reason=reason, **details)
    finish_reasons = [
        excerpt(str(c["finishReason"]), 50) for c in candidates if "finishReason" in c
    ]
    for reason in finish_reasons:
        if reason in _BLOCKING_REASONS:
            return Blocked(f"{model} blocked the image: {reason}{said}", reason=reason, **free)
        if "DISABLED" in reason:  # PUP_LIMITED_DISABLED, say
            return Unauthorized(f"the service has disabled the account: {reason}{said}", **free)
    reason = finish_reasons[0] if finish_reasons else "no candidates"
    return NoImage(f"{model} sent no image ({reason}){said}", text=text, **details)


def _said(answer: JsonObject, text: str) -> str:
    """Return what an answer says in place of an image, after a colon; nothing if it is silent."""
    error = answer.get("error")
    told = [
        *(part.get("unfetched") for part in file_parts(answer)),
        mapping(answer.get("promptFeedback")).get("blockReasonMessage"),
        *(candidate.get("finishMessage") for candidate in objects(answer.get("candidates"))),
        mapping(error).get("message") if isinstance(error, dict) else error,
        text,
    ]
    words = [excerpt(each) for each in told if isinstance(each, str) and each.strip()]
    return f": {'; '.join(words)}" if words else ""


def _response_id(answer: JsonObject) -> str | None:
    response_id = answer.get("responseId")
    return response_id if isinstance(response_id, str) else None


def _usage(answer: JsonObject) -> Usage | None:
    """Return the tokens billed, None where they are not given or are not counts.

    One that is none makes the others worthless: the call counts at its reserved price.
    """
    counts = mapping(answer.get("usageMetadata"))
    names = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount")
    details = objects(counts.get("candidatesTokensDetails"))
    text = [each.get("tokenCount", 0) for each in details if each.get("modality") == "TEXT"]
    tokens = [*(counts.get(name, 0) for name in names), *text]
    if not counts or not all(type(n) is int and 0 <= n <= _MOST_TOKENS for n in tokens):
        return None
    prompt, output, total, thoughts = tokens[: len(names)]
    usage = Usage(prompt, output, total, thoughts, sum(text))
    return None if usage.text_tokens > usage.output_tokens else usage


def mapping(value: object) -> JsonObject:
    """Return value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[JsonObject]:
    """Return the objects in value if it is a list, else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def excerpt(text: str, length: int = 200) -> str:
    """Return the beginning of text on one line, without control characters."""
    # Cut twice: a body may be megabytes, and joining its words shortens it.
    printable = "".join(c if c.isprintable() else " " for c in text[: 5 * length])
    line = " ".join(printable.split())
    return line if len(line) <= length else line[: length - 1] + "…"
