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
        needs: Module that must be installed: the one that it imports.
        flat: Neither tasks nor results of all prompts are held: a million may be run.
        ordered: Results come in input order.
        special: Runs only in the measures that ask for it ("ordered", "fail_fast", "limiter",
            "readers").
        baseline: The contender that it is compared with; empty if it is the backend's.
    """

    name: str
    open: contenders.Open
    backends: tuple[str, ...]
    needs: str = "asyncio"
    flat: bool = False
    ordered: bool = False
    special: str = ""
    baseline: str = ""

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
_one_reader = partial(contenders.genbatch_stream_readers, readers=1)
_many_readers = partial(contenders.genbatch_stream_readers, readers=500)
_aiostream_ordered = partial(contenders.aiostream_map, ordered=True)
_streamable_ordered = partial(contenders.streamable_map, ordered=True)

CONTENDERS = (
    Contender("genbatch.stream", contenders.genbatch_stream, _ALL, "genbatch", flat=True),
    Contender("genbatch.collect", contenders.genbatch_collect, _ALL, "genbatch", ordered=True),
    Contender("gather + Semaphore", contenders.gather_semaphore, _LOOPS, ordered=True),
    Contender("as_completed + Semaphore", contenders.as_completed_semaphore, _LOOPS),
    Contender("gather + progress callback", contenders.gather_progress, _LOOPS, ordered=True),
    Contender("bare workers, one iterator", contenders.bare_workers, _LOOPS),
    Contender("TaskGroup + Queue workers", contenders.task_group_queue, _LOOPS, flat=True),
    Contender("filled Queue + workers + join", contenders.filled_queue_workers, _LOOPS),
    Contender("anyio.amap + limiter", contenders.anyio_amap, _ALL, "anyio", ordered=True),
    Contender("anyio.as_completed + limiter", contenders.anyio_as_completed, _ALL, "anyio"),
    Contender("aiometer.amap", contenders.aiometer_amap, _ALL, "aiometer", flat=True),
    Contender("aiometer.run_all", contenders.aiometer_run_all, _ALL, "aiometer", ordered=True),
    Contender("aiostream map", contenders.aiostream_map, _LOOPS, "aiostream", flat=True),
    Contender(
        "streamable map, as_completed", contenders.streamable_map, _LOOPS, "streamable", flat=True
    ),
    Contender("streamable map", _streamable_ordered, _LOOPS, "streamable", flat=True, ordered=True),
    Contender(
        "tuskpool as_completed", contenders.tuskpool_as_completed, _LOOPS, "tuskpool", flat=True
    ),
    Contender("tuskpool map", contenders.tuskpool_map, _LOOPS, "tuskpool", flat=True, ordered=True),
    Contender("tqdm.asyncio gather", contenders.tqdm_gather, _LOOPS, "tqdm", ordered=True),
    Contender(
        "langchain abatch", contenders.langchain_abatch, _LOOPS, "langchain_core", ordered=True
    ),
    Contender(
        "langchain abatch_as_completed", contenders.langchain_as_completed, _LOOPS, "langchain_core"
    ),
    Contender(
        "trio channel workers", contenders.trio_channel_workers, ("trio",), "trio", flat=True
    ),
    Contender("trio nursery + limiter", contenders.trio_nursery_limiter, ("trio",), "trio"),
    Contender("trio bare workers, one iterator", contenders.trio_bare_workers, ("trio",), "trio"),
    Contender(
        "genbatch.stream, shared limiter",
        contenders.genbatch_stream_limiter,
        _ALL,
        "genbatch",
        special="limiter",
    ),
    Contender(
        "genbatch.stream, 1 reader",
        _one_reader,
        _ALL,
        "genbatch",
        special="readers",
        baseline="genbatch.stream, 1 reader",
    ),
    Contender(
        "genbatch.stream, 500 readers",
        _many_readers,
        _ALL,
        "genbatch",
        special="readers",
        baseline="genbatch.stream, 1 reader",
    ),
    Contender(
        "genbatch.stream, ordered",
        _stream_ordered,
        _ALL,
        "genbatch",
        ordered=True,
        special="ordered",
    ),
    Contender(
        "aiostream map, ordered",
        _aiostream_ordered,
        _LOOPS,
        "aiostream",
        ordered=True,
        special="ordered",
    ),
    Contender(
        "genbatch.stream, fail_fast", _stream_fail_fast, _ALL, "genbatch", special="fail_fast"
    ),
    Contender(
        "genbatch.collect, fail_fast", _collect_fail_fast, _ALL, "genbatch", special="fail_fast"
    ),
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
