"""Timing, in interleaved rounds: what the measures share, in their own processes and in fresh ones.

Fresh processes import this module as well, so it imports little.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .backends import Generate, run, workload
from .contenders import drain
from .entrants import Contender

Cell = dict[str, Any]


def progress(text: str) -> None:
    """Say on stderr what is being measured."""
    print(text, file=sys.stderr, flush=True)


async def timed(
    contender: Contender, generate: Generate, n: int, k: int, clock: Callable[[], float]
) -> float:
    """Run n prompts and return what a clock says that they took."""
    began = clock()
    async with contender.open(generate, range(n), k) as results:
        await drain(results)
    return clock() - began


def warm_up(contender: Contender, backend: str) -> Contender:
    """Run a few prompts: a contender imports what it needs when it is first opened. Return it."""

    async def main() -> None:
        async with contender.open(workload("noop", backend), range(10), 2) as results:
            await drain(results)

    run(backend, main)
    return contender


def interleave(
    contenders: Iterable[Contender], backend: str, rounds: int, *arguments: Any
) -> dict[str, list[float]]:
    """Time contenders A B C A B C, so that what else the machine does falls on all alike.

    The arguments are those of timed behind the contender.
    """
    warm = [warm_up(contender, backend) for contender in contenders]
    seconds: dict[str, list[float]] = {contender.name: [] for contender in warm}
    for _ in range(rounds):
        for contender in warm:
            gc.collect()
            seconds[contender.name].append(run(backend, timed, contender, *arguments))
    return seconds
