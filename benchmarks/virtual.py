"""Virtual time and, for the fuzz, shuffled schedules: the clock jumps when nothing else can run."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import trio
import trio.testing

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Nothing can wake the loop any more."""


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout is None:
            raise Deadlock("nothing can wake this loop")
        if not ready:
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on a clock of its own, which runs what is ready in random order."""

    def __init__(self, seed: int | None) -> None:
        self.now = 0.0
        self._shuffle = None if seed is None else random.Random(seed).shuffle
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:  # private to asyncio: the only way to the order of what is ready
        if self._shuffle and len(self._ready) > 1:
            ready = list(self._ready)
            self._shuffle(ready)
            self._ready.clear()
            self._ready.extend(ready)
        super()._run_once()


def run(backend: str, main: Callable[[], Awaitable[T]], seed: int | None = None) -> T:
    """Run main with the schedule of a seed, or the backend's own; a deadlock is an error.

    Args:
        backend: "asyncio", "uvloop", "trio", or "eager": asyncio with its eager task factory.
        main: What to run.
        seed: Of the schedule, None for the backend's own.

    Raises:
        TimeoutError: If main has waited for ever.
        Deadlock: If even that could not end it.
    """

    async def bounded() -> T:
        with anyio.fail_after(10 if backend == "uvloop" else 1e6):
            return await main()

    if backend == "trio":
        if seed is not None:
            trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # shuffles all that is ready
        trio._core._run._r.seed(seed or 0)
        clock = trio.testing.MockClock(autojump_threshold=0)
        return anyio.run(bounded, backend="trio", backend_options={"clock": clock})
    if backend == "uvloop":
        return anyio.run(bounded, backend_options={"use_uvloop": True})
    return anyio.run(bounded, backend_options={"loop_factory": partial(_loop, backend, seed)})


def _loop(backend: str, seed: int | None) -> VirtualLoop:
    loop = VirtualLoop(seed)
    if backend == "eager":
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop
