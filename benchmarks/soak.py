"""The soak: one process that makes images for an hour from a service that goes wrong at random.

Run ``python -m benchmarks.soak --seconds 3600``. Folders of 5,000 images, asyncio and trio in turn,
against a FakeGemini in another process. A tenth of the prompts meets faults: ones that pass (5xx,
resets, short and broken bodies, stalls, rate limits), and ones that last (refusals, blocks, no
image, damage). Which, follows from the prompt alone, so every outcome is known, and its image
carries the prompt that it was made for.

Counted are outcomes that are not what they must be, images that are lost or not of their prompt,
and calls that the journal does not account for. Open descriptors and memory are sampled at every
hundredth outcome: the last quarter may have no more than the second one.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from genbatch import GeminiClient, Success, generate_images
from genbatch._store import export, status, verify
from genbatch.testing import (
    Call,
    FakeGemini,
    Fault,
    bad_base64,
    blocked,
    broken_json,
    filtered,
    no_image,
    not_an_image,
    rate_limited,
    reset,
    short_body,
    stalled,
)

FOLDER = 5_000  # prompts
AT_ONCE = 48
TIMEOUT = 20.0  # seconds, of a call
EVERY = 100  # outcomes between two samples
PASSING: list[Callable[[], Fault]] = [
    lambda: Fault(status=500),
    lambda: Fault(status=503),
    lambda: Fault(status=503, late=True),
    lambda: Fault(body=b""),
    reset,
    lambda: reset(60),
    short_body,
    broken_json,
]
RARE: list[Callable[[], Fault]] = [stalled, lambda: rate_limited(0.05)]
LASTING: list[tuple[Callable[[], Fault], str]] = [
    (lambda: Fault(status=400), "Rejected"),
    (blocked, "Blocked"),
    (filtered, "Blocked"),
    (no_image, "NoImage"),
    (bad_base64, "DamagedImage"),
    (not_an_image, "DamagedImage"),
]


def fate_of(prompt: str) -> tuple[list[Fault], str]:
    """Return the faults that the calls for a prompt meet one after the other, and its outcome."""
    chance = random.Random(prompt)
    faults = [chance.choice(PASSING)() for _ in range(chance.choices((0, 1, 2), (93, 6, 1))[0])]
    if chance.random() < 0.0004:
        faults.append(chance.choice(RARE)())
    if chance.random() < 0.03:
        last, outcome = chance.choice(LASTING)
        return [*faults, last()], outcome
    return faults, "image"


# The service


async def serve() -> None:
    """Serve until standard input ends; tell the URL, and for each line on it what was billed."""
    calls: Counter[str] = Counter()
    billed: Counter[str] = Counter()

    def fault(call: Call) -> Fault:
        faults, _ = fate_of(call.prompt)
        met = faults[calls[call.prompt] :][:1]
        calls[call.prompt] += 1
        if met and (met[0].status or met[0].body is not None or met[0].edit is not None):
            return met[0]

        def edit(answer: dict[str, Any]) -> object:
            part = answer["candidates"][0]["content"]["parts"][-1]["inlineData"]
            part["data"] = base64.b64encode(signed(part["data"], call.prompt)).decode()
            billed[call.prompt.partition(":")[0]] += 1
            return answer

        told = {name: getattr(met[0], name) for name in ("reset", "truncate", "drip") if met}
        return Fault(edit=edit, **told)

    async with FakeGemini(image_size=8, latency=0.02, faults=fault) as fake:
        print(fake.url, flush=True)
        while folder := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
            stats = fake.stats
            print(json.dumps([billed[folder], stats.calls, stats.in_flight]), flush=True)
            calls.clear()


def signed(data: str, prompt: str) -> bytes:
    """Return a PNG with the prompt as a comment."""
    png, text = base64.b64decode(data), b"tEXtprompt\0" + prompt.encode()
    return png[:-12] + _chunk(text) + png[-12:]


def _chunk(named: bytes) -> bytes:
    return (len(named) - 4).to_bytes(4) + named + zlib.crc32(named).to_bytes(4)


# The process that is watched


@dataclass
class Watch:
    """What was seen of this process, and what was wrong."""

    calls: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[tuple[int, float]] = field(default_factory=list)  # descriptors, MB

    def sample(self) -> None:
        """Note the open descriptors and the memory of this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = len(os.listdir("/proc/self/fd"))
        self.samples.append((descriptors, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    def quarter(self, number: int) -> tuple[int, float]:
        """Return the most descriptors and memory in a quarter of the time."""
        size = len(self.samples) // 4
        chosen = self.samples[number * size : (number + 1) * size] or self.samples
        return max(each for each, _ in chosen), max(each for _, each in chosen)

    @property
    def grown(self) -> tuple[int, float]:
        """How much the last quarter has more than the second, which has warmed up."""
        (before, memory), (after, more) = self.quarter(1), self.quarter(3)
        return after - before, more - memory

    def __str__(self) -> str:
        quarters = ", ".join("{} / {:.0f} MB".format(*self.quarter(each)) for each in range(4))
        descriptors, memory = self.grown
        return (
            f"{self.outcomes.total():,} outcomes {dict(self.outcomes)}, {self.calls:,} calls, "
            f"{len(self.wrong)} wrong; most descriptors / memory by quarter: {quarters}; "
            f"grown by {descriptors} / {memory:.1f} MB"
        )


async def make(client_url: str, folder: Path, prompts: list[str], watch: Watch) -> None:
    """Make a folder of images, and compare each outcome."""
    async with (
        GeminiClient("a-key", base_url=client_url, timeout=TIMEOUT) as client,
        generate_images(client, prompts, save_dir=folder, max_concurrent=AT_ONCE) as outcomes,
    ):
        async for outcome in outcomes:
            got = "image" if isinstance(outcome, Success) else type(outcome.error).__name__
            if got != fate_of(outcome.prompt)[1]:
                watch.wrong.append(f"{outcome.prompt}: {outcome!r:.300}")
            watch.outcomes[got] += 1
            if watch.outcomes.total() % EVERY == 0:
                watch.sample()


def check(folder: Path, prompts: list[str], billed: int, watch: Watch) -> None:
    """Compare a folder with what the service has billed."""
    watch.wrong += verify(folder)
    rows = {row["prompt"]: row for row in export(folder)}
    for prompt in prompts:
        file = rows[prompt]["file"]
        if fate_of(prompt)[1] == "image" and not (file and _is_of(prompt, folder / file)):
            watch.wrong.append(f"{prompt}: its image is lost, or another's")
    spent = status(folder).spent
    if billed > spent.images + spent.maybe_images:
        watch.wrong.append(f"{folder.name}: {billed} images were billed, status tells {spent}")


def _is_of(prompt: str, path: Path) -> bool:
    return b"prompt\0" + prompt.encode() in path.read_bytes()


def soak(seconds: float, size: int) -> Watch:
    """Make folders until so many seconds have passed."""
    watch, end = Watch(), time.monotonic() + seconds
    serving = [sys.executable, "-m", "benchmarks.soak", "--serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(serving, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin
        assert server.stdout
        url = server.stdout.readline().strip()
        number = 0
        while time.monotonic() < end:
            prompts = [f"folder {number}: image {each}." for each in range(size)]
            backend = ("asyncio", "trio")[number % 2]
            with tempfile.TemporaryDirectory() as directory:
                folder = Path(directory) / f"folder {number}"
                anyio.run(make, url, folder, prompts, watch, backend=backend)
                print(folder.name, file=server.stdin, flush=True)
                billed, watch.calls, in_flight = json.loads(server.stdout.readline())
                check(folder, prompts, billed, watch)
            if in_flight:
                watch.wrong.append(f"{in_flight} calls go on after {folder.name}")
            number += 1
            print(f"{end - time.monotonic():.0f} s left: {watch}", file=sys.stderr, flush=True)
            print(*watch.wrong[-3:], sep="\n", file=sys.stderr, flush=True)
        server.stdin.close()
    return watch


def main() -> None:
    """Soak; exit 1 if anything was wrong or has grown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--folder", type=int, default=FOLDER, help="prompts in a folder")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return anyio.run(serve)
    watch = soak(options.seconds, options.folder)
    print(watch, *watch.wrong[:20], sep="\n")
    descriptors, memory = watch.grown
    sys.exit(bool(watch.wrong) or descriptors > MORE[0] or memory > MORE[1])


MORE = (8, 16.0)  # descriptors, and MB, that the last quarter may have more than the second


if __name__ == "__main__":
    main()
