"""The fuzz of the readers: random and mutated prompt files of every format, until N were read.

Run ``python -m benchmarks.inputs --inputs 1000000``. Each input comes from a seed of its own, one
more than the one before, and is reproduced by ``--seed SEED --inputs 1``.

Some files are valid, and must give back the prompts written. The others are mutations of these, or
noise: refused by one ValueError on one line, or read as prompts to send, journal and read again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from genbatch._store._keys import content_digest
from genbatch._store._plan import metadata_to_json
from genbatch.inputs import PromptFiles, _sources, read_prompts

from .prompt_files import case

CHUNK = 2000  # inputs between two reports of a process
ENOUGH = 20  # failing inputs: more would say no more


def check(seed: int, folder: str) -> bool:
    """Read the input of a seed, and return whether it was not refused; wrong is an assertion."""
    made = case(seed)
    path = Path(folder, f"{os.getpid()}{made.suffix}")
    path.unlink(missing_ok=True)  # some file systems write through what is truncated
    path.write_bytes(made.content)
    _sources.BLOCK = made.block
    options: dict[str, Any] = {"encoding": made.encoding, "selection": made.selection}
    refused = ""
    try:
        prompts = read_prompts([path], made.recipe, **options)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert made.expected is None, refused
        assert refused.startswith(str(path)), refused
        assert refused.isprintable(), refused
        return False
    read = list(prompts)
    assert made.expected in (None, read), f"read {read}, wrote {made.expected}"
    assert list(prompts) == read
    assert len(prompts) == len(read)
    if isinstance(prompts, PromptFiles):
        asked = Counter((each.model, each.aspect_ratio, each.image_size) for each in read)
        assert Counter(prompts.asked) == asked
    for each in read:
        json.dumps(dict(each.metadata), allow_nan=False)
        json.loads(metadata_to_json(each) or "{}")
        content_digest("", each)
        for value in (each.text, each.id, each.filename, each.model):
            assert value is None or (value.encode().strip() and "\0" not in value), value
    return True


def check_chunk(folder: str, seeds: range) -> tuple[int, list[str]]:
    """Check the inputs of seeds, and return how many were read, and what failed."""
    read, failing = 0, []
    for seed in seeds:
        try:
            read += check(seed, folder)
        except Exception:  # noqa: BLE001 - what is hunted
            failing.append(f"--seed {seed} --inputs 1: {traceback.format_exc(limit=-3)}")
    return read, failing


def fuzz(inputs: int, seed: int, processes: int) -> list[str]:
    """Check so many inputs, and return what failed."""
    end = seed + inputs
    chunks = [range(first, min(first + CHUNK, end)) for first in range(seed, end, CHUNK)]
    read, failing = 0, []
    began = perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(processes) as pool,
    ):
        for number, found in enumerate(pool.imap(partial(check_chunk, folder), chunks), 1):
            read += found[0]
            failing += found[1]
            if number % 50 == 0:
                print(f"{number * CHUNK} inputs, {perf_counter() - began:.0f} s", file=sys.stderr)
            if len(failing) >= ENOUGH:
                break
    print(f"{inputs} inputs, {read} of them read, {perf_counter() - began:.0f} s")
    return failing[:ENOUGH]


def main() -> None:
    """Fuzz as the command line says; exit 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inputs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="of the first input")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    seed = random.randrange(10**9) if options.seed is None else options.seed
    print(f"--seed {seed}")
    failing = fuzz(options.inputs, seed, options.processes)
    for one in failing:
        print(f"failing: {one}")
    print(f"crashes and wrong answers = {len(failing)}")
    sys.exit(bool(failing))


if __name__ == "__main__":
    main()
