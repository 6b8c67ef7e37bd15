"""Measure what an image costs on the wire: ``python -m benchmarks.wire [--quick]``.

In processor time of this process alone; the server is another one. The first tables are of plain
HTTP on asyncio, the last compares the two clients of httpx over TLS, and on trio.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, thread_time
from typing import Any

import anyio
import anyio.lowlevel

import genbatch

from . import wire_report
from .machine import facts
from .measures import progress
from .wire_certificate import write_certificate
from .wire_clients import CLIENTS, Call
from .wire_server import serving

Cell = dict[str, Any]
HERE = Path(__file__).parent
SIZES = (250_000, 1_500_000, 6_000_000)
SMALL, DELAY = 15_000, 0.05  # bytes of an image whose body is 20 KB, and seconds
PACKAGES = ("google-genai", "httpx", "aiohttp", "orjson", "pybase64", "pydantic-core")


@asynccontextmanager
async def opened(url: str, k: int, names: tuple[str, ...]) -> AsyncIterator[dict[str, Call]]:
    """Open a client of each kind; one whose packages are missing is left out."""
    async with AsyncExitStack() as stack:
        calls: dict[str, Call] = {}
        for name in names:
            try:
                calls[name] = await stack.enter_async_context(CLIENTS[name](url, k))
            except ImportError as exc:
                progress(f"{name}: left out, {exc.name} is not installed")
        yield calls


async def images(
    url: str,
    quick: bool,
    names: tuple[str, ...] = tuple(CLIENTS),
    sizes: tuple[int, ...] = SIZES,
    base: str = "floor",
) -> list[Cell]:
    """Milliseconds of processor time for an image, one after the other; rounds interleaved."""
    cells: list[Cell] = []
    rounds = 15 if quick else 60
    async with opened(url, 10, names) as calls:
        for size in sizes:
            taken: dict[str, list[float]] = {name: [] for name in calls}
            for made in range(rounds + 3):
                for name, call in calls.items():
                    began = process_time()
                    image = await call(size, 0)
                    spent = process_time() - began
                    assert len(image) == size
                    if made >= 3:  # the first connect, and fill caches
                        taken[name].append(spent)
            least = median(taken[base])
            cells += [
                {"client": name, "size": size, "ms": round(median(times) * 1e3, 3),
                 "ratio": round(median(times) / least, 2)}
                for name, times in taken.items()
            ]  # fmt: skip
            progress(f"images of {size} bytes: done")
    return cells


async def calls_at_once(
    url: str,
    quick: bool,
    names: tuple[str, ...] = ("genbatch", "httpx, json, base64", "SDK + httpx"),
    widths: tuple[int, ...] = (10, 100, 500, 1000),
) -> list[Cell]:
    """Milliseconds of processor time for a small call, k at once over connections that are open."""
    cells: list[Cell] = []
    for name in names:
        first = 0.0
        for k in widths:
            if quick and k > 100 and name != "genbatch":
                cells.append({"client": name, "k": k, "note": "left out: quick"})
                continue
            async with opened(url, k, (name,)) as found:
                call = found[name]
                await _wave(call, k, k)
                waves = [await _wave(call, max(2 * k, 500), k) for _ in range(1 if quick else 3)]
            spent = median(waves)
            first = first or spent
            ratio = round(spent / first, 2)
            cells.append({"client": name, "k": k, "ms": round(spent, 3), "ratio": ratio})
        progress(f"calls at once, {name}: done")
    return cells


async def _wave(call: Call, n: int, k: int) -> float:
    gc.collect()
    began = process_time()
    outcomes = await genbatch.collect(lambda _: call(SMALL, DELAY), range(n), max_concurrent=k)
    spent = process_time() - began
    for outcome in outcomes:
        outcome.unwrap()
    return spent / n * 1e3


async def stall(url: str, quick: bool, names: tuple[str, ...] = tuple(CLIENTS)[1:]) -> list[Cell]:
    """Longest time between two turns of another task while eight images of 6 MB arrive at once."""
    cells: list[Cell] = []
    for name in names:
        async with opened(url, 8, (name,)) as found:
            if not found:
                continue
            worst = [await _longest_gaps(found[name]) for _ in range(6 if quick else 21)][1:]
        wall, busy = (median(gaps) for gaps in zip(*worst, strict=True))
        cells.append({"client": name, "ms": round(wall, 2), "busy_ms": round(busy, 2)})
    progress("stall: done")
    return cells


async def _longest_gaps(call: Call) -> tuple[float, float]:
    """Return the longest gap, on the clock and in processor time, in milliseconds."""
    gaps: list[tuple[float, float]] = []

    async def beat() -> None:
        while True:
            before = perf_counter(), thread_time()
            await anyio.lowlevel.checkpoint()
            gaps.append((perf_counter() - before[0], thread_time() - before[1]))

    gc.collect()
    async with anyio.create_task_group() as heart:
        heart.start_soon(beat)
        async with anyio.create_task_group() as calls:
            for _ in range(8):
                calls.start_soon(call, SIZES[-1], 0.1)
        heart.cancel_scope.cancel()
    return max(gap for gap, _ in gaps) * 1e3, max(busy for _, busy in gaps) * 1e3


async def clients(url: str, quick: bool) -> list[Cell]:
    """Milliseconds of processor time for a small call, over one client and over one for each."""
    cells: list[Cell] = []
    n = 20 if quick else 100
    for name in ("genbatch", "SDK", "SDK + httpx"):
        async with opened(url, 1, (name,)) as found:
            await found[name](SMALL, 0)
            began = process_time()
            for _ in range(n):
                await found[name](SMALL, 0)
            shared = (process_time() - began) / n * 1e3
        began = process_time()
        for _ in range(n):
            async with opened(url, 1, (name,)) as found:
                await found[name](SMALL, 0)
        each = (process_time() - began) / n * 1e3
        cells.append({"client": name, "shared_ms": round(shared, 3), "each_ms": round(each, 3),
                      "ratio": round(each / shared, 1)})  # fmt: skip
    progress("one client or one for each prompt: done")
    return cells


async def beside_httpx(url: str, quick: bool) -> Cell:
    """The three goals in one run: genbatch beside the SDK over httpx."""
    names = ("genbatch", "SDK + httpx")
    ours, theirs = await images(url, quick, names, SIZES[1:2], names[1])
    few, many = await calls_at_once(url, quick, names[:1], (10, 1000))
    stalls = await stall(url, quick, names)
    ratio = round(stalls[0]["busy_ms"] / stalls[1]["busy_ms"], 2)
    return {
        "image": [ours["ratio"], ours["ms"], theirs["ms"]],
        "calls": [many["ratio"], many["ms"], few["ms"]],
        "stall": [ratio, stalls[0]["busy_ms"], stalls[1]["busy_ms"]],
    }


MEASURES: dict[str, Callable[[str, bool], Any]] = {
    "images": images,
    "calls": calls_at_once,
    "stall": stall,
    "clients": clients,
}


def main() -> None:
    """Take all measures, print the tables, and write them where they belong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a subset, within a minute")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="else benchmarks/results and docs")  # fmt: skip
    parser.add_argument("--only", action="append", choices=[*MEASURES, "goals"],
                        help="take this measure, and print what it finds")  # fmt: skip
    options = parser.parse_args()

    machine = facts()
    machine["packages"] = {name: _version(name) for name in ("genbatch", "anyio", *PACKAGES)}
    result: dict[str, Any] = {"measure": "wire", "quick": options.quick, "machine": machine}
    with serving() as port:
        url = f"http://127.0.0.1:{port}"
        for name, measure in MEASURES.items():
            if not options.only or name in options.only:
                result[name] = anyio.run(measure, url, options.quick)
    if not options.only or "goals" in options.only:
        result["goals"] = goals(options.quick)

    if options.only:
        print(json.dumps({name: result[name] for name in options.only}, indent=1))
        return
    output = options.output or HERE / "results"
    output.mkdir(parents=True, exist_ok=True)
    (output / "wire.json").write_text(json.dumps(result, indent=1) + "\n")
    print(wire_report.markdown(result, absolute=True))
    if options.output is None:
        wire_report.embed(result, HERE.parent / "docs" / "wire.md")


def goals(quick: bool) -> list[Cell]:
    """Compare genbatch with the SDK over httpx, in plain and over TLS, on asyncio and trio."""
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder, "certificate.pem")
        write_certificate(certificate)
        os.environ["SSL_CERT_FILE"] = str(certificate)
        for scheme, backend in product(("http", "https"), ("asyncio", "trio")):
            with serving(certificate if scheme == "https" else None) as port:
                measure = partial(beside_httpx, f"{scheme}://127.0.0.1:{port}", quick)
                found = anyio.run(measure, backend=backend)
            cells.append({"scheme": scheme, "backend": backend, **found})
            progress(f"{scheme} on {backend}: done")
        del os.environ["SSL_CERT_FILE"]
    return cells


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    main()
