"""The crash harness: runs that are killed at random moments, again and again, until they are done.

Run ``python -m benchmarks.crash --kills 500``. Each run makes 320 images, 8 at once, in a process
of its own, against a FakeGemini in this one, and is killed (SIGKILL) and started again until it
comes to its end; then the next begins in a new directory. asyncio and trio run side by side.

Counted are images that a run was told are saved and that are lost, rows or files that are there
twice, what verify finds wrong, files left over, and what was paid: at most 8 images more a kill.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from genbatch import Failure, GeminiClient, Success, generate_images
from genbatch._store._reports import export, status, verify
from genbatch.testing import FakeGemini

PROMPTS = 320
AT_ONCE = 8
LATENCY = 0.15  # seconds: a kill every 30 images or so
LONGEST = 1.0  # seconds from a run's begin to its end by a kill
EARLY = 0.1  # of the kills hit a run before it has begun


@dataclass
class Tally:
    """What has come of all runs so far."""

    kills: int = 0
    runs: int = 0
    images: int = 0
    paid: int = 0
    most_extra: float = 0.0
    lost: int = 0
    doubled: int = 0
    problems: int = 0

    @property
    def clean(self) -> bool:
        """Whether all that is promised held."""
        bad = self.lost or self.doubled or self.problems
        return not bad and self.paid - self.images <= AT_ONCE * self.kills

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.runs} runs, {self.images} images, {self.paid} paid "
            f"(at most {self.most_extra:.1f} more a kill in a run), "
            f"lost/doubled/problems = {self.lost}/{self.doubled}/{self.problems}"
        )


async def run(url: str, directory: str) -> None:
    """Make the images of one run, and print a line for each that is seen."""
    prompts = [f"a fox, number {number}" for number in range(PROMPTS)]
    async with (
        GeminiClient("a-key", base_url=url) as client,
        generate_images(client, prompts, save_dir=directory, max_concurrent=AT_ONCE) as outcomes,
    ):
        print("begun", flush=True)
        async for outcome in outcomes:
            match outcome:
                case Success(index, _, image):
                    print(index, image.sha256, flush=True)
                case Failure(index, _, error):
                    print(index, "failed", error, file=sys.stderr)


async def kill_until_done(backend: str, kills: int, choose: random.Random, tally: Tally) -> int:
    """Kill a run at most so many times until it ends by itself, and return how often it was."""
    with tempfile.TemporaryDirectory() as directory:
        async with FakeGemini(latency=LATENCY, image_size=48) as server:
            told: dict[int, str] = {}
            killed = 0
            while await _start(server.url, directory, backend, told, choose, kills - killed):
                killed += 1
            await anyio.to_thread.run_sync(check, Path(directory), told, server, killed, tally)
            return killed


async def _start(
    url: str, directory: str, backend: str, told: dict[int, str], choose: random.Random, kills: int
) -> bool:
    """Run, note what is told, and return whether it was killed."""
    command = [sys.executable, "-m", "benchmarks.crash", "--run", url, directory, backend]
    async with (
        await anyio.open_process(command, stderr=None) as process,
        anyio.create_task_group() as tasks,
    ):
        if kills and choose.random() < EARLY:
            tasks.start_soon(_kill, process, choose.uniform(0, LONGEST))
        async for line in _lines(process):
            if line != "begun":
                index, digest = line.split()
                told[int(index)] = digest
            elif kills:
                tasks.start_soon(_kill, process, choose.uniform(0, LONGEST))
        ended = await process.wait()
        tasks.cancel_scope.cancel()
    if ended not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a run has failed with {ended}")
    return ended != 0


async def _kill(process: Process, delay: float) -> None:
    await anyio.sleep(delay)
    process.kill()


async def _lines(process: Process) -> AsyncIterator[str]:
    """Yield the whole lines that a process has printed."""
    rest = ""
    assert process.stdout is not None
    async for text in TextReceiveStream(process.stdout):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line


def check(
    directory: Path, told: dict[int, str], server: FakeGemini, killed: int, tally: Tally
) -> None:
    """Compare a directory with what was told of it, and count."""
    rows = [row for row in export(directory, all=True) if row["status"] == "done"]
    saved = {row["index"]: row["sha256"] for row in rows}
    left = {path.suffix for path in directory.iterdir()} - {".png", ".jsonl", ""}
    problems = [*verify(directory), *left]
    for problem in problems:
        print(f"after {killed} kills: {problem}", file=sys.stderr)
    extra = server.stats.images - PROMPTS
    tally.runs += 1
    tally.kills += killed
    tally.images += len(saved)
    tally.paid += server.stats.images
    tally.most_extra = max(tally.most_extra, extra / killed if killed else 0.0)
    tally.lost += sum(saved.get(index) != digest for index, digest in told.items())
    tally.lost += PROMPTS - len(saved)
    tally.doubled += len(rows) - len({row["file"] for row in rows})
    tally.doubled += status(directory).spent.images - PROMPTS
    tally.problems += len(problems) + (extra > AT_ONCE * killed)


async def hunt(kills: int, seed: int) -> Tally:
    """Kill so many times, half of them under asyncio and half under trio."""
    tally = Tally()

    async def lane(backend: str, share: int) -> None:
        choose = random.Random(f"{seed} {backend}")
        while share > 0:
            share -= max(1, await kill_until_done(backend, share, choose, tally))
            print(f"{backend}: {tally}", file=sys.stderr)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane, "asyncio", kills - kills // 2)
        tasks.start_soon(lane, "trio", kills // 2)
    return tally


def main() -> None:
    """Hunt as the command line says; exit 1 if anything was lost, doubled or left over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        *arguments, backend = options.run
        anyio.run(run, *arguments, backend=backend)
        return
    seed = random.randrange(10**9) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    tally = anyio.run(hunt, options.kills, seed)
    print(tally)
    sys.exit(not tally.clean)


if __name__ == "__main__":
    main()
