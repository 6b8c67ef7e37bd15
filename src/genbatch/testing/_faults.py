"""What a FakeGemini does to a call instead of answering it well.

A Fault describes it in terms of HTTP. The functions below make the ones that have a name and
concern the connection or an error; those that concern the content of an answer are in _answers.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ._access import key_error, token_error
from ._catalogue import not_found
from ._quota import quota_error
from ._wire import JsonObject, Reply, error_body, error_reply

C = TypeVar("C")
F = TypeVar("F")

_HTML = {"content-type": "text/html; charset=UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How one call goes wrong, or one request about files and batches.

    A call is billed if its image is made: always, unless the fault answers something else
    (status, body) or resets the connection at once. The same decides whether a file is taken or
    a batch created. Of a row of a batch only status, body, edit and late are looked at.

    Attributes:
        status: Answer this HTTP status; 300 and above with an error body of the service's shape.
        delay: Seconds to wait before answering, added to the server's latency.
        headers: Added to the response, or in place of its own.
        body: Answer this in place of the image; a mapping is sent as JSON. Status 200 by default.
        late: Carry out what was asked first, so that it is billed, and only then go wrong.
        edit: Called with the JSON of the answer, which it may change; what it returns is sent.
            For a call it runs in a thread, once the image is made.
        truncate: Announce the whole body, send this many bytes of it, then close the connection.
        reset: Close with a TCP reset and no answer; with truncate, after that part of the body.
        drip: (bytes, seconds): send the body in pieces of so many bytes, so many seconds apart.
        drip_head: Whether drip holds for the status line and the headers too.

    Raises:
        ValueError: If a value is out of its range.
    """

    status: int | None = None
    delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, object] | None = None
    late: bool = False
    edit: Callable[[JsonObject], object] | None = None
    truncate: int | None = None
    reset: bool = False
    drip: tuple[int, float] | None = None
    drip_head: bool = False

    def __post_init__(self) -> None:
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status must be in 200..599, got {self.status}")
        if not self.delay >= 0:
            raise ValueError(f"delay must be >= 0, got {self.delay}")
        if self.truncate is not None and self.truncate < 0:
            raise ValueError(f"truncate must be >= 0, got {self.truncate}")
        if self.drip is not None and not (self.drip[0] >= 1 and self.drip[1] >= 0):
            raise ValueError(f"drip must be (bytes >= 1, seconds >= 0), got {self.drip}")
        if self.drip_head and self.drip is None:
            raise ValueError("drip_head needs drip, which says how fast")


def cuts_before_answer(fault: Fault) -> bool:
    """Return whether the connection is reset without a byte of an answer."""
    return fault.reset and fault.truncate is None


def scripted(faults: Iterable[F | None] | Callable[[C], F | None]) -> Callable[[C], F | None]:
    """Return the function that tells what goes wrong, one after the other if faults are a list."""
    if callable(faults):
        return faults
    remaining = iter(faults)
    return lambda _: next(remaining, None)


def reply_in_place(fault: Fault) -> Reply | None:
    """Return what is answered in place of what was asked, None if nothing is."""
    if cuts_before_answer(fault):
        return Reply(500, b"")  # which no client sees
    status = fault.status or 200
    if fault.body is None:
        return error_reply(status) if status >= 300 else None
    if isinstance(fault.body, Mapping):
        return Reply(status, json.dumps(fault.body).encode())
    return Reply(status, fault.body.encode() if isinstance(fault.body, str) else fault.body)


# Refused by the service


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
        body=quota_error(period, limit=250 if per_day else 10, wait=wait),
    )


def no_quota() -> Fault:
    """Return the 429 of a project without paid access: its limit is 0."""
    return Fault(status=429, body=quota_error("PerDay", limit=0, wait=None))


def bad_key(key: str = "a-wrong-key") -> Fault:
    """Return the 400 that refuses an API key, and repeats it."""
    return Fault(status=400, body=key_error(key))


def bad_token() -> Fault:
    """Return the 401 that refuses an OAuth token of Vertex, as when it has expired."""
    return Fault(status=401, body=token_error())


def retired_model(model: str = "gemini-2.5-flash-image") -> Fault:
    """Return the 404 for a model that was shut down."""
    return Fault(status=404, body=error_body(404, not_found(model)))


# Something between here and the service


def redirect(location: str, status: int = 307) -> Fault:
    """Return a redirect to location."""
    return Fault(status=status, headers={"location": location})


def html_page(status: int = 200) -> Fault:
    """Return the HTML page of a front end."""
    page = f"<!DOCTYPE html><html><title>Error {status}</title><p>That's an error.</p></html>"
    return Fault(status=status, body=page, headers=_HTML)


# The connection


def reset(after: int | None = None) -> Fault:
    """Return a TCP reset: in place of an answer, or after so many bytes of its body."""
    return Fault(reset=True, truncate=after)


def short_body(after: int = 100) -> Fault:
    """Return an answer whose connection closes after so many bytes of its body."""
    return Fault(truncate=after)


def stalled(after: int = 100) -> Fault:
    """Return an answer that stops for ever after so many bytes of its body, without closing."""
    return Fault(drip=(after, math.inf))


def slow_headers(after: int = 20, seconds: float = math.inf) -> Fault:
    """Return an answer whose headers come so many bytes at a time, so many seconds apart.

    Like the rest of it, which is an image made and billed; by default nothing follows the first
    bytes, ever.
    """
    return Fault(drip=(after, seconds), drip_head=True)


def dripping(size: int = 8, seconds: float = 0.3) -> Fault:
    """Return an answer whose body comes in pieces of size bytes, so many seconds apart."""
    return Fault(drip=(size, seconds))


@contextmanager
def closed_port() -> Iterator[str]:
    """Yield the URL of a port that refuses connections while the block runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and not listened on, so nobody else can take it either
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
