"""What every fake service is made of, whatever it speaks: faults, quotas, a ledger, threads.

Each model has its own quota. A minute's quota counts the calls admitted in the last 60 s, whenever
those began; a day's counts from the first call and is whole again 24 h after that. A refused call
uses up nothing.
"""

from __future__ import annotations

import json
import math
import re
import sys
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from ._http import NO_FAULT, ErrorReply, Fault, Reply, ServerConnection, check, cuts_before_answer

if TYPE_CHECKING:
    from ._wire import Call

C = TypeVar("C")
F = TypeVar("F")
T = TypeVar("T")

_THREADS = 4
_KEPT_CALLS = 10_000
_MINUTE, _DAY = 60.0, 86_400.0  # seconds
_DAILY_DELAY = 47.0  # seconds; seen beside a day's quota that was used up
_PER_MINUTE = re.compile(r"([0-9]+)/min")


class Threads:
    """A few threads of one server, for drawing or for files: never anyio's, which others share.

    They belong to one event loop from begin() on.
    """

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter

    def begin(self) -> None:
        """Start in this event loop."""
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def run(self, function: Callable[..., T], *args: object, extra: bool = False) -> T:
        """Return what function returns in a thread: an extra one if it may wait for other calls."""
        limiter = anyio.CapacityLimiter(1) if extra else self._limiter
        return await anyio.to_thread.run_sync(function, *args, limiter=limiter)


# A thread of its own


def _enter_in_thread(name: str, running: AbstractAsyncContextManager[object]) -> ExitStack:
    """Enter a server's block in a thread with an event loop of its own; the stack leaves both."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal(name=name))
        stack.enter_context(portal.wrap_async_context_manager(running))
        return stack.pop_all()


@asynccontextmanager
async def _entered_in_thread(server: AbstractContextManager[object]) -> AsyncIterator[None]:
    """Enter and leave a server that runs in a thread, if need be in different tasks."""
    await anyio.to_thread.run_sync(server.__enter__)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.__exit__, None, None, None)


class FakeServer(ABC):
    """What the fakes of all services share: their address, their block and the calls they had.

    Args:
        host: Loopback address to listen on.
        port: Port to listen on, 0 for a free one.
        thread: Whether ``async with`` uses a thread of its own too.
    """

    _base_path = ""

    def __init__(self, host: str, port: int, *, thread: bool) -> None:
        self._address = host, port
        self._has_thread = thread
        self._threads = Threads()
        self._url: str | None = None
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._counts = CallCounts()

    @property
    def url(self) -> str:
        """Base URL, such as ``http://127.0.0.1:8080``."""
        if self._url is None:
            name = type(self).__name__
            raise RuntimeError(f"{name} is not running: enter it with `with` or `async with`")
        return f"{self._url}{self._base_path}"

    @property
    def calls(self) -> tuple[Call, ...]:
        """The last 10,000 calls, oldest first; a body beyond 16 kB is not kept: empty here."""
        return tuple(self._calls)

    def __enter__(self) -> Self:
        self._thread = _enter_in_thread(type(self).__name__, self._running())
        return self

    def __exit__(self, *details: object) -> None:
        # Without the details: a KeyboardInterrupt would break the server's event loop.
        self._thread.close()

    async def __aenter__(self) -> Self:
        block = _entered_in_thread(self) if self._has_thread else self._running()
        await block.__aenter__()
        self._block = block
        return self

    async def __aexit__(self, *details: Any) -> bool | None:
        return await self._block.__aexit__(*details)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        if self._url is not None:
            raise RuntimeError(f"{type(self).__name__} is running already")
        self._threads.begin()
        try:
            async with self._listening() as self._url:
                yield
        finally:
            self._url = None

    @abstractmethod
    def _listening(self) -> AbstractAsyncContextManager[str]:
        """Listen inside the block, at the URL that it yields."""


# Options


def scripted(faults: Iterable[F | None] | Callable[[C], F | None], default: F) -> Callable[[C], F]:
    """Return faults as a function; an iterable of them is used up one by one."""
    if callable(faults):
        return lambda each: faults(each) or default
    remaining = iter(faults)
    return lambda _: next(remaining, None) or default


