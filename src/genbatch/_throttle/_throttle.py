"""Throttle: calls at the speed that a service allows, whatever it is.

1. At most capacity calls are in flight, at most rate start per second, and none starts in a pause.
2. A call that was rejected is made again, from the front of the line; first come, first served.
3. Who waits is woken, or waits no more: a cancelled one leaves no token, no place, no lost wake-up.
4. A rejection does not reach the caller as long as anything succeeds within patience. Where that is
   at its end, or the service asks for a longer pause, all who wait get it too.
5. After a call returned, nothing is awaited before its value is.

How: a line of those who wait, in the order of their arrival. Only the first one may start, and it
does so in its own task: it sleeps until the time that Limits, where all learning is, says, or until
a token is free. Whoever gives back a token, or leaves the line, wakes the first one. There is no
task, timer or thread besides.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from itertools import count
from logging import INFO, getLogger
from typing import Any

from anyio import CancelScope, CapacityLimiter, Event, current_time
from anyio.lowlevel import checkpoint_if_cancelled

from genbatch._core import LoopGuard, P, T, current_loop, waiting
from genbatch._logs import log, log_context
from genbatch._values import RateLimited, Unavailable, check_type
from genbatch._watch import current_watch
from genbatch.events import CallAdmitted, CallsPaused, RateLimitHit

from ._limits import LONGEST_PAUSE, Limits, Pace, Start, describe_rate, parse_interval

_log = getLogger("genbatch.throttle")


class Throttle:
    """Makes calls at the speed that a service allows, learned from its rejections.

    For one service, key and model, shared by all that call it: tasks, batches, clients. It may be
    made anywhere, also outside an event loop, and used again in a later one, but only in one at a
    time.

    Args:
        capacity: Calls in flight, at least 1; None finds out.
        pace: Starts at most, such as ``"10/min"``, ``"2/s"`` or ``"100/h"``, evenly spaced; fewer
            where the service allows fewer.
        burst: Starts at once after a silence, at least 1; with a pace.
        patience: Seconds without a success after which a rejection is the caller's error, and that
            of all who wait; so is one that asks for a pause as long. 0 for each one to be that of
            its caller alone: the others wait, unless for more than a minute.

    Raises:
        ValueError: If pace is not of that form, or a number is too small.
        TypeError: If an argument is of another type.
    """

    def __init__(
        self,
        *,
        capacity: int | None = None,
        pace: str | None = None,
        burst: int = 1,
        patience: float = 1800.0,
    ) -> None:
        for name, value in (("capacity", 1 if capacity is None else capacity), ("burst", burst)):
            check_type(name, value, int)
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if burst > 1 and pace is None:
            raise ValueError("burst needs a pace: give pace=, such as '10/min'")
        check_type("patience", patience, float)
        if not patience >= 0:
            raise ValueError(f"patience must be >= 0 seconds, got {patience}")
        clock = None if pace is None else Pace(parse_interval(pace), burst)
        self._limits = Limits(capacity, clock)
        self._limiter = CapacityLimiter(self._limits.capacity)
        self._patience = patience
        self._pace, self._burst = pace, burst
        self._is_paused = False
        self._line: list[int] = []  # places of those who wait, by their arrival
        self._turns: dict[int, Event] = {}
        self._arrivals = count()
        self._rejected_since: float | None = None
        self._rejection: RateLimited | None = None  # the last one, until a call succeeds
        self._refused = -1  # places up to this one wait no more
        self._paused_since: float | None = None
        self._guard = LoopGuard(self)
        self._loop: object = None
        self._offset = 0.0  # of our clock from the loop's, which each loop has its own of
        self._last_seen = 0.0

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call when there is room for it, again where it is rejected, and return its value.

        Args:
            call: Called without arguments for each attempt.

        Raises:
            RateLimited: If there was no success within patience, or the service asks to wait for
                longer; the message tells.
            Stopped: If the batch that this call is of drains while the call waits.
            RuntimeError: If it is in use in another event loop.
            Exception: Any other error of the call, at once.

        Cancellation: a waiting call leaves the line at once. Once the call has returned, nothing is
        awaited before its value is returned.
        """
        place = next(self._arrivals)  # kept until the call has its answer
        with self._guard:
            return await self._run(call, place)

    async def _run(self, call: Callable[[], Awaitable[T]], place: int) -> T:
        while True:
            start = await self._admit(place)
            try:
                value = await call()
            except RateLimited as exc:
                if self._reject(start, exc):
                    raise
            except (Unavailable, TimeoutError):
                self._limits.disturb(self._now())
                raise
            else:
                self._succeed(start)
                return value
            finally:
                self._limits.end(start)
                self._limiter.release_on_behalf_of(start)
                self._limiter.total_tokens = self._limits.capacity
                self._wake()

    @property
    def capacity(self) -> int:
        """Most calls in flight, as far as is known."""
        return self._limits.capacity

    @property
    def rate(self) -> float | None:
        """Most starts per second, given or learned; None as long as none is known."""
        return self._limits.rate

    @property
    def pace(self) -> str | None:
        """Starts at most, as given; it may be set while calls are made."""
        return self._pace

    @pace.setter
    def pace(self, pace: str | None) -> None:
        clock = None if pace is None else Pace(parse_interval(pace), self._burst)
        self._limits.set_pace(clock)
        self._pace = pace
        self._wake()

    @property
    def is_paused(self) -> bool:
        """Whether no call starts until this is set to False; those in flight go on."""
        return self._is_paused

    @is_paused.setter
    def is_paused(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        self._wake()

    @property
    def paused_for(self) -> float:
        """Seconds until calls may start again, 0.0 outside a pause."""
        return max(0.0, self._limits.paused_until - self._now())

    @property
    def paused_until(self) -> float | None:
        """Time of the event loop's clock at which calls may start again, None outside a pause."""
        return self._limits.paused_until - self._offset if self.paused_for else None

    @property
    def reason(self) -> str:
        """The service's words for the pause, empty outside one."""
        return str(self._rejection) if self._rejection and self.paused_for else ""

    @property
    def episodes(self) -> int:
        """How often the service began to reject."""
        return self._limits.episodes

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._line)

    @property
    def in_flight(self) -> int:
        """Calls going on."""
        return self._limiter.borrowed_tokens

    def __str__(self) -> str:
        paused = f"rate limited: {math.ceil(self.paused_for)} s, " if self.paused_for else ""
        return paused + self._allowed()

    def _now(self) -> float:
        """Return the time of a clock that stands still from one event loop to the next."""
        loop = current_loop()
        if loop is None or (loop is not self._loop and self._guard.is_held_elsewhere):
            return self._last_seen  # there only its state may be asked for
        if loop is not self._loop:
            self._offset = self._last_seen - current_time() if self._loop else 0.0
            self._loop = loop
        self._last_seen = current_time() + self._offset
        return self._last_seen

    async def _admit(self, place: int) -> Start:
        """Wait for the turn of a place, and take a token."""
        if not self._line and self._due() <= current_time():
            return self._start()
        insort(self._line, place)
        try:
            with waiting():
                await self._wait(place)
            return self._start()
        finally:
            self._line.remove(place)
            self._turns.pop(place, None)
            self._wake()

    async def _wait(self, place: int) -> None:
        """Return in the very moment in which this place may start."""
        while True:
            self._check_patience(place)
            due = self._due() if self._line[0] == place else math.inf
            if due <= current_time():
                return
            turn = self._turns[place] = Event()
            with CancelScope(deadline=due):
                await turn.wait()
            await checkpoint_if_cancelled()  # it may have been cancelled while it was woken

    def _due(self) -> float:
        """Return when the next call may start, on the loop's clock: converting a time rounds it."""
        self._now()
        in_flight = self.in_flight
        if self._is_paused or not self._limits.has_room(in_flight):
            return math.inf
        return self._limits.due(in_flight) - self._offset

    def _start(self) -> Start:
        now = self._now()
        if self._paused_since is not None:
            took, self._paused_since = now - self._paused_since, None
            self._log_allowed("calls start again after %.1f s, %s", took, elapsed=took)
        start = self._limits.start(now, self.in_flight)
        self._limiter.acquire_on_behalf_of_nowait(start)
        if (watch := current_watch()) is not None:
            in_flight, waiting = self.in_flight, self.waiting
            state = CallAdmitted(watch.call, self.capacity, self.rate, in_flight, waiting)
            watch.tell(state)
        return start

    def _succeed(self, start: Start) -> None:
        self._rejected_since = self._rejection = None
        before = self._allowed() if _log.isEnabledFor(INFO) else ""
        self._limits.succeed(start, self.in_flight, self._now())
        if before and before != self._allowed():
            self._log_allowed("more calls than before: %s")

    def _reject(self, start: Start, error: RateLimited) -> bool:
        """Learn from a rejection; return whether patience is at its end."""
        now = self._now()
        left = max(0.0, self._limits.paused_until - now)
        self._limits.reject(start, self.in_flight, now, error.retry_after)
        delay = self._limits.paused_until - now
        watch = current_watch()
        if watch is not None:
            watch.tell(RateLimitHit(watch.call, error, self.capacity, self.rate))
        if delay > 2 * left:  # once for a pause, not for each call that asks for the same
            self._paused_since = now if self._paused_since is None else self._paused_since
            message = "rate limited: no call starts for %.1f s"
            self._log_event(message, delay, delay=delay, error=error)
            if watch is not None:
                watch.tell(CallsPaused(watch.call, delay, error))
        if self._rejected_since is None:
            self._rejected_since = now
        self._rejection = error
        if max(_asked(error), now - self._rejected_since) < self._patience:
            return False
        if self._patience:
            error.scope = "model"
            _explain(error, self._patience)
            self._refused = max(self._line, default=-1)
        for turn in self._turns.values():
            turn.set()
        return True

    def _check_patience(self, place: int) -> None:
        """Raise the last rejection again where a place would wait for too long."""
        last = self._rejection
        if last is None or not self.paused_for:
            return
        if place <= self._refused or _asked(last) >= (self._patience or LONGEST_PAUSE):
            error = RateLimited(str(last), status=last.status, retry_after=last.retry_after)
            error.scope = "model"
            raise error

    def _allowed(self) -> str:
        rate = "" if self.rate is None else f", {describe_rate(self.rate)}"
        return f"capacity {self.capacity}{rate}"

    def _log_event(self, message: str, *args: object, **fields: Any) -> None:
        """Tell the log what holds for all calls, whichever of them has shown it."""
        error = fields.pop("error", None)
        with log_context(index=None, key=None, attempt=None, **fields):
            log(_log, INFO, message, *args, error=error)

    def _log_allowed(self, message: str, *args: object, **fields: object) -> None:
        now = {"capacity": self.capacity, "rate": self.rate}
        self._log_event(message, *args, self._allowed(), **now, **fields)

    def _wake(self) -> None:
        if self._line and self._line[0] in self._turns:
            self._turns[self._line[0]].set()


def _asked(error: RateLimited) -> float:
    """Return the seconds that the service asks to wait, 0 where it does not say."""
    asked = error.retry_after
    return asked if asked is not None and 0 < asked < math.inf else 0.0


def _explain(error: RateLimited, patience: float) -> None:
    """Tell in the message of a rejection why it is not waited out."""
    if (asked := _asked(error)) >= patience:
        why = f"it asks to wait {asked:,.0f} s, longer than the patience of {patience:g} s"
    else:
        why = f"no call has succeeded within the patience of {patience:g} s"
    error.args = (f"{error.args[0]}; {why}",) if error.args else (why,)


def throttled(
    generate: Callable[[P], Awaitable[T]], throttle: Throttle
) -> Callable[[P], Awaitable[T]]:
    """Return generate with each of its calls made through a throttle.

    Args:
        generate: Raises RateLimited where the service rejects a call for now.
        throttle: May be shared with other functions and batches.
    """

    @wraps(generate)
    async def generate_throttled(prompt: P) -> T:
        return await throttle.run(partial(generate, prompt))

    return generate_throttled
