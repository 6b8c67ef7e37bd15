"""generate_images, jobs and cancel: what the batch API is to its users."""

from __future__ import annotations

import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, Unpack

from anyio import to_thread

from genbatch._core import OutcomeStream, T, Workers, open_stream
from genbatch._money import Budget
from genbatch._run import GenerateOnce, PaidCalls, defaults_of, inside
from genbatch._store import Batch, Store
from genbatch._values import ImageSettings, Prompt, SavedImage, takes_settings
from genbatch.gemini import GeminiClient

from ._by_job import ByJob
from ._job import Limits
from ._journal import jobs_in
from ._opening import open_batches
from ._queue import Queue

PT = TypeVar("PT", bound=str | Prompt)

# The service's own limit is 2 GB a file: half of it leaves room for what it counts otherwise.
_MOST_BYTES = 1_000_000_000
_LINGER = 1.0  # seconds


@takes_settings
def generate_images(
    client: GeminiClient,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: str | os.PathLike[str] | None = None,
    store: Store | None = None,
    live: bool = False,
    max_concurrent: int = 5,
    window: int = 10_000,
    job_size: int = 10_000,
    poll: float = 60.0,
    watch: Callable[[str], object] | None = None,
    ordered: bool = False,
    fail_fast: bool = False,
    namespace: str = "",
    budget: Budget | None = None,
    price: float | None = None,
    **settings: Unpack[ImageSettings],
) -> AbstractAsyncContextManager[OutcomeStream[PT, SavedImage]]:
    """Generate an image for each prompt by jobs, save it, and stream the outcomes.

    Args:
        client: An open GeminiClient, not of Vertex.
        prompts: Strings or Prompts, pulled lazily; see stream.
        save_dir: Directory to save the images in, created if missing.
        store: An open Store to save them in, instead of save_dir.
        live: Whether to make with live calls, at their price, what jobs have not made though they
            might have: of jobs that failed or expired, and of requests that may pass another time.
        max_concurrent: Most live calls in flight, at least 1.
        window: Most prompts in jobs at once, at least 1; memory grows with it, by some kilobytes a
            prompt.
        job_size: Most prompts in one job, at least 1.
        poll: Most seconds between two looks at a job; the first pauses are shorter.
        watch: Called with a line such as ``"2 jobs: 1 running, 1 pending"`` whenever it changes.
        ordered: Hand outcomes over in input order.
        fail_fast: Stop at the first failure.
        namespace: Images of one namespace are never taken for those of another.
        budget: What the requests are paid from. What jobs of earlier runs may still cost is
            counted in it as possibly spent.
        price: US dollars an image that is made live, in place of the price table's; a job is half
            of that.
        settings: See ImageSettings.

    Yields:
        A receive stream of outcomes, their value a SavedImage whose file is on disk, durable.

    Raises:
        ValueError: If client calls Vertex, whose jobs go through buckets, neither or both of
            save_dir and store are given, a number is out of range, or as
            genbatch.generate_images.
        TypeError: As genbatch.generate_images.
        StoreError: On entering, if save_dir cannot be used; see Store.
        RuntimeError: On entering, if another batch by jobs is at work in the store.

    Resuming: As genbatch.generate_images. A prompt that is in a job already waits for that, whoever
    submitted it; where the job is gone, or has brought nothing for it, it fails, and a further run
    asks for it anew.

    Stopping: Draining and leaving drop the prompts that wait, and their jobs go on at the service:
    run again to collect them, or cancel them.

    Ordering, backpressure, cancellation, failure: as stream. ``elapsed`` has no time in a job.
    """
    if client.is_vertex:
        raise ValueError("jobs of Vertex go through buckets, which genbatch does not use: run live")
    if (save_dir is None) == (store is None):
        raise ValueError("give save_dir or store: jobs outlive a process, and so must their record")
    for name, number in (("window", window), ("job_size", job_size), ("poll", poll)):
        if not number > 0:
            raise ValueError(f"{name} must be > 0, got {number}")
    if max_concurrent < 1:
        raise ValueError(f"max_concurrent must be >= 1, got {max_concurrent}")
    defaults = defaults_of(settings, budget, price)
    budget = Budget() if budget is None else budget
    place = Store(save_dir) if store is None else store  # type: ignore[arg-type]  # one is given
    limits = Limits(job_size, _MOST_BYTES, _LINGER, poll)
    calls = PaidCalls(client, budget, price)
    queue = Queue(client, place, budget, price, limits, watch)
    by_job = ByJob(calls, queue, max_concurrent if live else 0)
    batch = Batch(place, namespace)
    generate = GenerateOnce(by_job, defaults, place, batch, namespace)
    workers: Workers[PT, SavedImage] = Workers(
        generate, prompts, window, None, fail_fast, numbered=True
    )
    calls.breaker.drop_waiting = workers.drop_waiting
    outcomes = _with(queue, open_stream(workers, ordered))
    return inside(nullcontext() if place is store else place, batch, workers, outcomes)


@asynccontextmanager
async def _with(queue: Queue, outcomes: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    async with queue.running(), outcomes as entered:
        yield entered


@dataclass(frozen=True, slots=True)
class Job:
    """A job, as the journal of a directory has it.

    Attributes:
        label: What the service calls it, as its display name.
        name: The service's name of it, such as ``"batches/x1"``; None while that is unknown.
        model: Full id.
        state: As it was last seen: NEW, PENDING, RUNNING, SUCCEEDED, PARTIALLY_SUCCEEDED, FAILED,
            CANCELLED, EXPIRED, or GONE.
        requests: How many it has.
        open: How many of them have no image: they may still get one, or may have been paid.
        began: When it was submitted.
        ended: When all that it brought was here, None before.
    """

    label: str
    name: str | None
    model: str
    state: str
    requests: int
    open: int
    began: datetime
    ended: datetime | None


def jobs(directory: str | os.PathLike[str]) -> list[Job]:
    """Return the jobs of a directory, oldest first; this reads its journal, which blocks.

    Raises:
        StoreError: If the journal in directory cannot be read; without one there are no jobs.
    """
    return [
        Job(
            label=row.label,
            name=row.name,
            model=row.model,
            state=row.state,
            requests=row.requests,
            open=count,
            began=_time(row.began),
            ended=None if row.ended is None else _time(row.ended),
        )
        for row, count in jobs_in(Path(directory))
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def cancel(
    client: GeminiClient,
    directory: str | os.PathLike[str],
    names: Collection[str] | None = None,
) -> list[Job]:
    """Ask the service to end jobs of a directory; what they have made is collected by a run.

    Args:
        client: An open GeminiClient of the same account.
        directory: That has them; a run may be at work in it.
        names: Their labels or names; None for all that have not ended.

    Returns:
        Those that it was asked to end. One that the service has not named yet is not among them.

    Raises:
        ValueError: If the directory has no such job that has not ended.
        StoreError: If its journal cannot be read.
        GenbatchError: If the service could not be asked.
    """
    found = [job for job in await to_thread.run_sync(jobs, directory) if job.ended is None]
    if names is not None:
        known = {name for job in found for name in (job.label, job.name)}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{os.fspath(directory)} has no job {unknown[0]!r} that goes on")
        found = [job for job in found if job.label in names or job.name in names]
    asked = []
    async with open_batches(client) as batches:
        for job in found:
            if job.name is not None:
                await batches.cancel(job.name)
                asked.append(job)
    return asked
