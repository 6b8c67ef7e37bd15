"""What a service allows, learned from its answers: how many calls at once, how many in a time.

1. Capacity, the calls in flight, starts at 20 and doubles with each clean round until the first
   rejection. Starts that try it out are a quarter of their share of a call's duration apart: a
   rejection is then seen before many more are on their way.
2. All rejections of calls started before the last cut are one episode: one cut, to 97 % of what the
   service kept of the calls in flight, at most by half. Then growth of 1 % for a clean round, 2 %
   for the next, 4 %, ... as long as 80 % is in use.
3. Nothing starts until the service's delay has passed; where it names none, 1 s, or what five calls
   take if that is less, doubled for each episode in a row, up to 60 s. Delays overlap, they do not
   add up.
4. Where the service asks to wait longer than a call takes, or rejects with few calls in flight, it
   counts starts in a time: the shortest usual window that is as full as it ever was, of more than
   60 s only if it asks for as much, or has kept nothing for as long as the next shorter one. From
   then on starts are evenly spaced at 97 % of that, and this rate grows as capacity does.
5. After an episode without a success since the last one, or in which the service kept nothing, one
   call at a time tries until one succeeds.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from random import random

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}  # seconds


class Pace:
    """Starts interval seconds apart, except for a burst after a pause."""

    __slots__ = ("_even", "_lead", "interval")

    def __init__(self, interval: float, burst: int = 1) -> None:
        self.interval = interval
        self._lead = (burst - 1) * interval
        self._even = -math.inf  # when the next call were due if none ever came in a burst

    @property
    def due(self) -> float:
        """Clock value before which no call may start, minus infinity before the first one."""
        return self._even - self._lead

    def start(self, now: float) -> None:
        """Count a call that starts now."""
        self._even = max(now, self._even) + self.interval


def parse_interval(pace: str) -> float:
    """Return the seconds between two starts at a pace such as ``"10/min"``.

    Raises:
        TypeError: If pace is not a string.
        ValueError: If it is not a number above 0, a slash, and one of s, min, h.
    """
    if not isinstance(pace, str):
        raise TypeError(f"pace must be a str, got {type(pace).__name__}")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|min|h)\s*", pace)
    if match is None or not float(match[1]):
        raise ValueError(f'pace must be like "10/min", "2/s" or "100/h", got {pace!r}')
    return UNITS[match[2]] / float(match[1])


def describe_rate(rate: float) -> str:
    """Return starts per second as text like ``10/min``."""
    unit = next((unit for unit, seconds in UNITS.items() if rate * seconds >= 1), "h")
    return f"{rate * UNITS[unit]:.3g}/{unit}"


MINUTE = 60.0
LONGEST_GUESS = 600.0  # seconds to wait for a window to have room, where the service tells no delay
WINDOWS = (0.3, 1.0, 3.0, 10.0, 30.0, MINUTE, 600.0, 86_400.0)  # seconds over which services count
SLACK = 0.97  # clocks and networks are not exact


class Starts:
    """When calls started that were not rejected, and how many each window has carried at most."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._peaks = dict.fromkeys(WINDOWS, 0)
        self.first = math.inf

    def add(self, now: float) -> None:
        """Count a start; forget those that no window reaches any more."""
        times = self._times
        times.append(now)
        self.first = min(self.first, now)
        if times[0] < now - 4 * WINDOWS[-1]:
            del times[: bisect_left(times, now - 2 * WINDOWS[-1])]

    def remove(self, at: float) -> None:
        """Take back the start of a call that was rejected."""
        index = bisect_left(self._times, at)
        if index < len(self._times) and self._times[index] == at:
            del self._times[index]

    def count(self, at: float, window: float) -> int:
        """Return how many started in the window that ended at a time."""
        return bisect_right(self._times, at) - bisect_right(self._times, at - window)

    def oldest(self, at: float, window: float) -> float:
        """Return when the first of those started."""
        return self._times[bisect_right(self._times, at - window)]

    def confirm(self, at: float) -> None:
        """Note what the windows carried when a call started that succeeded."""
        for window in WINDOWS:
            self._peaks[window] = max(self._peaks[window], self.count(at, window))

    def full_window(self, at: float, asked: float, longest: float) -> float | None:
        """Return the shortest window as full as it ever was, and long enough to explain asked."""
        for window in WINDOWS:
            count = self.count(at, window)
            is_likely = SLACK * asked <= window <= longest
            if is_likely and count and count + 1 >= SLACK * self._peaks[window]:
                return window
        return None

    def restart(self, at: float, window: float) -> float | None:
        """Forget what a window has carried: the service allows less now.

        Returns:
            The window if any call started in it.
        """
        self._peaks[window] = self.count(at, window)
        return window if self._peaks[window] else None


