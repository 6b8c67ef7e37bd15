"""Virtual time and shuffled schedules: years of waiting in milliseconds, a schedule per seed.

asyncio and trio run under a clock that jumps to the next deadline when nothing else can run.
uvloop has no clock to replace: there a pause is a number of checkpoints.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import trio
import trio.testing
from anyio.lowlevel import checkpoint

T = TypeVar("T")

BACKENDS = ["asyncio", "trio"]
BACKENDS_AND_UVLOOP = [*BACKENDS, "uvloop"]


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().select(5)  # only threads and sockets can wake the loop now
        ready = super().select(0)
        if not ready and timeout > 0:
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self._random = random.Random(seed)
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready = list(self._ready)
        self._random.shuffle(ready)
        self._ready.clear()
        self._ready.extend(ready)
        super()._run_once()


def run(backend: str, main: Callable[..., Awaitable[T]], *args: Any, seed: int = 0) -> T:
    """Run main(*args) on a backend with the schedule of a seed; a deadlock is a TimeoutError."""

    async def bounded() -> T:
        with anyio.fail_after(1e6 if backend in BACKENDS else 30):
            return await main(*args)

    if backend == "trio":
        trio._core._run._r.seed(seed)
        clock = trio.testing.MockClock(autojump_threshold=0)
        return anyio.run(bounded, backend="trio", backend_options={"clock": clock})
    if backend == "uvloop":
        return anyio.run(bounded, backend_options={"use_uvloop": True})
    return anyio.run(bounded, backend_options={"loop_factory": lambda: VirtualLoop(seed)})


async def pause(backend: str, delay: int) -> None:
    """Let delay units of time pass, 0 of them without so much as a checkpoint."""
    if backend == "uvloop":
        for _ in range(3 * delay):
            await checkpoint()
    elif delay:
        await anyio.sleep(delay)
