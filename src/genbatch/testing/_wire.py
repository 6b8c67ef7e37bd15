"""The Gemini wire as a server speaks it: what a call asks for, and what answers look like."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

JSON = {"content-type": "application/json; charset=UTF-8"}

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MESSAGES = {
    400: "Request contains an invalid argument.",
    401: "API keys are not supported by this API.",
    403: "The caller does not have permission.",
    404: "Requested entity was not found.",
    429: "Resource has been exhausted (e.g. check quota).",
    500: "An internal error has occurred.",
    503: "The model is overloaded. Please try again later.",
    504: "Deadline expired before operation could complete.",
}
_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use "
    "API Key or other form of API consumer identity to call this API."
)
_CALL = re.compile(r"/v1beta/models/([^/:]+):generateContent")
_RETIRED = re.compile(r"gemini-3\.1-flash-image|gemini-2\.5-flash-image|imagen-.*")
_RATIO = re.compile(r"([1-9]\d?):([1-9]\d?)")
_TOKENS = {"1K": 1120, "2K": 1680, "4K": 2520}  # billed for one image
_TOKENS_PER_INPUT_IMAGE = 258


@dataclass(frozen=True, slots=True)
class Call:
    """One generateContent request as the server received it.

    Attributes:
        number: 1 for the first call a server receives.
        model: Model id in the path.
        prompt: Text of every part, joined by newlines.
        body: The JSON object sent, empty if it was none.
        headers: Request headers, names in lower case.
    """

    number: int
    model: str
    prompt: str
    body: Mapping[str, Any] = field(repr=False)
    # Not in the repr: the key is in there, and test reports print reprs.
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response before it is framed."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


def called_model(method: str, target: str) -> str | None:
    """Return the model that a request line calls, or None if it calls none."""
    match = _CALL.fullmatch(unquote(target.partition("?")[0]))
    return match[1] if match and method == "POST" else None


def parse_call(number: int, model: str, headers: Mapping[str, str], body: bytes) -> Call:
    """Return the call that body describes; a body that is no JSON object counts as empty."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        content = {}
    texts = (part.get("text") for part in _parts(content))
    prompt = "\n".join(text for text in texts if isinstance(text, str))
    return Call(number, model, prompt, content, headers)


def refusal(call: Call) -> Reply | None:
    """Return the error the service answers a wrong request with, None for a right one."""
    if not call.headers.get("x-goog-api-key"):
        return error_reply(403, _NO_KEY)
    if not call.body:
        return error_reply(400, "Invalid JSON payload received. Expected a JSON object.")
    if _RETIRED.fullmatch(call.model):
        return error_reply(
            404,
            f"models/{call.model} is not found for API version v1beta, or is not supported for "
            "generateContent. Call ListModels to see the list of available models and their "
            "supported methods.",
        )
    if not _parts(call.body):
        return error_reply(400, "* GenerateContentRequest.contents: contents is not specified\n")
    ratio, size = _ratio_and_size(call)
    if not _RATIO.fullmatch(ratio):
        return error_reply(400, f"Invalid value at 'image_config.aspect_ratio': {ratio!r}")
    if size not in _TOKENS:
        return error_reply(400, f"Invalid value at 'image_config.image_size': {size!r}")
    return None


def dimensions(call: Call, long_side: int) -> tuple[int, int]:
    """Return width and height in pixels of the image that call, which is right, asks for."""
    across, down = map(int, _ratio_and_size(call)[0].split(":"))
    scale = long_side / max(across, down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def seed_of(call: Call) -> object:
    """Return the seed that call asks for, None if it leaves that to the model."""
    return _mapping(call.body.get("generationConfig")).get("seed")


def image_reply(call: Call, png: bytes) -> Reply:
    """Return the answer to call that brings an image."""
    parts = [
        {"text": "Here is the image you asked for."},
        {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(png).decode()}},
    ]
    inputs = sum("inlineData" in part or "fileData" in part for part in _parts(call.body))
    prompt_tokens = max(1, len(call.prompt) // 4) + _TOKENS_PER_INPUT_IMAGE * inputs
    tokens = _TOKENS[_ratio_and_size(call)[1]]
    answer = {
        "candidates": [candidate(parts)],
        "usageMetadata": {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": tokens,
            "totalTokenCount": prompt_tokens + tokens,
        },
        "modelVersion": call.model,
        "responseId": f"fake-{call.number}",
    }
    return json_reply(answer)


def candidate(parts: Iterable[object], finish_reason: str = "STOP") -> dict[str, object]:
    """Return one candidate of an answer."""
    content = {"role": "model", "parts": list(parts)}
    return {"content": content, "finishReason": finish_reason, "index": 0}


def json_reply(content: object, status: int = 200) -> Reply:
    """Return content as a JSON reply."""
    return Reply(status, json.dumps(content).encode())


def error_reply(status: int, message: str | None = None, details: Iterable[object] = ()) -> Reply:
    """Return an error in the shape of the service; its own words for status by default."""
    return json_reply(error_body(status, message, details), status)


def error_body(
    status: int, message: str | None = None, details: Iterable[object] = ()
) -> dict[str, object]:
    """Return the JSON object that the service describes an error with."""
    error: dict[str, object] = {
        "code": status,
        "message": message or _MESSAGES.get(status, f"The service answered {status}."),
        "status": _STATUSES.get(status, "UNKNOWN"),
    }
    if details := list(details):
        error["details"] = details
    return {"error": error}


def _ratio_and_size(call: Call) -> tuple[str, str]:
    config = _mapping(_mapping(call.body.get("generationConfig")).get("imageConfig"))
    return str(config.get("aspectRatio") or "1:1"), str(config.get("imageSize") or "1K")


def _parts(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every part of a request; nothing a stranger may have sent breaks it."""
    contents = [_mapping(content) for content in _sequence(body.get("contents"))]
    return [_mapping(part) for content in contents for part in _sequence(content.get("parts"))]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> list[object]:
    return value if isinstance(value, list) else []
