"""What a FakeGemini answers: access, models, quota, faults and images, apart from connections."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import anyio
import anyio.to_thread

from ._access import denial
from ._catalogue import MODELS, catalogue, is_catalogue, lacks, not_found
from ._draw import draw
from ._faults import Fault, reply_in_place
from ._http import pause
from ._quota import Quota
from ._wire import (
    Call,
    Reply,
    dimensions,
    error_reply,
    image_answer,
    images_in,
    json_reply,
    refusal,
    seed_of,
)

_DRAWING_THREADS = 4
_NO_FAULT = Fault()


@dataclass(slots=True)
class Service:
    """Answers calls, and counts what it billed and what was beyond the quota."""

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
    threads: anyio.CapacityLimiter = field(init=False)

    def begin(self) -> None:
        """Start afresh, counters apart: quotas and threads belong to one event loop."""
        self.quota.renew()
        self.threads = anyio.CapacityLimiter(_DRAWING_THREADS)

    def page(self, method: str, target: str, headers: Mapping[str, str]) -> Reply:
        """Return the answer to a request that is no call."""
        path, query = split(target)
        if method != "GET" or not is_catalogue(path):
            return error_reply(404, f"{method} {target} is not served here.")
        models = MODELS if self.models is None else self.models
        return denial(path, headers, self.api_keys, self.tokens) or catalogue(path, query, models)

    async def answer(self, call: Call) -> tuple[Reply, Fault]:
        """Return the answer to a call, and what is to go wrong while it is sent."""
        if (reply := self._refusal(call)) is not None:
            return reply, _NO_FAULT
        fault = self.faults(call) or _NO_FAULT
        latency = self.latency(call) if callable(self.latency) else self.latency
        await pause(latency / self.speed + fault.delay)
        instead = reply_in_place(fault)
        if instead is not None and not fault.late:
            return instead, fault
        made = await anyio.to_thread.run_sync(self._make, call, fault, limiter=self.threads)
        self.images += made[1]
        return instead or made[0], fault

    def _refusal(self, call: Call) -> Reply | None:
        if denied := denial(call.path, call.headers, self.api_keys, self.tokens):
            return denied
        if wrong := refusal(call):
            return wrong
        if lacks(call.model, self.models):
            return error_reply(404, not_found(call.model))
        limited = self.quota.refusal(call.model)
        self.limited += limited is not None
        return limited

    def _make(self, call: Call, fault: Fault) -> tuple[Reply, int]:
        answer, images = self.make(call, fault)
        return json_reply(answer, fault.status or 200), images

    def make(self, call: Call, fault: Fault) -> tuple[object, int]:
        """Return the answer that brings an image, and how many are billed; for threads."""
        width, height = dimensions(call, self.image_size)
        seed = seed_of(call)
        png = draw(call.prompt, model=call.model, seed=seed, width=width, height=height)
        answer = image_answer(call, png)
        sent = fault.edit(answer) if fault.edit else answer
        return sent, max(1, images_in(sent))


def split(target: str) -> tuple[str, str]:
    """Return path and query of what a request line asks for."""
    path, _, query = target.partition("?")
    return unquote(path), query
