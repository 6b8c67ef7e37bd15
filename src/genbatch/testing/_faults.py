"""What a FakeGemini does to a call instead of answering it well.

A Fault describes it in terms of HTTP; the functions below make the ones that have a name. An
answer of another shape is one more function here.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ._wire import Reply, candidate, error_body, error_reply

_HTML = {"content-type": "text/html; charset=UTF-8"}
_TYPES = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/generate_requests_per_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How one call goes wrong.

    A call is billed if its image is made: always, unless the fault answers something else
    (status, body) or resets the connection at once.

    Attributes:
        status: Answer this HTTP status; 300 and above with an error body of the service's shape.
        delay: Seconds to wait before answering, added to the server's latency.
        headers: Added to the response, or in place of its own.
        body: Answer this in place of the image; a mapping is sent as JSON. Status 200 by default.
        truncate: Announce the whole body, send this many bytes of it, then close the connection.
        reset: Close with a TCP reset and no answer; with truncate, after that part of the body.
        drip: (bytes, seconds): send the body in pieces of so many bytes, so many seconds apart.

    Raises:
        ValueError: If a value is out of its range.
    """

    status: int | None = None
    delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, object] | None = None
    truncate: int | None = None
    reset: bool = False
    drip: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status must be in 200..599, got {self.status}")
        if not self.delay >= 0:
            raise ValueError(f"delay must be >= 0, got {self.delay}")
        if self.truncate is not None and self.truncate < 0:
            raise ValueError(f"truncate must be >= 0, got {self.truncate}")
        if self.drip is not None and not (self.drip[0] >= 1 and self.drip[1] >= 0):
            raise ValueError(f"drip must be (bytes >= 1, seconds >= 0), got {self.drip}")


def cuts_before_answer(fault: Fault) -> bool:
    """Return whether the connection is reset without a byte of an answer."""
    return fault.reset and fault.truncate is None


def reply_in_place(fault: Fault) -> Reply | None:
    """Return what is answered in place of an image, None if an image is."""
    status = fault.status or 200
    if fault.body is None:
        return error_reply(status) if status >= 300 else None
    if isinstance(fault.body, Mapping):
        return Reply(status, json.dumps(fault.body).encode())
    return Reply(status, fault.body.encode() if isinstance(fault.body, str) else fault.body)


def rate_limited(
    retry_after: float | None = None, *, per_day: bool = False, in_header: bool = False
) -> Fault:
    """Return a 429: too many calls in a minute, or in a day.

    Args:
        retry_after: Seconds the service asks to wait; the real one does so even with per_day.
        per_day: Whether the daily quota is used up.
        in_header: Send retry_after as a Retry-After header, in whole seconds, not in the body.
    """
    period = "PerDay" if per_day else "PerMinute"
    wait = None if in_header else retry_after
    seconds = "" if retry_after is None else str(math.ceil(retry_after))
    return Fault(
        status=429,
        headers={"retry-after": seconds} if in_header and seconds else {},
        body=_quota_error(period, limit=250 if per_day else 10, wait=wait),
    )


def no_quota() -> Fault:
    """Return the 429 of a project without paid access: its limit is 0."""
    return Fault(status=429, body=_quota_error("PerDay", limit=0, wait=None))


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


def not_an_image(content: bytes = b"not an image") -> Fault:
    """Return an answer whose image part holds content, labelled a PNG."""
    return _inline(base64.b64encode(content).decode())


def bad_base64() -> Fault:
    """Return an answer whose image part is no base64."""
    return _inline("iVBORw0KGgo*not*base64*")


def broken_json() -> Fault:
    """Return a complete answer of HTTP whose JSON stops in the middle."""
    return Fault(body='{"candidates": [{"content": {"role": "model", "parts": [{"inlineDa')


def html_page(status: int = 200) -> Fault:
    """Return the HTML page of a front end."""
    page = f"<!DOCTYPE html><html><title>Error {status}</title><p>That's an error.</p></html>"
    return Fault(status=status, body=page, headers=_HTML)


def redirect(location: str, status: int = 307) -> Fault:
    """Return a redirect to location."""
    return Fault(status=status, headers={"location": location})


def stalled(after: int = 100) -> Fault:
    """Return an answer that stops for ever after so many bytes of its body, without closing."""
    return Fault(drip=(after, math.inf))


def _inline(encoded: str) -> Fault:
    part = {"inlineData": {"mimeType": "image/png", "data": encoded}}
    return Fault(body={"candidates": [candidate([part])]})


def _quota_error(period: str, *, limit: int, wait: float | None) -> Mapping[str, object]:
    message = (
        "You exceeded your current quota, please check your plan and billing details.\n"
        f"* Quota exceeded for metric: {_METRIC}, limit: {limit}"
    )
    violation = {
        "quotaMetric": _METRIC,
        "quotaId": f"GenerateRequests{period}PerProjectPerModel",
        "quotaValue": str(limit),
    }
    details: list[object] = [{"@type": f"{_TYPES}QuotaFailure", "violations": [violation]}]
    if wait is not None:
        message += f"\nPlease retry in {wait:g}s."
        details.append({"@type": f"{_TYPES}RetryInfo", "retryDelay": f"{wait:g}s"})
    return error_body(429, message, details)
