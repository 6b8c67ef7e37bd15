"""How tests make batches by jobs, and look at what the service got and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from anyio import to_thread

from genbatch import Failure, GeminiClient, Outcome, SavedImage, Success, batch_api
from genbatch._store._journal import Spent
from genbatch._store._reports import status
from genbatch.testing import FakeGemini

KEY = "canary-key-0123456789"
POLL = 0.05

Got = list[Outcome[Any, SavedImage]]


def prompts(count: int) -> list[str]:
    return [f"a fox, number {number}" for number in range(count)]


def client_of(fake: FakeGemini, **options: Any) -> GeminiClient:
    return GeminiClient(KEY, base_url=fake.url, **options)


async def run(fake: FakeGemini, directory: Path, wanted: Any, **options: Any) -> Got:
    """Make a batch by jobs and return its outcomes, in the order of the prompts."""
    async with client_of(fake) as client:
        return await run_with(client, directory, wanted, **options)


async def run_with(client: GeminiClient, directory: Path, wanted: Any, **options: Any) -> Got:
    if isinstance(wanted, list):  # one job, at once
        options = {"job_size": max(1, len(wanted))} | options
    options = {"save_dir": directory, "poll": POLL} | options
    async with batch_api.generate_images(client, wanted, **options) as outcomes:
        return sorted([each async for each in outcomes], key=lambda outcome: outcome.index)


def kinds(outcomes: Iterable[Outcome[Any, Any]]) -> dict[str, int]:
    """Return how many outcomes there are of each kind."""
    return dict(
        Counter(
            type(each.error).__name__ if isinstance(each, Failure) else "image" for each in outcomes
        )
    )


def errors(outcomes: Iterable[Outcome[Any, Any]]) -> list[Any]:
    return [each.error for each in outcomes if isinstance(each, Failure)]


def images(outcomes: Iterable[Outcome[Any, SavedImage]]) -> list[SavedImage]:
    return [each.value for each in outcomes if isinstance(each, Success)]


def submitted(fake: FakeGemini) -> Counter[str]:
    """Return how often each key was submitted."""
    return Counter(key for job in fake.jobs for key in job.keys)


async def jobs_in(directory: Path) -> list[batch_api.Job]:
    return await to_thread.run_sync(batch_api.jobs, directory)


async def spent_in(directory: Path) -> Spent:
    return (await to_thread.run_sync(status, directory)).spent


async def check_whole(fake: FakeGemini, directory: Path, count: int) -> None:
    """Check that count prompts were submitted once each, and that all of them stand there."""
    assert set(submitted(fake).values()) == {1}
    assert len(submitted(fake)) == fake.stats.images == count
    assert len(list(directory.glob("*.png"))) == count
    found = await to_thread.run_sync(status, directory)
    assert (found.done, found.to_do) == (count, 0)
    assert (found.spent.images, found.spent.maybe_images) == (count, 0)
    assert all(job.ended and not job.open for job in await jobs_in(directory))


def each_line(
    change: Callable[[int, bytes], Sequence[bytes]],
) -> Callable[[bytes], Sequence[bytes]]:
    """Return an edit of results that is told which line it is, from 0."""
    numbers = iter(range(10**9))
    return lambda line: change(next(numbers), line)
