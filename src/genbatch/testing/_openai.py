"""FakeOpenAI: a loopback server that speaks OpenAI's Images API.

What it counts, and when, is as for FakeGemini.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from email import message_from_bytes
from functools import partial
from typing import Any

from ._gemini import KEPT_BODY, Stats
from ._http import NO_FAULT, Fault, JsonObject, Reply, Request, ServerConnection, pause, serving
from ._pictures import draw
from ._server import (
    FakeServer,
    Quota,
    Refused,
    json_reply,
    reply_in_place,
    scripted,
    timed,
    unless_refused,
)
from ._wire import Call

_PATHS = ("/v1/images/generations", "/v1/images/edits")
# Sides of the grid that a quality is billed by. Never read from the price file: tests compare the
# two.
_GRIDS = {"low": 16, "medium": 24, "high": 48, "xhigh": 64, "max": 96}
_SIZE = re.compile(r"[1-9]\d{0,3}x[1-9]\d{0,3}", re.ASCII)
_TOKENS_PER_INPUT_IMAGE = 1024
_KNOWN = frozenset(
    "background complexity frame_count frame_duration_ms image image[] input_fidelity markup mask "
    "model moderation n output_compression output_format partial_images prompt quality "
    "response_format safety_identifier size stream style svg user".split()
)


def openai_error(status: int, code: str | None = None, message: str = "", **more: object) -> Fault:
    """Return the fault of an error in OpenAI's shape.

    Args:
        status: HTTP status.
        code: Such as ``"insufficient_quota"`` or ``"moderation_blocked"``.
        message: By default one that names the status.
        more: Further fields of the error, such as ``moderation_details``.
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message or f"The service answered {status}.", "type": kind}
    return Fault(status=status, body={"error": {**error, "param": None, "code": code, **more}})


