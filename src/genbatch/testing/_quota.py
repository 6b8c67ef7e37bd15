"""Quotas of a FakeGemini, and what the service says of one that is used up.

Each model has its own. A minute's quota counts the calls admitted in the last 60 s, whenever those
began; a day's counts from the first call and is whole again 24 h after that. A refused call uses
up nothing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field

import anyio

from ._wire import TYPES, JsonObject, Reply, error_body, json_reply

_METRIC = "generativelanguage.googleapis.com/generate_requests_per_model"
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
        retry_info: Whether a refusal tells how long to wait.
        speed: Seconds of the service that pass in one second here.

    Raises:
        ValueError: If one is malformed or out of range.
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


def quota_error(
    period: str, *, limit: int, wait: float | None, model: str | None = None
) -> JsonObject:
    """Return the error of a used up quota.

    Args:
        period: ``"PerMinute"`` or ``"PerDay"``.
        limit: Calls in it.
        wait: Seconds to ask for, rounded up to milliseconds; None to ask for none.
        model: Id of the model to name, if any.
    """
    message = (
        "You exceeded your current quota, please check your plan and billing details.\n"
        f"* Quota exceeded for metric: {_METRIC}, limit: {limit}"
    )
    violation: JsonObject = {
        "quotaMetric": _METRIC,
        "quotaId": f"GenerateRequests{period}PerProjectPerModel",
        "quotaValue": str(limit),
    }
    if model is not None:
        violation["quotaDimensions"] = {"location": "global", "model": model}
    details: list[object] = [{"@type": f"{TYPES}QuotaFailure", "violations": [violation]}]
    if wait is not None:
        # Rounded first to microseconds: 53.000000000000007 s are 53 s.
        seconds = f"{math.ceil(round(wait * 1e3, 3)) / 1e3:.3f}".rstrip("0").rstrip(".")
        message += f"\nPlease retry in {seconds}s."
        details.append({"@type": f"{TYPES}RetryInfo", "retryDelay": f"{seconds}s"})
    return error_body(429, message, details)
