"""The long fuzz: random batches under random schedules and cancellations, until N prompts are done.

Run ``python -m benchmarks.fuzz --prompts 1000000``. Each batch comes from a seed of its own, one
more than the one before, and is reproduced by ``--seed SEED --backend BACKEND --prompts 1``.

asyncio and trio run on virtual time, with what is ready shuffled; uvloop, whose clock cannot be
replaced, by checkpoints. Reads are cancelled by scopes, deadlines, ``task.cancel()`` and
``asyncio.timeout``. Counted are outcomes lost (or wrong, or out of turn), outcomes handed over
twice, and moments over a limit: calls at once, prompts pulled ahead, calls after the block.
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import sys
import traceback
import warnings
from functools import partial
from time import perf_counter

from . import virtual
from .backends import available
from .batches import Batch, Record, plan
from .readers import run_batch

REPORT_EVERY = 10.0  # seconds
LONGEST = 60.0  # seconds of one batch, which else takes a tenth of one
ENOUGH = 20  # failing batches: more would say no more


class _Endless(BaseException):
    """A batch spins for ever without letting virtual time pass."""


def _interrupt(*_: object) -> None:
    raise _Endless


def fuzz_one(seed: int, backend: str) -> Record:
    """Run the batch of one seed; an error or a deadlock counts as the loss of what was unread."""
    batch = plan(seed, backend)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, 1.0)
    try:
        return virtual.run(backend, partial(run_batch, batch), seed)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        traceback.print_exception(exc, limit=-4)
        batch.record.prompts = batch.size
        batch.record.lost += max(1, batch.size - len(batch.seen))
        return batch.record
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def describe(batch: Batch) -> str:
    """Return what matters of a batch in one line."""
    return (
        f"{batch.size} prompts from {batch.source}, k={batch.max_concurrent}, "
        f"tokens={batch.tokens}, resizes={batch.resizes}, ordered={batch.ordered}"
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
            counts = f"{record.lost}/{record.duplicated}/{record.over_limit}"
            print(f"{failing[-1]}: {counts}: {describe(plan(seed, backend))}", file=sys.stderr)
        seed += 1
        if perf_counter() - reported > REPORT_EVERY:
            reported = perf_counter()
            print(f"{total.prompts} prompts, {seed - first} batches, {reported - began:.0f} s",
                  file=sys.stderr)  # fmt: skip
    print(f"{total.prompts} prompts in {seed - first} batches on {', '.join(backends)}, "
          f"{perf_counter() - began:.0f} s")  # fmt: skip
    return total, failing


def main() -> None:
    """Fuzz as the command line says; exit 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="of the first batch")
    parser.add_argument("--backend", choices=available(), action="append", help="may be repeated")
    options = parser.parse_args()
    seed = random.randrange(10**9) if options.seed is None else options.seed
    print(f"--seed {seed}")
    warnings.simplefilter("ignore", ResourceWarning)
    signal.signal(signal.SIGALRM, _interrupt)
    gc.set_threshold(50_000, 20, 100)  # many small loops: the default would collect all the time
    total, failing = fuzz(options.prompts, seed, options.backend or available())
    for one in failing:
        print(f"failing: {one}")
    print(f"lost/duplicated/over-limit = {total.lost}/{total.duplicated}/{total.over_limit}")
    sys.exit(bool(failing))


if __name__ == "__main__":
    main()
