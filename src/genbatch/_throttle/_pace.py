"""Pace: how far apart calls start, as a generic cell rate clock."""

from __future__ import annotations

import math
import re

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}  # seconds


class Pace:
    """Starts interval seconds apart, but for a burst of so many after a silence."""

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
        TypeError: If pace is no string.
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
