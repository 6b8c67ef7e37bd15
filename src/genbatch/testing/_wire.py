"""The Gemini wire as a server speaks it: what a call asks for, and what answers look like."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qs

JsonObject: TypeAlias = dict[str, Any]

JSON = {"content-type": "application/json; charset=UTF-8"}
TYPES = "type.googleapis.com/google.rpc."

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
_CALLS = (
    re.compile(r"/v1beta/models/([^/:]+):generateContent"),
    re.compile(
        r"/v1beta1/projects/[^/]+/locations/[^/]+"
        r"/publishers/google/models/([^/:]+):generateContent"
    ),
)
_RATIO = re.compile(r"([1-9]\d?):([1-9]\d?)")
_TOKENS = {"1K": 1120, "2K": 1680, "4K": 2520}  # billed for one image
_TOKENS_PER_INPUT_IMAGE = 258


@dataclass(frozen=True, slots=True)
class Call:
    """One generateContent request as the server received it, alone or as a row of a batch.

    Attributes:
        number: 1 for the first call a server receives.
        model: Model id in the path.
        prompt: Text of every part, joined by newlines.
        body: The JSON object sent, empty if it was none.
        headers: Request headers, names in lower case.
        path: Path of the request, which tells Gemini's own API from Vertex.
        key: Key of the row, for one of a batch; its number is its place there, from 1 on.
    """

    number: int
    model: str
    prompt: str
    body: Mapping[str, Any] = field(repr=False)
    # Not in the repr: the key is in there, and test reports print reprs.
    headers: Mapping[str, str] = field(repr=False)
    path: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response before it is framed."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


def called_model(method: str, path: str) -> str | None:
    """Return the model that a request line calls, or None if it calls none."""
    if method != "POST":
        return None
    matches = (pattern.fullmatch(path) for pattern in _CALLS)
    return next((match[1] for match in matches if match), None)


def parse_call(number: int, model: str, path: str, headers: Mapping[str, str], body: bytes) -> Call:
    """Return the call that body describes; a body that is no JSON object counts as empty."""
    content = json_object(body)
    return Call(number, model, prompt_of(content), content, headers, path)


def prompt_of(content: Mapping[str, Any]) -> str:
    """Return the text of every part of a request, joined by newlines."""
    texts = (part.get("text") for part in _parts(content))
    return "\n".join(text for text in texts if isinstance(text, str))


def json_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that body is, an empty one if it is none."""
    try:
        return mapping(json.loads(body))
    except (ValueError, RecursionError):
        return {}


def refusal(call: Call) -> Reply | None:
    """Return the error the service answers a wrong body with, None for a right one."""
    if not call.body:
        return error_reply(400, "Invalid JSON payload received. Expected a JSON object.")
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
    return mapping(call.body.get("generationConfig")).get("seed")


def image_answer(call: Call, png: bytes) -> JsonObject:
    """Return the JSON of the answer to call that brings an image."""
    inputs = sum("inlineData" in part or "fileData" in part for part in _parts(call.body))
    prompt_tokens = max(1, len(call.prompt) // 4) + _TOKENS_PER_INPUT_IMAGE * inputs
    tokens = _TOKENS[_ratio_and_size(call)[1]]
    return {
        "candidates": [candidate([{"text": "Here is the image you asked for."}, inline(png)])],
        "usageMetadata": {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": tokens,
            "totalTokenCount": prompt_tokens + tokens,
        },
        "modelVersion": call.model,
        "responseId": f"fake-{call.number}",
    }


def candidate(parts: Iterable[object], finish_reason: str = "STOP") -> JsonObject:
    """Return one candidate of an answer."""
    content = {"role": "model", "parts": list(parts)}
    return {"content": content, "finishReason": finish_reason, "index": 0}


def inline(content: bytes) -> JsonObject:
    """Return a part that holds content, labelled a PNG."""
    return {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(content).decode()}}


def images_in(answer: object) -> int:
    """Return how many images an answer has, drafts apart."""
    candidates = [mapping(each) for each in _sequence(mapping(answer).get("candidates"))]
    parts = _parts({"contents": [each.get("content") for each in candidates]})
    return sum("inlineData" in part and not part.get("thought") for part in parts)


def page_of(query: str, count: int, usual: int, largest: int) -> tuple[int, int] | None:
    """Return where the page that query asks for begins and ends, of a list of count items.

    Args:
        query: Of the request, with pageSize and pageToken.
        count: Items there are.
        usual: Items of a page where query tells no number.
        largest: Most items of a page.

    Returns:
        None if query is wrong; the end, if below count, makes the next token: ``page-END``.
    """
    fields = {name: values[-1] for name, values in parse_qs(query).items()}
    size, start = fields.get("pageSize", "0"), fields.get("pageToken", "page-0")[5:]
    if not size.isdecimal() or not start.isdecimal():
        return None
    return int(start), min(int(start) + min(int(size) or usual, largest), count)


def json_reply(content: object, status: int = 200) -> Reply:
    """Return content as a JSON reply."""
    return Reply(status, json.dumps(content).encode())


def error_reply(status: int, message: str | None = None, details: Iterable[object] = ()) -> Reply:
    """Return an error in the shape of the service; its own words for status by default."""
    return json_reply(error_body(status, message, details), status)


def error_body(
    status: int, message: str | None = None, details: Iterable[object] = ()
) -> JsonObject:
    """Return the JSON object that the service describes an error with."""
    error: JsonObject = {
        "code": status,
        "message": message or _MESSAGES.get(status, f"The service answered {status}."),
        "status": _STATUSES.get(status, "UNKNOWN"),
    }
    if details := list(details):
        error["details"] = details
    return {"error": error}


def _ratio_and_size(call: Call) -> tuple[str, str]:
    config = mapping(mapping(call.body.get("generationConfig")).get("imageConfig"))
    return str(config.get("aspectRatio") or "1:1"), str(config.get("imageSize") or "1K")


def _parts(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every part of a request; nothing a stranger may have sent breaks it."""
    contents = [mapping(content) for content in _sequence(body.get("contents"))]
    return [mapping(part) for content in contents for part in _sequence(content.get("parts"))]


def mapping(value: object) -> Mapping[str, Any]:
    """Return value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> list[object]:
    return value if isinstance(value, list) else []