FIRST_CAPACITY = 20
BELOW = 0.97  # of a limit just seen: clocks and networks are not exact
FIRST_STEP = 0.01  # small: a rejected probe is a call for nothing
ROUND_CALLS = 20  # fewer successes prove little
CAPACITY_ROUND = 15.0  # seconds: a rejected probe costs a pause of one or more
RATE_ROUND = 0.25  # of a window
GUESS_STEP = 0.25  # from a rate that may be far too low
IN_USE = 0.8  # a limit that is not used is not tested by a success
FIRST_PAUSE = 1.0  # seconds, where the service names none
SHORTEST_PAUSE = 0.05
FEW_CALLS = 5  # a pause of as many is enough at first, where calls take next to no time
LONGEST_PAUSE = 60.0
NEAR = 0.05  # of a delay: as good as the same
SPREAD = 0.25  # of a pause of our own, so that clients do not all come back as one
SHORTEST_SPACING = 0.00025  # seconds: a quarter of the 1 ms that timers are fine


@dataclass(slots=True)
class Level:
    """A limit found by trying: doubled each clean round until it was cut, then grown gently."""

    value: float
    step: float = 1.0
    successes: int = 0
    since: float | None = None  # when this round began, once there was a cut

    def cut(self, value: float, now: float, step: float = FIRST_STEP) -> None:
        """Set a lower value, to be grown by step, then by twice that."""
        self.value, self.step, self.successes, self.since = value, step, 0, now

    def disturb(self, now: float) -> None:
        """Begin the round again."""
        self.successes = 0
        if self.since is not None:
            self.since = now

    def grow(self, now: float, shortest: float) -> None:
        """Count a success; the last one of a round, of shortest seconds or more, makes it grow."""
        self.successes += 1
        is_long = self.since is None or now - self.since >= shortest
        if is_long and self.successes >= max(ROUND_CALLS, self.value):
            self.value *= 1 + self.step
            self.step = min(1.0, 2 * self.step)
            self.disturb(now)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A call that was started."""

    number: int
    at: float
    is_paced: bool  # the rate decided when


@dataclass(slots=True)
class Episode:
    """Rejections with one cause: what there was before them, and how many there are."""

    in_flight: int  # the first one rejected included
    capacity: Level
    rate: Level | None
    rejected: int = 0

    @property
    def kept(self) -> int:
        """Calls that were in flight and not rejected."""
        return self.in_flight - self.rejected


class Limits:
    """What is known of a service's limits: from each call it learns when the next may start.

    Attributes:
        episodes: How often the service began to reject.
    """

    def __init__(self, capacity: int | None, pace: Pace | None) -> None:
        self.episodes = 0
        self._paused_until = -math.inf
        self._room_at = -math.inf  # where the service told no delay, as far as is known by now
        self._adapts = capacity is None
        self._capacity = Level(capacity or FIRST_CAPACITY)
        self._rate: Level | None = None
        self._pace = pace
        self._starts = Starts()
        self._started = 0
        self._last = -math.inf  # start
        self._window = 0.0  # seconds, of the rate
        self._duration: float | None = None  # of a call that succeeds, a moving average
        self._episode = Episode(0, self._capacity, None)
        self._cut_at = 0  # starts up to this number belong to the last episode
        self._row = 0  # episodes without a success between them
        self._row_began = 0.0  # when the first call that was rejected in them had started
        self._trying = 0  # in flight of those started since the last cut
        self._peak = 0  # in flight since the last cut, at most
        self._verdict = 0.0  # seconds that the last rejection took
        self._before_row = 0.0  # capacity

    @property
    def capacity(self) -> int:
        """Most calls in flight."""
        return int(self._capacity.value)

    @property
    def paused_until(self) -> float:
        """Clock value before which nothing may start."""
        return max(self._paused_until, self._room_at)

    @property
    def rate(self) -> float | None:
        """Most starts per second, asked for or learned; None while there is no such limit."""
        rates = [1 / self._pace.interval] if self._pace else []
        if self._rate:
            rates.append(self._rate.value)
        return min(rates, default=None)

    def set_pace(self, pace: Pace | None) -> None:
        """Start calls at another pace, from the last start on."""
        self._pace = pace
        if pace is not None:
            pace.start(self._last)

    def has_room(self, in_flight: int) -> bool:
        """Return whether one more may start beside those in flight."""
        is_unsure = self._row > 1 or (self._row == 1 and not self._episode.kept)
        return in_flight < self.capacity and not (is_unsure and self._trying)

    def due(self, in_flight: int) -> float:
        """Return the clock value before which the next call may not start."""
        spacing = 1 / self._rate.value if self._rate else 0.0
        is_tested = self._adapts and 2 * self._peak >= IN_USE * self.capacity
        if (is_tested or self._row) and self._duration:
            share = self._duration / self._capacity.value / 4
            if share >= SHORTEST_SPACING:
                spacing = max(spacing, share)
        if self._trying == 1 and self._row:
            spacing = max(spacing, 2 * self._verdict)  # the first one after a pause goes alone
        due = max(self.paused_until, self._last + spacing)
        return max(due, self._pace.due) if self._pace else due

    def start(self, now: float, in_flight: int) -> Start:
        """Count a call that starts now beside those in flight."""
        is_paced = False
        if self._rate:
            interval = 1 / self._rate.value
            is_paced = IN_USE * (now - self._last) <= interval
        if self._pace:
            self._pace.start(now)
        self._starts.add(now)
        self._last = now
        self._started += 1
        self._trying += 1
        self._peak = max(self._peak, in_flight + 1)
        return Start(self._started, now, is_paced)

    def end(self, start: Start) -> None:
        """Note that a call is no longer in flight, whatever its outcome."""
        if start.number > self._cut_at:
            self._trying -= 1

    def disturb(self, now: float) -> None:
        """Take note of trouble that is not about limits: nothing grows until a clean round."""
        self._capacity.disturb(now)
        if self._rate:
            self._rate.disturb(now)

    def succeed(self, start: Start, in_flight: int, now: float) -> None:
        """Learn from a success, itself still counted in flight."""
        took = now - start.at
        self._duration = took if self._duration is None else 0.8 * self._duration + 0.2 * took
        self._starts.confirm(start.at)
        if start.number <= self._cut_at:
            return  # it was let in before, and says nothing of now
        self._row = 0
        if self._adapts and self._peak >= IN_USE * self.capacity:
            self._capacity.grow(now, CAPACITY_ROUND)
        if self._rate and start.is_paced:
            self._rate.grow(now, RATE_ROUND * self._window)

    def reject(self, start: Start, in_flight: int, now: float, asked: float | None) -> None:
        """Learn from a rejection, itself still counted in flight; asked is in seconds."""
        self._starts.remove(start.at)
        if asked is not None and not 0 < asked < math.inf:
            asked = None
        is_new = start.number > self._cut_at
        if is_new:
            self._episode = Episode(in_flight, self._capacity, self._rate)
            self._cut_at = self._started
            if self._trying > 1:
                self._row = 0  # the service kept what it was sent in between
            if not self._row:
                self._before_row = self._capacity.value
                self._row_began = start.at
            self._row += 1
            self._trying = self._peak = 0
            self._verdict = now - start.at
            self.episodes += 1
        self._episode.rejected += 1
        self._last = -math.inf  # the pause says when the next may start, as if this one never had
        room_at = min(self._cut(start.at, now, asked), now + LONGEST_GUESS)
        self._room_at = room_at if asked is None else -math.inf
        if asked is not None:
            self._paused_until = max(self._paused_until, now + asked)
        elif is_new:
            first = min(FIRST_PAUSE, max(SHORTEST_PAUSE, FEW_CALLS * (self._duration or math.inf)))
            pause = min(LONGEST_PAUSE, first * 2.0 ** min(self._row - 1, 99))
            pause *= 1 + SPREAD * random()  # noqa: S311 - spreads load, guards nothing
            self._paused_until = max(self._paused_until, now + pause)

    def _cut(self, at: float, now: float, asked: float | None) -> float:
        """Cut what the episode is about, anew with each rejection: it shows what was kept.

        Returns:
            When the window that is full has room again, minus infinity where none is.
        """
        episode, starts = self._episode, self._starts
        self._capacity = replace(episode.capacity)
        self._rate = replace(episode.rate) if episode.rate else None
        is_first = self.episodes == 1  # from a standing start: too many whatever is counted
        is_crowd = episode.kept > 0 and (is_first or 2 * episode.kept >= episode.capacity.value)
        is_crowd = is_crowd and self._adapts
        longest = self._longest_window(at, asked or 0.0)
        window = starts.full_window(at, asked or 0.0, longest)
        if window is None and not is_crowd and (episode.rate or episode.in_flight == 1):
            window = starts.restart(at, longest)
        if window is not None:
            oldest = starts.oldest(at, window)
            delay = self._told(asked, oldest + window - now)
            if episode.rate or delay or not is_crowd:
                self._learn_rate(at, now, window, delay and now + delay - oldest)
                return oldest + window
        if self._adapts and episode.in_flight > 1:
            half = episode.capacity.value / 2
            self._capacity.cut(max(1.0, half, BELOW * episode.kept), now)
        return -math.inf

    def _longest_window(self, at: float, asked: float) -> float:
        """Return the longest window that may explain a rejection."""
        # One of ten minutes would ask for more than one, be known, or have rejected for longer.
        least = max(MINUTE, SLACK * max(asked, self._window, at - self._row_began))
        return next((window for window in WINDOWS if window >= least), WINDOWS[-1])

    def _told(self, asked: float | None, until_room: float) -> float | None:
        """Return the delay asked for if it is that of a service which counts starts in a time."""
        if asked is None:
            return None
        # Room for one more call at once comes as soon as one of many ends.
        is_long = asked > (self._duration or 0.0)
        return asked if is_long or abs(until_room - asked) <= NEAR * asked else None

    def _learn_rate(self, at: float, now: float, window: float, told: float | None) -> None:
        """Cut the rate to what a window carried, of which the service told the seconds, or not."""
        starts, before = self._starts, self._episode.rate
        since_first = max(WINDOWS[0], at - starts.first)
        seen = told or (window if window > MINUTE else min(window, since_first))
        value = BELOW * starts.count(at, window) / seen
        self._rate = Level(value)
        if before is not None:
            below = BELOW if self._row == 1 else 1.0  # it has shown no more than the last one
            self._rate.cut(min(value, below * before.value), now)
        else:
            self._rate.cut(value, now, FIRST_STEP if told else GUESS_STEP)
        self._window = window
        self._capacity.value = self._before_row  # it was not about capacity, after all