def timed(name: str, latency: float | Callable[[C], float], speed: float) -> Callable[[C], float]:
    """Return latency as a function of real seconds.

    Raises:
        ValueError: If it is below 0; name is the option's.
    """
    if callable(latency):
        return lambda each: latency(each) / speed
    check(latency >= 0, f"{name} must be >= 0, got {latency}")
    return lambda _: latency / speed


# Replies


class Refused(Exception):
    """A request that is answered with an error, before anything was done for it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


async def unless_refused(answer: Awaitable[tuple[Reply, Fault]]) -> tuple[Reply, Fault]:
    """Return an answer and what is to go wrong while it is sent, or the refusal of a request."""
    try:
        return await answer
    except Refused as refused:
        return refused.reply, NO_FAULT


def json_reply(content: object, status: int = 200) -> Reply:
    """Return content as a JSON reply."""
    return Reply(status, json.dumps(content).encode())


def reply_in_place(fault: Fault, error_reply: ErrorReply) -> Reply | None:
    """Return the reply that a fault gives in place of the answer, None if it gives none."""
    if cuts_before_answer(fault):
        return Reply(500, b"")  # which no client sees
    status = fault.status or 200
    if fault.body is None:
        return error_reply(status, "") if status >= 300 else None
    if isinstance(fault.body, Mapping):
        return json_reply(fault.body, status)
    return Reply(status, fault.body.encode() if isinstance(fault.body, str) else fault.body)


# What is counted


@dataclass(slots=True)
class CallCounts:
    """What a server has counted of calls.

    Attributes:
        received: Calls received, right or wrong.
        images: Images made for them, that is, paid for.
        limited: Calls refused because a quota was used up.
        peak: Most calls ever in flight at once.
    """

    received: int = 0
    images: int = 0
    limited: int = 0
    peak: int = 0
    _in_flight: set[ServerConnection] = field(default_factory=set)

    @property
    def in_flight(self) -> int:
        """Calls being answered now."""
        return len(self._in_flight)

    @contextmanager
    def counted(self, connection: ServerConnection) -> Iterator[Callable[[], None]]:
        """Count the connection's call as in flight until the block ends or release is called."""
        self._in_flight.add(connection)
        if len(self._in_flight) > self.peak:
            # A client may hang up and call again on another connection before this server has
            # looked at the first: that is no new peak.
            gone = [each for each in self._in_flight if each.has_hung_up()]
            self._in_flight.difference_update(gone)
        self.peak = max(self.peak, len(self._in_flight))
        release = partial(self._in_flight.discard, connection)
        try:
            yield release
        finally:
            release()


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A quota that is used up: of how many calls in what, and seconds to wait, None if untold."""

    period: Literal["Minute", "Day"]
    limit: int
    wait: float | None


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
        check(quota is None or match is not None, f"quota must be like '60/min', got {quota!r}")
        check(daily is None or daily >= 0, f"daily must be >= 0, got {daily}")
        check(0 < speed < math.inf, f"speed must be > 0, got {speed}")
        self._per_minute = int(match[1]) if match else sys.maxsize
        self._per_day = sys.maxsize if daily is None else daily
        self._retry_info = retry_info
        self._speed = speed
        self._usage: defaultdict[str, _Usage] = defaultdict(_Usage)

    def renew(self) -> None:
        """Forget every call."""
        self._usage.clear()

    def admit(self, model: str) -> Exceeded | None:
        """Admit a call of model now, or return the quota that it is beyond."""
        now = anyio.current_time() * self._speed
        usage = self._usage[model]
        if now - usage.day_began >= _DAY:
            usage.day_began, usage.today = now, 0
        while usage.admitted and now - usage.admitted[0] >= _MINUTE:
            usage.admitted.popleft()
        if usage.today >= self._per_day:
            return self._exceeded("Day", self._per_day, _DAILY_DELAY)
        if len(usage.admitted) >= self._per_minute:
            free = usage.admitted[0] + _MINUTE - now if usage.admitted else _MINUTE
            return self._exceeded("Minute", self._per_minute, free)
        usage.admitted.append(now)
        usage.today += 1
        return None

    def _exceeded(self, period: Literal["Minute", "Day"], limit: int, wait: float) -> Exceeded:
        return Exceeded(period, limit, wait / self._speed if self._retry_info else None)
