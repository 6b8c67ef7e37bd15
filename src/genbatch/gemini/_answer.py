"""Read an answer as an Image, or as the error that says why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict

from genbatch._client import (
    MOST_TOKENS,
    JsonObject,
    excerpt,
    images_of,
    mapping,
    no_whole_image,
    objects,
)
from genbatch._values import (
    FAKE_HEADER,
    Blocked,
    GenbatchError,
    Image,
    ImageRequest,
    NoImage,
    Unauthorized,
    Usage,
    dimensions,
)

from ._models import cost, is_plausible, tier_name

TIER = "x-gemini-service-tier"  # the header, and what its value is called in an answer here

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
    images, reason, damaged = images_of(inline, model)
    came = len(images) + len(damaged)  # a damaged image is paid for too
    usage = _usage(answer)
    pixels = dimensions(images[0].data) if images else None
    if usage is not None and not is_plausible(usage, request, max(came, 1), pixels):
        usage = None
    billed = cost(model, usage, tier, _searches(answer)) if price is None else price * came
    if not images:
        raise no_whole_image(model, reason, damaged, billed, came, _response_id(answer))
    return replace(
        images[0],
        usage=usage,
        text=text,
        cost=billed,
        response_id=_response_id(answer),
        extras=tuple(images[1:]),
        damaged=tuple(damaged),
        is_placeholder=answer.get(FAKE_HEADER) is not None,
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
    """Return the tokens billed, None where they are missing or any of them is not a valid count.

    The call then counts at its reserved price.
    """
    counts = mapping(answer.get("usageMetadata"))
    names = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount")
    details = objects(counts.get("candidatesTokensDetails"))
    text = [each.get("tokenCount", 0) for each in details if each.get("modality") == "TEXT"]
    tokens = [*(counts.get(name, 0) for name in names), *text]
    if not counts or not all(type(n) is int and 0 <= n <= MOST_TOKENS for n in tokens):
        return None
    prompt, output, total, thoughts = tokens[: len(names)]
    usage = Usage(prompt, output, total, thoughts, sum(text))
    return None if usage.text_tokens > usage.output_tokens else usage
