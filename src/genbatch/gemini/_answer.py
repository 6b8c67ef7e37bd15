"""From the JSON of an answer to an Image, or to the error that says why there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypedDict

import pybase64

from genbatch._values import (
    Blocked,
    GenbatchError,
    Image,
    InvalidResponse,
    NoImage,
    Usage,
    sniff_mime_type,
)

from ._json import JsonObject, excerpt, mapping, objects
from ._models import cost

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
    }
)


class _Details(TypedDict):
    """What every error about an answer tells."""

    status: int
    request_id: str | None
    maybe_paid: bool


def image_from(answer: JsonObject, model: str) -> Image:
    """Return the first image of an answer that is not a draft within a thought.

    Args:
        answer: The body of a generateContent answer.
        model: Full id of the model asked.

    Returns:
        It, the further ones as its extras.

    Raises:
        Blocked: If a filter took the image or the prompt.
        NoImage: If there is none for another reason.
        InvalidResponse: If what should be one is not.
    """
    parts = [
        part
        for candidate in objects(answer.get("candidates"))
        for part in objects(mapping(candidate.get("content")).get("parts"))
        if not part.get("thought")
    ]
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    inline = [mapping(part["inlineData"]).get("data") for part in parts if "inlineData" in part]
    if not inline:
        raise _why_none(answer, text, model)
    images, reason = _images(inline, model)
    if not images:
        raise InvalidResponse(
            f"{model} sent an image that is none: {reason}",
            status=200,
            request_id=_response_id(answer),
            maybe_paid=True,
        )
    usage = _usage(answer)
    return replace(
        images[0],
        usage=usage,
        text=text,
        cost=cost(model, usage),
        response_id=_response_id(answer),
        extras=tuple(images[1:]),
    )


def _images(inline: list[object], model: str) -> tuple[list[Image], str]:
    """Return the true images, whatever types the answer claims, and what is wrong with others."""
    images: list[Image] = []
    reason = ""
    for encoded in inline:
        try:
            data = _decoded(encoded)
        except ValueError:
            reason = reason or "its base64 is broken"
            continue
        if mime_type := sniff_mime_type(data):
            images.append(Image(data, mime_type, model))
        else:
            reason = reason or ("it is of no known type" if data else "it has no bytes")
    return images, reason


def _decoded(encoded: object) -> bytes:
    if isinstance(encoded, bytes):  # as it came
        return encoded
    if not isinstance(encoded, str | memoryview):
        return b""
    try:
        return pybase64.b64decode(encoded, validate=True)
    except ValueError:
        if isinstance(encoded, str):
            raise
        # As it came, where JSON may have escaped a slash.
        return pybase64.b64decode(json.loads(b'"%b"' % bytes(encoded)), validate=True)


def _why_none(answer: JsonObject, text: str, model: str) -> GenbatchError:
    candidates = objects(answer.get("candidates"))
    block_reason = mapping(answer.get("promptFeedback")).get("blockReason")
    usage = _usage(answer)
    details = _Details(
        status=200,
        request_id=_response_id(answer),
        maybe_paid=bool(candidates or (usage and usage.output_tokens)),
    )
    if block_reason and not candidates:
        reason = excerpt(str(block_reason), 50)
        return Blocked(f"{model} blocked the prompt: {reason}", reason=reason, **details)
    finish_reasons = [
        excerpt(str(c["finishReason"]), 50) for c in candidates if "finishReason" in c
    ]
    for reason in finish_reasons:
        if reason in _BLOCKING_REASONS:
            return Blocked(f"{model} blocked the image: {reason}", reason=reason, **details)
    reason = finish_reasons[0] if finish_reasons else "no candidates"
    said = f": {excerpt(text)}" if text.strip() else ""
    return NoImage(f"{model} sent no image ({reason}){said}", text=text, **details)


def _response_id(answer: JsonObject) -> str | None:
    response_id = answer.get("responseId")
    return response_id if isinstance(response_id, str) else None


def _usage(answer: JsonObject) -> Usage | None:
    counts = mapping(answer.get("usageMetadata"))
    if not counts:
        return None
    names = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount")
    tokens = (counts.get(name) for name in names)
    return Usage(*(count if isinstance(count, int) else 0 for count in tokens))
