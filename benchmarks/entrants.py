"""The table of contenders: where each runs, and what may be asked of it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial

from . import contenders


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run a batch.

    Attributes:
        name: As tables show it.
        open: Its function in contenders.py.
        backends: Where it runs.
        needs: Module that must be installed.
        flat: Neither tasks nor results of all prompts are held: a million may be run.
        ordered: Results come in input order.
        special: Runs only in the measures that ask for it ("ordered", "fail_fast").
    """

    name: str
    open: contenders.Open
    backends: tuple[str, ...]
    needs: str = "anyio"
    flat: bool = False
    ordered: bool = False
    special: str = ""

    def note(self, backend: str) -> str:
        """Return why it does not run on this backend; empty if it does."""
        if backend not in self.backends:
            return f"not on {backend}"
        return "" if importlib.util.find_spec(self.needs) else f"{self.needs} is not installed"


_LOOPS = ("asyncio", "uvloop")
_ALL = (*_LOOPS, "trio")

_stream_ordered = partial(contenders.genbatch_stream, ordered=True)
_stream_fail_fast = partial(contenders.genbatch_stream, fail_fast=True)
_collect_fail_fast = partial(contenders.genbatch_collect, fail_fast=True)
_aiostream_ordered = partial(contenders.aiostream_map, ordered=True)

CONTENDERS = (
    Contender("genbatch.stream", contenders.genbatch_stream, _ALL, flat=True),
    Contender("genbatch.collect", contenders.genbatch_collect, _ALL, ordered=True),
    Contender("gather + Semaphore", contenders.gather_semaphore, _LOOPS, ordered=True),
    Contender("as_completed + Semaphore", contenders.as_completed_semaphore, _LOOPS),
    Contender("gather + progress callback", contenders.gather_progress, _LOOPS, ordered=True),
    Contender("TaskGroup + Queue workers", contenders.task_group_queue, _LOOPS, flat=True),
    Contender("anyio.amap + limiter", contenders.anyio_amap, _ALL, ordered=True),
    Contender("anyio.as_completed + limiter", contenders.anyio_as_completed, _ALL),
    Contender("aiometer.amap", contenders.aiometer_amap, _ALL, "aiometer", flat=True),
    Contender("aiometer.run_all", contenders.aiometer_run_all, _ALL, "aiometer", ordered=True),
    Contender("aiostream map", contenders.aiostream_map, _LOOPS, "aiostream", flat=True),
    Contender("tqdm.asyncio gather", contenders.tqdm_gather, _LOOPS, "tqdm", ordered=True),
    Contender(
        "langchain abatch", contenders.langchain_abatch, _LOOPS, "langchain_core", ordered=True
    ),
    Contender(
        "langchain abatch_as_completed", contenders.langchain_as_completed, _LOOPS, "langchain_core"
    ),
    Contender("trio channel workers", contenders.trio_channel_workers, ("trio",), flat=True),
    Contender("trio nursery + limiter", contenders.trio_nursery_limiter, ("trio",)),
    Contender("genbatch.stream, ordered", _stream_ordered, _ALL, ordered=True, special="ordered"),
    Contender(
        "aiostream map, ordered",
        _aiostream_ordered,
        _LOOPS,
        "aiostream",
        ordered=True,
        special="ordered",
    ),
    Contender("genbatch.stream, fail_fast", _stream_fail_fast, _ALL, special="fail_fast"),
    Contender("genbatch.collect, fail_fast", _collect_fail_fast, _ALL, special="fail_fast"),
)


def named(name: str) -> Contender:
    """Return the contender of this name."""
    return next(contender for contender in CONTENDERS if contender.name == name)


def entrants(backend: str, *special: str) -> list[Contender]:
    """Return those that belong on a backend: the plain ones and those of the special kinds."""
    return [
        contender
        for contender in CONTENDERS
        if backend in contender.backends and contender.special in ("", *special)
    ]
