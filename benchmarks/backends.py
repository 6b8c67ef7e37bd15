"""The backends that measures run on, and the calls that they make there.

Only the backend in use is imported, and by its own functions, not anyio's: a process that times
one contender is to hold nothing that the contender does not need.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
Generate = Callable[[int], Coroutine[Any, Any, int]]

BACKENDS = ("asyncio", "uvloop", "trio")
BASELINES = {
    "asyncio": "gather + Semaphore",
    "uvloop": "gather + Semaphore",
    "trio": "trio channel workers",
}

_current_prompt: ContextVar[int] = ContextVar("current_prompt")


def available() -> list[str]:
    """Return the backends that can run here."""
    return [name for name in BACKENDS if name != "uvloop" or importlib.util.find_spec("uvloop")]


def run(backend: str, main: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run main(*args) on a backend, on its wall clock."""
    if backend == "trio":
        import trio

        return trio.run(main, *args)
    loop_factory = None
    if backend == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main(*args))


def bare_sleep(backend: str) -> Callable[[float], Awaitable[None]]:
    """Return the backend's own sleep."""
    if backend == "trio":
        import trio

        return trio.sleep
    return asyncio.sleep


def _bare_checkpoint(backend: str) -> Callable[[], Awaitable[None]]:
    if backend == "trio":
        import trio

        return trio.lowlevel.checkpoint
    return partial(asyncio.sleep, 0)


def workload(name: str, backend: str) -> Generate:
    """Return a call that makes a batch's overhead show.

    By the backend's own functions: anyio's cost more, on both sides, and would blur the ratios.

    Args:
        name: "noop" does nothing, "checkpoint" checkpoints once, "contextvar" sets a ContextVar,
            leaves it set and checkpoints once, "sleep" takes 1 ms.
        backend: Where it will run.
    """
    checkpoint, sleep = _bare_checkpoint(backend), bare_sleep(backend)

    async def do_nothing(prompt: int) -> int:
        return prompt

    async def checkpoint_once(prompt: int) -> int:
        await checkpoint()
        return prompt

    async def set_contextvar(prompt: int) -> int:
        _current_prompt.set(prompt)
        await checkpoint()
        return prompt

    async def sleep_briefly(prompt: int) -> int:
        await sleep(0.001)
        return prompt

    return {
        "noop": do_nothing,
        "checkpoint": checkpoint_once,
        "contextvar": set_contextvar,
        "sleep": sleep_briefly,
    }[name]


def tasks_alive(backend: str) -> int:
    """Return how many tasks live besides the one that asks."""
    if backend == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living - 1
    return len(asyncio.all_tasks()) - 1