class FakeOpenAI(FakeServer):
    """A server on this machine that answers image generations and edits with drawn PNGs.

    Enter it with ``with`` or ``async with``, as FakeGemini, and point a client at ``url``;
    ``GET /stats`` answers the stats.

    Args:
        image_size: Longer side of the images in pixels; the size asked for decides the other.
        faults: As for FakeGemini; errors in OpenAI's shape are openai_error's.
        api_keys: Keys that are valid, looked up at every request; None for any that is not empty.
        models: Ids of the available models; None for any.

    The others are as for FakeGemini, and so are errors.

    Cancellation, failure: as for FakeGemini.
    """

    _base_path = "/v1"

    def __init__(
        self,
        *,
        latency: float | Callable[[Call], float] = 0.0,
        image_size: int = 512,
        faults: Iterable[Fault | None] | Callable[[Call], Fault | None] = (),
        quota: str | None = None,
        retry_info: bool = True,
        speed: float = 1.0,
        api_keys: Container[str] | None = None,
        models: Container[str] | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        thread: bool = False,
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be >= 1, got {image_size}")
        super().__init__(host, port, thread=thread)
        self._quota = Quota(quota, None, retry_info=retry_info, speed=speed)
        self._latency = timed("latency", latency, speed)
        self._fault = scripted(faults, NO_FAULT)
        self._image_size = image_size
        self._api_keys = api_keys
        self._models = models

    @property
    def stats(self) -> Stats:
        """The counters as they are now."""
        counts = self._counts
        in_flight, peak = counts.in_flight, counts.peak
        return Stats(counts.received, counts.images, in_flight, peak, counts.limited)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[str]:
        self._quota.renew()
        async with serving(*self._address, self._serve, _error_reply) as (url, _):
            yield url

    async def _serve(self, request: Request, connection: ServerConnection) -> None:
        if request.method == "POST" and request.path in _PATHS:
            await self._serve_call(request, connection)
        elif request.method == "GET" and request.path == "/stats":
            await connection.send(json_reply(asdict(self.stats)))
        else:
            text = f"Invalid URL ({request.method} {request.path})"
            await connection.send(_error_reply(404, text))

    async def _serve_call(self, request: Request, connection: ServerConnection) -> None:
        self._counts.received += 1
        number = self._counts.received
        with self._counts.counted(connection) as release:
            async with connection.watched(on_hang_up=release):
                call = await self._threads.run(_parse_call, number, request)
                is_large = len(request.body) > KEPT_BODY
                self._calls.append(replace(call, body={}) if is_large else call)
                reply, fault = await unless_refused(self._answer(call, request))
                headers = {**reply.headers, "x-request-id": f"req_{number}"}
                reply = replace(reply, headers=headers)
                await connection.send(reply, fault, before_last=release)

    async def _answer(self, call: Call, request: Request) -> tuple[Reply, Fault]:
        self._check_caller(request)
        _check_body(call)
        if self._models is not None and call.model not in self._models:
            text = f"The model '{call.model}' does not exist."
            raise _refused(404, "model_not_found", text, param="model")
        if beyond := self._quota.admit(call.model):
            self._counts.limited += 1
            limited = _refused(429, "rate_limit_exceeded", f"Rate limit reached for {call.model}.")
            if beyond.wait is not None:
                headers = {**limited.reply.headers, "retry-after": f"{beyond.wait:.3f}"}
                limited.reply = replace(limited.reply, headers=headers)
            raise limited
        fault = self._fault(call)
        await pause(self._latency(call) + fault.delay)
        make = partial(_make_reply, call, fault, self._image_size)
        reply, images = await self._threads.run(make, extra=fault.edit is not None)
        self._counts.images += images
        return reply, fault

    def _check_caller(self, request: Request) -> None:
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or not key:
            raise _refused(401, None, "You didn't provide an API key.")
        if self._api_keys is not None and key not in self._api_keys:
            raise _refused(401, "invalid_api_key", f"Incorrect API key provided: {key}.")


def _error_reply(status: int, message: str) -> Reply:
    return json_reply(openai_error(status, None, message).body, status)


def _refused(status: int, code: str | None, message: str, **more: object) -> Refused:
    return Refused(json_reply(openai_error(status, code, message, **more).body, status))


def _parse_call(number: int, request: Request) -> Call:
    """Return the call that a request is: the fields of its JSON, or of its form."""
    kind = request.headers.get("content-type", "")
    body: Mapping[str, Any] = {}
    if kind.startswith("multipart/form-data"):
        body = _fields_of_form(kind, request.body)
    else:
        try:
            parsed = json.loads(request.body)
        except (ValueError, RecursionError):
            parsed = None
        body = parsed if isinstance(parsed, dict) else {}
    model, prompt = str(body.get("model") or ""), str(body.get("prompt") or "")
    return Call(number, model, prompt, body, request.headers, request.path)


def _fields_of_form(kind: str, content: bytes) -> dict[str, Any]:
    """Return the fields of a form: texts, and lists of the bytes of files."""
    fields: dict[str, Any] = {}
    form = message_from_bytes(f"content-type: {kind}\r\n\r\n".encode() + content)
    for part in form.get_payload() if form.is_multipart() else ():
        data: Any = part.get_payload(decode=True)  # type: ignore[union-attr]  # a message
        name = str(part.get_param("name", "", "content-disposition"))  # type: ignore[union-attr]
        if part.get_filename() is None:  # type: ignore[union-attr]
            fields[name] = data.decode(errors="replace")
        else:
            fields.setdefault(name, []).append(data)
    return fields


def _inputs(call: Call) -> int:
    return sum(len(call.body.get(name, ())) for name in ("image", "image[]"))


def _check_body(call: Call) -> None:
    """Refuse what the service refuses.

    Raises:
        Refused: With a 400.
    """
    body, size = call.body, str(call.body.get("size") or "auto")
    wrong = {
        "prompt": not call.prompt,
        "model": not call.model,
        "image": call.path.endswith("edits") and not _inputs(call),
        "n": str(body.get("n", 1)) not in map(str, range(1, 11)),
        "quality": (body.get("quality") or "auto") not in ("auto", *_GRIDS),
        "size": size != "auto" and not _SIZE.fullmatch(size),
    }
    if str(body.get("stream")).lower() not in ("none", "false"):
        text = "This server does not stream: leave 'stream' out."
        raise _refused(400, "unsupported_value", text, param="stream")
    if unknown := sorted(body.keys() - _KNOWN):
        text = f"Unknown parameter: '{unknown[0]}'."
        raise _refused(400, "unknown_parameter", text, param=unknown[0])
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise _refused(400, "invalid_value", f"Invalid value: '{name}'.", param=name)


def _make_reply(call: Call, fault: Fault, image_size: int) -> tuple[Reply, int]:
    """Return the reply to a valid call, and how many images it bills."""
    instead = reply_in_place(fault, _error_reply)
    if instead is not None and not fault.late:
        return instead, 0
    drawn = _image_answer(call, image_size)
    images = len(drawn["data"])
    answer = fault.edit(drawn) if fault.edit else drawn
    return instead or json_reply(answer, fault.status or 200), images


def _image_answer(call: Call, image_size: int) -> JsonObject:
    size, quality = call.body.get("size"), call.body.get("quality")
    size = size if size not in (None, "auto") else "1024x1024"
    quality = quality if quality not in (None, "auto") else "high"
    across, down = map(int, size.split("x"))
    scale, images = image_size / max(across, down), int(call.body.get("n") or 1)
    sides = {"width": max(1, round(across * scale)), "height": max(1, round(down * scale))}
    pngs = [draw(call.prompt, model=call.model, seed=n, **sides) for n in range(images)]
    grid = _GRIDS[quality]
    cells = grid * round(grid * min(across, down) / max(across, down))
    made = images * math.ceil(cells * (2_000_000 + across * down) / 4_000_000)
    text, shown = max(1, len(call.prompt) // 4), _TOKENS_PER_INPUT_IMAGE * _inputs(call)
    return {
        "created": 0,
        "background": "opaque",
        "output_format": "png",
        "quality": quality,
        "size": size,
        "data": [{"b64_json": base64.b64encode(png).decode()} for png in pngs],
        "usage": {
            "input_tokens": text + shown,
            "input_tokens_details": {"text_tokens": text, "image_tokens": shown},
            "output_tokens": made,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
            "total_tokens": text + shown + made,
        },
    }
