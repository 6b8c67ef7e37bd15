"""Answers with a good status whose content is not the usual: the faults of a model.

Those that bring an image are billed; those in place of one are not.
"""

from __future__ import annotations

from typing import Any

from ._draw import draw
from ._faults import Fault
from ._wire import JsonObject, candidate, inline

# One grey pixel, in base64.
_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP////////////////////////////////////////////////////////"
    "//////////////////////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAA"
    "AAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)
_EXTRA_PIXELS = 32


# No image


def blocked(reason: str = "PROHIBITED_CONTENT") -> Fault:
    """Return an answer that refuses the prompt: feedback and no candidates."""
    return Fault(body={"promptFeedback": {"blockReason": reason}})


def filtered(reason: str = "IMAGE_SAFETY") -> Fault:
    """Return an answer whose candidate has a finish reason and no content."""
    return Fault(body={"candidates": [{"finishReason": reason, "index": 0}]})


def no_image(text: str = "I can only describe it.", *, finish_reason: str = "STOP") -> Fault:
    """Return an answer that has text and no image."""
    return Fault(body={"candidates": [candidate([{"text": text}], finish_reason)]})


def no_candidates() -> Fault:
    """Return an answer with an empty list of candidates."""
    return Fault(body={"candidates": []})


# Something that is no image


def not_an_image(content: bytes = b"not an image") -> Fault:
    """Return an answer whose image part holds content, labelled a PNG."""
    return Fault(body={"candidates": [candidate([inline(content)])]})


def empty_image() -> Fault:
    """Return an answer whose image part holds no bytes."""
    return not_an_image(b"")


def bad_base64() -> Fault:
    """Return an answer whose image part is no base64."""
    part = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo*not*base64*"}}
    return Fault(body={"candidates": [candidate([part])]})


# No answer


def broken_json() -> Fault:
    """Return a complete answer of HTTP whose JSON stops in the middle."""
    return Fault(body='{"candidates": [{"content": {"role": "model", "parts": [{"inlineDa')


def garbage() -> Fault:
    """Return bytes that are no text in any encoding of JSON."""
    return Fault(body=b"\x93\xff\x00\xfe" * 64)


def empty_body() -> Fault:
    """Return an answer without a byte in its body."""
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
    """Return an answer with so many images, each of them billed."""

    def repeat(answer: JsonObject) -> JsonObject:
        _parts(answer).extend(_extra(n) for n in range(1, count))
        tokens = answer["usageMetadata"]["candidatesTokenCount"]
        _bill(answer, "candidatesTokenCount", tokens * (count - 1))
        return answer

    return Fault(edit=repeat)


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
