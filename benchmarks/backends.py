"""The backends that measures run on, and the calls that they make there."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import trio
import trio.lowlevel

T = TypeVar("T")
Generate = Callable[[int], Awaitable[int]]

BACKENDS = ("asyncio", "uvloop", "trio")
BASELINES = {
    "asyncio": "gather + Semaphore",
    "uvloop": "gather + Semaphore",
    "trio": "trio channel workers",
}


def available() -> list[str]:
    """Return the backends that can run here."""
    return [name for name in BACKENDS if name != "uvloop" or importlib.util.find_spec("uvloop")]


def run(backend: str, main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run main(*args) on a backend, on its wall clock."""
    if backend == "trio":
        return anyio.run(main, *args, backend="trio")
    return anyio.run(main, *args, backend_options={"use_uvloop": backend == "uvloop"})


def bare_sleep(backend: str) -> Callable[[float], Awaitable[None]]:
    """Return the backend's own sleep."""
    return trio.sleep if backend == "trio" else asyncio.sleep


def workload(name: str, backend: str) -> Generate:
    """Return a call that does nothing, checkpoints once ("checkpoint") or takes 1 ms ("sleep").

    By the backend's own functions: anyio's cost more, on both sides, and would blur the ratios.
    """
    calls: dict[tuple[str, bool], Generate] = {
        ("noop", False): _noop,
        ("noop", True): _noop,
        ("checkpoint", False): _asyncio_checkpoint,
        ("checkpoint", True): _trio_checkpoint,
        ("sleep", False): _asyncio_sleep,
        ("sleep", True): _trio_sleep,
    }
    return calls[name, backend == "trio"]


async def _noop(prompt: int) -> int:
    return prompt


async def _asyncio_checkpoint(prompt: int) -> int:
    await asyncio.sleep(0)
    return prompt


async def _trio_checkpoint(prompt: int) -> int:
    await trio.lowlevel.checkpoint()
    return prompt


async def _asyncio_sleep(prompt: int) -> int:
    await asyncio.sleep(0.001)
    return prompt


async def _trio_sleep(prompt: int) -> int:
    await trio.sleep(0.001)
    return prompt


def tasks_alive(backend: str) -> int:
    """Return how many tasks live besides the one that asks."""
    if backend == "trio":
        return trio.lowlevel.current_statistics().tasks_living - 1
    return len(asyncio.all_tasks()) - 1
