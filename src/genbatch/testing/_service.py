"""What a FakeGemini answers, apart from connections: access, models, quota, faults and images.

Each model has its own quota. A minute's quota counts the calls admitted in the last 60 s, whenever
those began; a day's counts from the first call and is whole again 24 h after that. A refused call
uses up nothing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field

import anyio

from ._gemini import (
    Call,
    dimensions,
    error_body,
    error_reply,
    image_answer,
    images_in,
    json_reply,
    key_error,
    list_reply,
    model_error,
    quota_error,
    refusal,
    reply_in_place,
    seed_of,
    token_error,
)
from ._http import NO_FAULT, Fault, JsonObject, Reply, Request, Threads, pause
from ._pictures import draw

_MODELS = (
    "gemini-nano-banana-2.1",
    "gemini-3-pro-image",
    "gemini-3.1-flash-lite-image",
    "gemini-3-flash",
    "gemini-embedding-001",
)
_RETIRED = re.compile(r"gemini-(3\.1|2\.5)-flash-image(-preview)?|imagen-.*")
_MODEL_PATH = re.compile(r"/(?:v1beta|v1beta1/publishers/google)/models(?:/([^/]*))?")
_PAGES = (50, 1000)
_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use "
    "API Key or other form of API consumer identity to call this API."
)
_ANONYMOUS = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login "
    "cookie or other valid authentication credential."
)
_MINUTE, _DAY = 60.0, 86_400.0  # seconds
_DAILY_DELAY = 47.0  # seconds; seen beside a day's quota that was used up
_PER_MINUTE = re.compile(r"([0-9]+)/min")


@dataclass(slots=True)
class _Usage:
    admitted: deque[float] = field(default_factory=deque)  # times of the last minute, in order
    today: int = 0
    day_began: float = -math.inf


class Quota:
    """Admits calls while there is quota for their model.

    Args:
        quota: Calls in any minute, such as ``"60/min"``; None for any number.
        daily: Calls in a day; None for any number.
        retry_info: Whether a refusal says how long to wait.
        speed: Seconds of the service that pass in one second of real time.

    Raises:
        ValueError: If an argument is malformed or out of range.
    """

    def __init__(
        self, quota: str | None, daily: int | None, *, retry_info: bool, speed: float
    ) -> None:
        match = None if quota is None else _PER_MINUTE.fullmatch(quota)
        if quota is not None and match is None:
            raise ValueError(f"quota must be like '60/min', got {quota!r}")
        if daily is not None and daily < 0:
            raise ValueError(f"daily must be >= 0, got {daily}")
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be > 0, got {speed}")
        self._per_minute = int(match[1]) if match else None
        self._per_day = daily
        self._retry_info = retry_info
        self._speed = speed
        self._usage: defaultdict[str, _Usage] = defaultdict(_Usage)

    def renew(self) -> None:
        """Forget every call."""
        self._usage.clear()

    def refusal(self, model: str) -> Reply | None:
        """Admit a call of model now, or return the 429 that refuses it."""
        now = anyio.current_time() * self._speed
        usage = self._usage[model]
        if now - usage.day_began >= _DAY:
            usage.day_began, usage.today = now, 0
        while usage.admitted and now - usage.admitted[0] >= _MINUTE:
            usage.admitted.popleft()
        if self._per_day is not None and usage.today >= self._per_day:
            return self._refuse("PerDay", self._per_day, _DAILY_DELAY, model)
        if self._per_minute is not None:
            if len(usage.admitted) >= self._per_minute:
                free = usage.admitted[0] + _MINUTE - now if usage.admitted else _MINUTE
                return self._refuse("PerMinute", self._per_minute, free, model)
            usage.admitted.append(now)
        usage.today += 1
        return None

    def _refuse(self, period: str, limit: int, wait: float, model: str) -> Reply:
        told = wait / self._speed if self._retry_info else None
        return json_reply(quota_error(period, limit=limit, wait=told, model=model), 429)


@dataclass(slots=True)
class Service:
    """Answers calls, and counts the images it billed and the calls beyond the quota."""

    latency: float | Callable[[Call], float]
    image_size: int
    faults: Callable[[Call], Fault | None]
    quota: Quota
    speed: float
    api_keys: Container[str] | None
    tokens: Container[str] | None
    models: Collection[str] | None
    images: int = 0
    limited: int = 0
    threads: Threads = field(default_factory=Threads)

    def begin(self) -> None:
        """Start afresh, counters apart: quotas and threads belong to one event loop."""
        self.quota.renew()
        self.threads.begin()

    # Access and models

    def denial(self, request: Request | Call) -> Reply | None:
        """Return the service's reply to a caller without access, None to one with it."""
        if _is_vertex(request.path):
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind != "Bearer" or not token:
                return json_reply(token_error("CREDENTIALS_MISSING", _ANONYMOUS), 401)
            is_valid = self.tokens is None or token in self.tokens
            return None if is_valid else json_reply(token_error(), 401)
        key = request.headers.get("x-goog-api-key")
        if not key:
            return json_reply(error_body(403, _NO_KEY), 403)
        is_valid = self.api_keys is None or key in self.api_keys
        return None if is_valid else json_reply(key_error(key), 400)

    def lacks(self, model: str) -> Reply | None:
        """Return the error for a model that cannot be called, None for one that can."""
        if self.models is None:
            is_missing = _RETIRED.fullmatch(model) is not None
        else:
            is_missing = model not in self.models
        return json_reply(model_error(model), 404) if is_missing else None

    def page(self, request: Request) -> Reply:
        """Return the reply to a request that is not a call: the models, one model, or an error."""
        path = request.path
        match = _MODEL_PATH.fullmatch(path)
        if request.method != "GET" or match is None:
            return error_reply(404, f"{request.method} {request.target} is not served here.")
        if denied := self.denial(request):
            return denied
        is_vertex = _is_vertex(path)
        describe = _described_by_vertex if is_vertex else _described
        models = list(_MODELS if self.models is None else self.models)
        if (model := match[1]) is None:
            name = "publisherModels" if is_vertex else "models"
            return list_reply(name, models, describe, request, _PAGES)
        if model not in models:
            return json_reply(model_error(model), 404)
        return json_reply(describe(model))

    # Calls

    async def answer(self, call: Call) -> tuple[Reply, Fault]:
        """Return the reply to a call, and what is to go wrong while it is sent."""
        if (refused := self._refusal(call)) is not None:
            return refused, NO_FAULT
        fault = self.faults(call) or NO_FAULT
        latency = self.latency(call) if callable(self.latency) else self.latency
        await pause(latency / self.speed + fault.delay)
        instead = reply_in_place(fault)
        if instead is not None and not fault.late:
            return instead, fault
        reply, images = await self.threads.run(self._make_reply, call, fault)
        self.images += images
        return instead or reply, fault

    def _refusal(self, call: Call) -> Reply | None:
        if wrong := self.denial(call) or refusal(call) or self.lacks(call.model):
            return wrong
        limited = self.quota.refusal(call.model)
        self.limited += limited is not None
        return limited

    def _make_reply(self, call: Call, fault: Fault) -> tuple[Reply, int]:
        answer, images = self.make(call, fault)
        return json_reply(answer, fault.status or 200), images

    def make(self, call: Call, fault: Fault) -> tuple[object, int]:
        """Return the answer with an image, and how many images are billed; call it in a thread."""
        width, height = dimensions(call, self.image_size)
        seed = seed_of(call)
        png = draw(call.prompt, model=call.model, seed=seed, width=width, height=height)
        answer = image_answer(call, png)
        sent = fault.edit(answer) if fault.edit else answer
        return sent, max(1, images_in(sent))


def _is_vertex(path: str) -> bool:
    return path.startswith("/v1beta1/")


def _described_by_vertex(model: str) -> JsonObject:
    return {"name": f"publishers/google/models/{model}", "launchStage": "GA"}


def _described(model: str) -> JsonObject:
    methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return {
        "name": f"models/{model}",
        "version": "001",
        "displayName": model.replace("-", " ").title(),
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": ["embedContent"] if "embedding" in model else methods,
    }
