"""Starts: how many calls a service let start in the usual windows of time."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

WINDOWS = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0)  # seconds over which services may count
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

    def full_window(self, at: float, asked: float) -> float | None:
        """Return the shortest window as full as it ever was, and long enough to explain asked."""
        for window in WINDOWS:
            count = self.count(at, window)
            if window >= SLACK * asked and count and count + 1 >= SLACK * self._peaks[window]:
                return window
        return None

    def restart(self, at: float) -> None:
        """Forget what the longest window has carried: the service allows less now."""
        self._peaks[WINDOWS[-1]] = self.count(at, WINDOWS[-1])
