"""The long fuzz: random batches under random schedules and cancellations, until N prompts are done.

Run ``python -m benchmarks.fuzz --prompts 1000000``. Each batch comes from a seed of its own, one
more than the one before, and is reproduced by ``--seed SEED --backend BACKEND --prompts 1``.

asyncio, with and without its eager task factory, and trio run on virtual time, with what is ready
shuffled; uvloop, whose clock cannot be replaced, by checkpoints. Reads are cancelled by scopes,
deadlines, ``task.cancel()`` and ``asyncio.timeout``. Calls fail, cancel themselves, run groups that
fail and batches of their own. Meanwhile the limiters are resized, the batch is drained, and on
asyncio its tasks are struck: one of them, whichever it is, is cancelled natively. A struck batch
may fail the call that it hit, or say by an error that it was cut short; it may not end as if
nothing had happened.

Counted is what Record lists: outcomes short, lost and doubled, moments over a limit, batches that
hung, and tasks leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from functools import partial
from time import perf_counter

from . import virtual
from .backends import available
from .batches import Batch, Record, plan
from .readers import run_batch

REPORT_EVERY = 10.0  # seconds
LONGEST = 30.0  # seconds of one batch, which else takes a tenth of one
ENOUGH = 20  # failing batches: more would say no more


class _Endless(BaseException):
    """A batch spins for ever without letting virtual time pass."""


def backends() -> list[str]:
    """Return the backends that can run here, asyncio's eager task factory as one more."""
    return [*available(), "eager"] if sys.version_info >= (3, 12) else available()


def _interrupt(*_: object) -> None:
    with suppress(RuntimeError):  # uvloop only logs what a handler raises
        asyncio.get_running_loop().stop()
    raise _Endless


def fuzz_one(seed: int, backend: str) -> Record:
    """Run the batch of one seed; an error counts as the loss of what was unread."""
    batch = plan(seed, backend)
    began = perf_counter()
    signal.setitimer(signal.ITIMER_REAL, LONGEST, 1.0)
    try:
        return virtual.run(backend, partial(run_batch, batch), seed)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        traceback.print_exception(exc, limit=-4)
        batch.record.prompts = batch.size
        is_late = perf_counter() - began >= LONGEST
        if is_late or isinstance(exc, TimeoutError | virtual.Deadlock):
            batch.record.hung += 1
        else:
            batch.record.lost += max(1, batch.size - len(batch.seen))
        return batch.record
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def describe(batch: Batch) -> str:
    """Return what matters of a batch in one line."""
    return (
        f"{batch.size} prompts from {batch.source}, k={batch.max_concurrent}, "
        f"tokens={batch.tokens}, resizes={batch.resizes}, ordered={batch.ordered}, "
        f"acts={'+'.join(batch.acts) or None}"
    )


def fuzz(prompts: int, seed: int, backends: list[str]) -> tuple[Record, list[str]]:
    """Run batches until this many prompts are done; return the counts and who failed."""
    total, failing = Record(), []
    began = reported = perf_counter()
    first = seed
    while total.prompts < prompts and len(failing) < ENOUGH:
        backend = backends[seed % len(backends)]
        record = fuzz_one(seed, backend)
        total.add(record)
        if not record.clean:
            failing.append(f"--seed {seed} --backend {backend} --prompts 1")
            print(
                f"{failing[-1]}: {record.faults}: {describe(plan(seed, backend))}", file=sys.stderr
            )
        seed += 1
        if perf_counter() - reported > REPORT_EVERY:
            reported = perf_counter()
            print(f"{total.prompts} prompts, {seed - first} batches, {reported - began:.0f} s",
                  file=sys.stderr)  # fmt: skip
    print(f"{total.prompts} prompts in {seed - first} batches on {', '.join(backends)}, "
          f"{total.cut_short} cut short by a strike, {perf_counter() - began:.0f} s")  # fmt: skip
    return total, failing


def main() -> None:
    """Fuzz as the command line says; exit 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="of the first batch")
    parser.add_argument("--backend", choices=backends(), action="append", help="may be repeated")
    options = parser.parse_args()
    seed = random.randrange(10**9) if options.seed is None else options.seed
    print(f"--seed {seed}")
    warnings.simplefilter("ignore", ResourceWarning)
    signal.signal(signal.SIGALRM, _interrupt)
    gc.set_threshold(50_000, 20, 100)  # many small loops: the default would collect all the time
    total, failing = fuzz(options.prompts, seed, options.backend or backends())
    for one in failing:
        print(f"failing: {one}")
    print(f"short/lost/doubled/over-limit/hung/leaked = {total.faults}")
    sys.exit(bool(failing))


if __name__ == "__main__":
    main()
