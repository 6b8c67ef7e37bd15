"""The crash harness of jobs: runs that are killed at random moments, until they are done.

Run ``python -m benchmarks.job_crash --kills 300``. Each run makes 120 images by jobs of 25, or
those of the prompts in a ``--tsv`` by jobs of 200, in a process of its own, against a FakeGemini in
this one that loses answers, shuffles results, fails 3 % of the rows, and lets a job fail and
another expire. The prompts share an input image; the queue has no room for a whole job, and names
results late. The process is killed (SIGKILL) and started again until it comes to its end; then the
next begins in a new directory. asyncio and trio run in turn.

Counted are prompts that were paid twice, though the row of none fails after its image is made; ones
that have no image at the end; rows or files that are there twice, and what verify finds wrong.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import multiprocessing
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from genbatch import GeminiClient, Prompt, batch_api
from genbatch._store._reports import export, status, verify
from genbatch.testing import Call, FakeGemini, Fault, Job, JobFault, reset

PROMPTS = [f"a fox, number {number}" for number in range(120)]
JOB_LATENCY = 0.15  # seconds
REFERENCE = b"\x89PNG\r\n\x1a\n" + bytes(20_000)
TOKENS = 1_130  # of a prompt with the reference, at least
LONGEST = 0.5  # seconds from a process's begin to its kill
MODULES = ["google.genai", "trio", "genbatch.batch_api", "genbatch.batch_api._service"]
_LOST = [Fault(status=500, late=True), reset(), Fault(truncate=20), Fault(status=503)]


@dataclass
class Tally:
    """What has come of all runs so far."""

    kills: int = 0
    runs: int = 0
    jobs: int = 0
    images: int = 0
    paid: int = 0
    twice: int = 0
    lost: int = 0
    problems: int = 0

    @property
    def clean(self) -> bool:
        """Whether all that is promised held."""
        return not (self.twice or self.lost or self.problems)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.runs} runs, {self.jobs} jobs, {self.images} images, "
            f"{self.paid} paid, twice/lost/problems = {self.twice}/{self.lost}/{self.problems}"
        )


def run(url: str, directory: str, backend: str, prompts: list[str]) -> None:
    """Make the images of one run."""
    logging.disable()
    anyio.run(_run, url, directory, prompts, backend=backend)


async def _run(url: str, directory: str, prompts: list[str]) -> None:
    batch_api._queue._LINGER = 0.05
    batch_api._job._FEWEST_TOKENS = TOKENS
    shared = [Prompt(text, images=(REFERENCE,)) for text in prompts]
    size = max(25, len(prompts) // 8)
    async with (
        GeminiClient("a-key", base_url=url) as client,
        batch_api.generate_images(
            client, shared, save_dir=directory, job_size=size, poll=0.2
        ) as outcomes,
    ):
        async for _ in outcomes:
            pass


class Service:
    """What goes wrong at the service, and which jobs could still have brought which prompts."""

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose

    def job_fault(self, job: Job) -> JobFault:
        """Let one job fail and one expire halfway; shuffle the results of all, and be late."""
        state: Any = {2: "FAILED", 4: "EXPIRED"}.get(job.number, "SUCCEEDED")
        after = 0.5 if state == "EXPIRED" else None
        return JobFault(state=state, after=after, shuffle=True, late_output=job.number % 3)

    def row_fault(self, call: Call) -> Fault | None:
        """Let 3 % of the rows go wrong."""
        return Fault(status=503) if self._choose.random() < 0.03 else None

    def control_fault(self, call: object) -> Fault | None:
        """Lose some answers about jobs."""
        return self._choose.choice(_LOST) if self._choose.random() < 0.05 else None


async def kill_until_done(
    backend: str, prompts: list[str], kills: int, choose: random.Random, tally: Tally
) -> None:
    """Kill a run at most so many times until all images are there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    service = Service(choose)
    many = 1 if prompts is PROMPTS else 3  # times as long, as there are more to plan
    made: Counter[str] = Counter()

    def row_fault(call: Call) -> Fault | None:
        fault = service.row_fault(call)
        if fault is None:
            made[call.prompt] += 1
        return fault

    with tempfile.TemporaryDirectory() as directory:
        async with FakeGemini(
            image_size=4,
            job_latency=JOB_LATENCY,
            job_tokens=max(20, len(prompts) // 10) * TOKENS,
            faults=row_fault,
            job_faults=service.job_fault,
            control_faults=service.control_fault,
        ) as fake:
            killed = 0
            for _ in range(10 * kills + 20):
                process = context.Process(target=run, args=(fake.url, directory, backend, prompts))
                delay = choose.uniform(0, LONGEST * many) if killed < kills else None
                await anyio.to_thread.run_sync(process.start)
                await anyio.to_thread.run_sync(process.join, delay)
                if process.is_alive():
                    process.kill()
                    await anyio.to_thread.run_sync(process.join)
                    killed += 1
                elif process.exitcode:
                    tally.problems += 1
                elif await anyio.to_thread.run_sync(_is_done, Path(directory), len(prompts)):
                    break
            check = partial(_check, Path(directory), prompts, fake, made, tally)
            await anyio.to_thread.run_sync(check)
            tally.kills += killed


def _is_done(directory: Path, count: int) -> bool:
    return status(directory).done == count


def _check(
    directory: Path, prompts: list[str], fake: FakeGemini, made: Counter[str], tally: Tally
) -> None:
    """Compare a directory with what the service made, and count."""
    rows = [row for row in export(directory, all=True) if row["status"] == "done"]
    for problem in (problems := [*verify(directory)]):
        print(problem, file=sys.stderr)
    tally.runs += 1
    tally.jobs += fake.stats.jobs
    tally.images += len(rows)
    tally.paid += fake.stats.images
    tally.twice += (made - Counter(prompts)).total()
    tally.lost += len(prompts) - len({row["key"] for row in rows})
    tally.problems += len(problems) + (len(rows) - len({row["file"] for row in rows}))


async def hunt(prompts: list[str], kills: int, seed: int) -> Tally:
    """Kill so many times, asyncio and trio in turn."""
    tally, choose = Tally(), random.Random(seed)
    for backend in itertools.cycle(["asyncio", "trio"]):
        most = min(15 if prompts is PROMPTS else 30, kills - tally.kills)
        await kill_until_done(backend, prompts, most, choose, tally)
        print(f"{backend}: {tally}", file=sys.stderr)
        if tally.kills >= kills:
            return tally
    raise AssertionError


def main() -> None:
    """Hunt as the command line says; exit 1 if anything was paid twice, lost or left over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job_crash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--tsv", type=Path, default=None, help="with a field named Prompt")
    options = parser.parse_args()
    prompts = PROMPTS
    if options.tsv is not None:
        with options.tsv.open(encoding="utf-8", newline="") as file:
            prompts = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t")]
    seed = random.randrange(10**9) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    tally = anyio.run(hunt, prompts, options.kills, seed)
    print(tally)
    sys.exit(not tally.clean)


if __name__ == "__main__":
    main()
