"""How a batch fares where the service says "too many": ``python -m benchmarks.storm``.

Services are modelled under virtual time: one that runs so many calls at once, one that lets so many
start in any 60 seconds, one that counts anew each full minute. A throttled batch, which is told
nothing of them, is set beside batches of fixed concurrency that pause when they are told to, each
call by itself, for the delay or with doubled pauses, and call again.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import random

import anyio

from genbatch import RateLimited, Success, stream

from . import virtual

PATIENCE = 1e9  # seconds: a model has no errors but rejections


@dataclass
class Service:
    """Answers calls, after so many seconds, and rejects those that are too many at once.

    Attributes:
        takes: Seconds that a call takes.
        room: Rejects beyond so many calls at once; by clock value, for a service that changes.
        tells: Whether a rejection says how long to wait.
    """

    takes: float
    tells: bool = False
    began: float = 0.0
    running: int = 0
    starts: list[float] = field(default_factory=list)
    rejections: list[int] = field(default_factory=list)  # by number of the call

    async def generate(self, prompt: int) -> int:
        """Answer, or raise RateLimited."""
        now = anyio.current_time()
        self.starts.append(now)
        if (wait := self.wait(now)) > 0:
            self.rejections.append(len(self.starts))
            raise RateLimited("too many calls", retry_after=wait if self.tells else None)
        self.running += 1
        try:
            await anyio.sleep(self.takes)
        finally:
            self.running -= 1
        return prompt

    def wait(self, now: float) -> float:
        """Return seconds until there is room for one more, 0 for now."""
        raise NotImplementedError


@dataclass
class Crowd(Service):
    """Runs so many calls at once; may fall to fewer after a number of calls answered."""

    room: int = 40
    falls_to: int | None = None
    falls_after: int = 0
    answered: int = 0

    def wait(self, now: float) -> float:
        room = self.room
        if self.falls_to is not None and self.answered >= self.falls_after:
            room = self.falls_to
        if self.running >= room:
            return self.takes / room
        self.answered += 1
        return 0.0


@dataclass
class Rolling(Service):
    """Lets so many calls start in any 60 seconds."""

    quota: int = 60
    window: float = 60.0
    kept: deque[float] = field(default_factory=deque)

    def wait(self, now: float) -> float:
        while self.kept and self.kept[0] <= now - self.window:
            self.kept.popleft()
        if len(self.kept) >= self.quota:
            return self.kept[0] + self.window - now
        self.kept.append(now)
        return 0.0


@dataclass
class Minutes(Service):
    """Lets so many calls start in each minute of the clock, the first of which has begun."""

    quota: int = 60
    window: float = 60.0
    phase: float = 37.0
    minute: int = -1
    used: int = 0

    def wait(self, now: float) -> float:
        into = now - self.began + self.phase
        if int(into // self.window) != self.minute:
            self.minute, self.used = int(into // self.window), 0
        if self.used >= self.quota:
            return (self.minute + 1) * self.window - into
        self.used += 1
        return 0.0
