"""Gemini's wire as a server speaks it: what a call asks for, and what answers and errors look like.

Calls are generateContent requests to Gemini's own API or to Vertex, streamed or not.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ._http import Fault, JsonObject, Reply, Request
from ._pictures import draw
from ._server import Exceeded, Refused, json_reply, reply_in_place

_TYPES = "type.googleapis.com/google.rpc."
# By HTTP status: the status and the code that RPC has for it, and the service's usual message.
_ERRORS = {
    400: ("INVALID_ARGUMENT", 3, "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", 16, "API keys are not supported by this API."),
    402: ("RESOURCE_EXHAUSTED", 8, "Your prepayment credits are depleted."),
    403: ("PERMISSION_DENIED", 7, "The caller does not have permission."),
    404: ("NOT_FOUND", 5, "Requested entity was not found."),
    408: ("DEADLINE_EXCEEDED", 4, ""),
    409: ("ABORTED", 10, ""),
    413: ("INVALID_ARGUMENT", 3, ""),
    429: ("RESOURCE_EXHAUSTED", 8, "Resource has been exhausted (e.g. check quota)."),
    499: ("CANCELLED", 1, ""),
    500: ("INTERNAL", 13, "An internal error has occurred."),
    501: ("UNIMPLEMENTED", 12, ""),
    503: ("UNAVAILABLE", 14, "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", 4, "Deadline expired before operation could complete."),
}
_UNKNOWN = ("UNKNOWN", 2, "")
_BAD_KEY = "API key not valid. Please pass a valid API key."
_EXPIRED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
    "or other valid authentication credential."
)
_METRIC = "generativelanguage.googleapis.com/generate_requests_per_model"
_CALL = re.compile(
    r"/v1(?:(?:beta)?|(?:beta1)?/projects/[^/]+/locations/[^/]+/publishers/google)/models"
    r"/([^/:]+):(?:g|streamG)enerateContent"
)
_VERTEX = re.compile(r"/v1(?:beta1)?/(?:projects|publishers)/")
_UNDERSCORE = re.compile(r"_([a-z])")
_TIERS = ("standard", "flex", "priority")
_RATIO = re.compile(r"([1-9]\d?):([1-9]\d?)")
# Tokens billed for one image, by size. Never read from the price file: tests compare the two.
_TOKENS = {"1K": 1120, "2K": 1680, "4K": 3780}
_TOKENS_OF_PRO = {"1K": 1120, "2K": 1120, "4K": 2000}
_TOKENS_PER_INPUT_IMAGE = 1120


@dataclass(frozen=True, slots=True)
class Call:
    """One generateContent request as the server received it, alone or as a row of a batch.

    Attributes:
        number: 1 for the first call a server receives.
        model: Model id in the path.
        prompt: Text of every part, joined by newlines.
        body: The JSON object sent, its names in camel case, empty if it was none.
        headers: Request headers, names in lower case.
        path: Path of the request, which tells Gemini's own API from Vertex, and a stream.
        key: Key of the row, for a row of a batch; its number is its place there, from 1 on.
    """

    number: int
    model: str
    prompt: str
    body: Mapping[str, Any] = field(repr=False)
    # Not in the repr: the key is in there, and test reports print reprs.
    headers: Mapping[str, str] = field(repr=False)
    path: str = ""
    key: str = ""


# Requests


def called_model(request: Request) -> str | None:
    """Return the model that a request calls, None if it is not a call."""
    match = _CALL.fullmatch(request.path) if request.method == "POST" else None
    return match and match[1]


def is_vertex(path: str) -> bool:
    """Return whether a path belongs to Vertex."""
    return _VERTEX.match(path) is not None


def parse_call(number: int, model: str, request: Request) -> Call:
    """Return the call that a request is; a body that is not a JSON object counts as empty."""
    body = json_object(request.body)
    return Call(number, model, prompt_of(body), body, request.headers, request.path)


def prompt_of(body: Mapping[str, Any]) -> str:
    """Return the text of every part of a request, joined by newlines."""
    texts = (part.get("text") for part in _parts(body))
    return "\n".join(text for text in texts if isinstance(text, str))


def inputs_of(body: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return the names of the files that a request refers to, and the tokens of all its inputs."""
    parts = _parts(body)
    files = [mapping(part["fileData"]) for part in parts if "fileData" in part]
    uris = [str(file.get("fileUri") or file.get("file_uri")) for file in files]
    images = len(files) + sum("inlineData" in part for part in parts)
    tokens = max(1, len(prompt_of(body)) // 4) + _TOKENS_PER_INPUT_IMAGE * images
    return [f"files/{uri.rpartition('/')[2]}" for uri in uris], tokens


def check_body(call: Call) -> None:
    """Check what a call asks for.

    Raises:
        Refused: If it is invalid.
    """
    ratio, size = _ratio_and_size(call)
    tier = _tier_of(call)
    if not call.body:
        message = "Invalid JSON payload received. Expected a JSON object."
    elif not _parts(call.body):
        message = "* GenerateContentRequest.contents: contents is not specified\n"
    elif not _RATIO.fullmatch(ratio):
        message = f"Invalid value at 'image_config.aspect_ratio': {ratio!r}"
    elif size not in _TOKENS:
        message = f"Invalid value at 'image_config.image_size': {size!r}"
    elif _config(call).get("candidateCount") not in (None, 0, 1):
        message = "Multiple candidates is not enabled for this model"
    elif tier not in _TIERS:
        message = f"Invalid value at 'service_tier': {tier!r}"
    else:
        return
    raise refused(400, message)


def json_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that body is, its names in camel case; an empty one if it is none."""
    try:
        return mapping(json.loads(body, object_hook=_in_camel_case))
    except (ValueError, RecursionError):
        return {}


def _in_camel_case(fields: JsonObject) -> JsonObject:
    # As every parser of protocol buffers in JSON, the service takes inline_data for inlineData.
    return {_UNDERSCORE.sub(lambda m: m[1].upper(), name): each for name, each in fields.items()}


def mapping(value: object) -> Mapping[str, Any]:
    """Return value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> list[object]:
    # The service takes one object for a list of one.
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _parts(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every part of a request; nothing a stranger may have sent breaks it."""
    contents = [mapping(content) for content in _sequence(body.get("contents"))]
    return [mapping(part) for content in contents for part in _sequence(content.get("parts"))]


def _config(call: Call) -> Mapping[str, Any]:
    return mapping(call.body.get("generationConfig"))


def _tier_of(call: Call) -> str:
    tier = str(call.body.get("serviceTier") or "unspecified").lower().removeprefix("service_tier_")
    return "standard" if tier == "unspecified" else tier


def _ratio_and_size(call: Call) -> tuple[str, str]:
    config = mapping(_config(call).get("imageConfig"))
    return str(config.get("aspectRatio") or "1:1"), str(config.get("imageSize") or "1K")


# Answers


def make_reply(call: Call, fault: Fault, image_size: int) -> tuple[Reply, int]:
    """Return the reply to a valid call, and how many images it bills; call it in a thread.

    Args:
        call: The call.
        fault: Replaces or edits the answer.
        image_size: Longer side of the image in pixels.
    """
    instead = reply_in_place(fault, error_reply)
    if instead is not None and not fault.late:
        return instead, 0
    drawn = _image_answer(call, image_size)
    answer = fault.edit(drawn) if fault.edit else drawn
    reply = json_reply(answer, fault.status or 200)
    if not is_vertex(call.path):
        served = {"x-gemini-service-tier": _tier_of(call)}
        reply = replace(reply, headers={**reply.headers, **served})
    return instead or reply, max(1, _images_in(answer))


def streamed(reply: Reply, request: Request) -> Reply:
    """Return the reply to a call as a stream, in the form that request asks for.

    Each part of the answer is a chunk of its own: an event with alt=sse, else an element of an
    array. A body that is not a JSON object stays as it is, and so does an error with alt=sse.
    """
    has_events = request.query.get("alt") == "sse"
    answer = json_object(reply.body)
    if not answer or (has_events and reply.status >= 300):
        return reply
    chunks = [json.dumps(chunk) for chunk in _chunks(answer)]
    if not has_events:
        return replace(reply, body=f"[{','.join(chunks)}]".encode())
    events = "".join(f"data: {chunk}\r\n\r\n" for chunk in chunks)
    headers = {**reply.headers, "content-type": "text/event-stream"}
    return replace(reply, body=events.encode(), headers=headers)


def _chunks(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield an answer part by part, each with the usage, the last one with the finish reason."""
    candidate = mapping(next(iter(_sequence(answer.get("candidates"))), None))
    content = mapping(candidate.get("content"))
    parts = _sequence(content.get("parts"))
    for part in parts[:-1]:
        yield {**answer, "candidates": [{"content": {**content, "parts": [part]}, "index": 0}]}
    if parts:
        ended = {**candidate, "content": {**content, "parts": parts[-1:]}}
        answer = {**answer, "candidates": [ended]}
    yield answer


def _image_answer(call: Call, image_size: int) -> JsonObject:
    ratio, size = _ratio_and_size(call)
    across, down = map(int, ratio.split(":"))
    scale = image_size / max(across, down)
    width, height = max(1, round(across * scale)), max(1, round(down * scale))
    seed = _config(call).get("seed")
    png = draw(call.prompt, model=call.model, seed=seed, width=width, height=height)
    inputs = sum("inlineData" in part or "fileData" in part for part in _parts(call.body))
    prompt_tokens = max(1, len(call.prompt) // 4) + _TOKENS_PER_INPUT_IMAGE * inputs
    tokens = (_TOKENS_OF_PRO if call.model == "gemini-3-pro-image" else _TOKENS)[size]
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


def _images_in(answer: object) -> int:
    """Return how many images an answer has, drafts apart."""
    candidates = [mapping(each) for each in _sequence(mapping(answer).get("candidates"))]
    parts = _parts({"contents": [each.get("content") for each in candidates]})
    return sum("inlineData" in part and not part.get("thought") for part in parts)


def candidate(parts: Iterable[object], finish_reason: str = "STOP") -> JsonObject:
    """Return one candidate of an answer."""
    content = {"role": "model", "parts": list(parts)}
    return {"content": content, "finishReason": finish_reason, "index": 0}


def inline(content: bytes) -> JsonObject:
    """Return a part that holds content, labelled a PNG."""
    return {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(content).decode()}}


def list_reply(
    name: str, items: Sequence[JsonObject], request: Request, pages: tuple[int, int]
) -> Reply:
    """Return the page of a list that a request asks for by pageSize and pageToken.

    Args:
        name: Of the list in the answer.
        items: The whole list.
        request: The request.
        pages: Usual and largest number of items on a page.
    """
    query = request.query
    size, token = query.get("pageSize", "0"), query.get("pageToken", "page-0")[5:]
    if not size.isdecimal() or not token.isdecimal():
        raise refused(400)
    end = int(token) + min(int(size) or pages[0], pages[1])
    more = {"nextPageToken": f"page-{end}"} if end < len(items) else {}
    return json_reply({name: items[int(token) : end], **more})


def filled(**fields: object) -> JsonObject:
    """Return fields without those that are empty or 0, which the service leaves out."""
    return {name: value for name, value in fields.items() if value}


def timestamp(time: datetime) -> str:
    """Return time as the service writes it."""
    return time.isoformat().replace("+00:00", "Z")


# Errors


def error_reply(status: int, message: str = "") -> Reply:
    """Return an error in the service's shape, by default with its usual message for status."""
    return reply_with(error_body(status, message))


def refused(status: int, message: str = "") -> Refused:
    """Return the error as it is raised."""
    return Refused(error_reply(status, message))


def reply_with(error: JsonObject) -> Reply:
    """Return one of the errors below as a reply."""
    return json_reply(error, error["error"]["code"])


def error_body(status: int, message: str = "", details: Sequence[object] = ()) -> JsonObject:
    """Return the JSON object with which the service describes an error."""
    name, _, usual = _ERRORS.get(status, _UNKNOWN)
    message = message or usual or f"The service answered {status}."
    error: JsonObject = {"code": status, "message": message, "status": name}
    return {"error": error | ({"details": list(details)} if details else {})}


def rpc_error(reply: Reply) -> JsonObject:
    """Return the error of a reply as a row of a batch has it: with a code of RPC."""
    described = mapping(json_object(reply.body).get("error"))
    usual = error_body(reply.status)["error"]["message"]
    code = _ERRORS.get(reply.status, _UNKNOWN)[1]
    error: JsonObject = {"code": code, "message": described.get("message") or usual}
    return error | ({"details": described["details"]} if "details" in described else {})


def key_error(key: str = "", message: str = _BAD_KEY, status: int = 400) -> JsonObject:
    """Return the error for a wrong key; it repeats the key, if any, as the service may."""
    service = {"service": "generativelanguage.googleapis.com"}
    details = [
        _error_info("API_KEY_INVALID", service, domain="googleapis.com"),
        {"@type": f"{_TYPES}LocalizedMessage", "locale": "en-US", "message": message},
    ]
    if key:
        details.append({"@type": f"{_TYPES}DebugInfo", "detail": f"Invalid API key: {key}"})
    return error_body(status, message, details)


def token_error(reason: str = "ACCESS_TOKEN_EXPIRED", message: str = _EXPIRED) -> JsonObject:
    """Return the error for a wrong token, a 401."""
    method = "google.cloud.aiplatform.v1beta1.PredictionService.GenerateContent"
    service = {"service": "aiplatform.googleapis.com", "method": method}
    return error_body(401, message, [_error_info(reason, service)])


def model_error(model: str) -> JsonObject:
    """Return the error for a model that the service does not have, or no longer, a 404."""
    message = (
        f"models/{model} is not found for API version v1beta, or is not supported for "
        "generateContent. Call ListModels to see the list of available models and their "
        "supported methods."
    )
    return error_body(404, message)


def quota_error(beyond: Exceeded, model: str | None = None) -> JsonObject:
    """Return the error for a quota that is used up, a 429; it names the model, if any."""
    message = (
        "You exceeded your current quota, please check your plan and billing details.\n"
        f"* Quota exceeded for metric: {_METRIC}, limit: {beyond.limit}"
    )
    violation: JsonObject = {
        "quotaMetric": _METRIC,
        "quotaId": f"GenerateRequestsPer{beyond.period}PerProjectPerModel",
        "quotaValue": str(beyond.limit),
    }
    if model is not None:
        violation["quotaDimensions"] = {"location": "global", "model": model}
    details: list[object] = [{"@type": f"{_TYPES}QuotaFailure", "violations": [violation]}]
    if beyond.wait is not None:
        # Rounded up to milliseconds, first to microseconds: 53.000000000000007 s are 53 s.
        seconds = f"{math.ceil(round(beyond.wait * 1e3, 3)) / 1e3:.3f}".rstrip("0").rstrip(".")
        message += f"\nPlease retry in {seconds}s."
        details.append({"@type": f"{_TYPES}RetryInfo", "retryDelay": f"{seconds}s"})
    return error_body(429, message, details)


def _error_info(reason: str, metadata: Mapping[str, str], **more: str) -> JsonObject:
    return {"@type": f"{_TYPES}ErrorInfo", "reason": reason, "metadata": metadata, **more}
