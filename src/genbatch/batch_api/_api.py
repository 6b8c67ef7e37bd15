"""The public functions generate_images and cancel, and how they open the batch queue."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import anyio
from anyio import to_thread

from genbatch._core import OutcomeStream, T, Workers, open_stream
from genbatch._money import Budget
from genbatch._run import (
    PaidCalls,
    defaults_of,
    generate_once,
    input_of,
    inside,
    of_rows,
    service_of,
)
from genbatch._store import Batch, Store
from genbatch._values import ImageSettings, Prompt, SavedImage, takes_settings
from genbatch.events import OnEvent
from genbatch.gemini import DEFAULT_BASE_URL, GeminiClient

from ._job import JobContext
from ._journal import Job, jobs
from ._queue import Queue

if TYPE_CHECKING:
    import httpx

    from genbatch.gemini.wire import Wire

    from ._service import BatchService

PT = TypeVar("PT", bound=str | Prompt | Mapping[Any, Any])


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
    on_event: OnEvent | None = None,
    prompt_column: str | None = None,
    **settings: Unpack[ImageSettings],
) -> AbstractAsyncContextManager[OutcomeStream[PT, SavedImage]]:
    """Generate an image per prompt with batch jobs, save it, and stream the outcomes.

    Args:
        client: An open GeminiClient, not for Vertex.
        prompts: Strings or Prompts, pulled lazily; see stream.
        save_dir: Directory to save the images in, created if missing.
        store: An open Store to save them in, instead of save_dir.
        live: Whether to retry prompts live, at the live price, if their job failed or expired, or
            their request failed with an error that may pass.
        max_concurrent: Most live calls in flight, at least 1.
        window: Most prompts in jobs at once, at least 1; each takes a few kilobytes of memory.
        job_size: Most prompts in one job, at least 1.
        poll: Most seconds between two polls of a job; the first intervals are shorter.
        watch: Called with a line such as ``"2 jobs: 1 running, 1 pending"`` whenever it changes.
        ordered: Hand outcomes over in input order.
        fail_fast: Stop at the first failure.
        namespace: Equal prompts in different namespaces are different images.
        budget: Pays for the requests. What jobs of earlier runs may still cost counts as possibly
            spent.
        price: US dollars per live image, overriding the price table; in a job, half of it.
        on_event: As for genbatch.generate_images. The attempt of a request in a job begins when the
            request is added and ends with the job's results.
        prompt_column: As for genbatch.generate_images.
        settings: See ImageSettings.

    Yields:
        A receive stream of outcomes; each value is a SavedImage, durable on disk.

    Raises:
        ValueError: If client calls Vertex, whose jobs go through buckets, neither or both of
            save_dir and store are given, a number is out of range, or as
            genbatch.generate_images.
        TypeError: As genbatch.generate_images.
        StoreError: On entering, if save_dir cannot be used; see Store.
        RuntimeError: On entering, if another batch with jobs is running in the store.

    Resuming: As genbatch.generate_images. A prompt that is already in a job waits for that job,
    whichever run submitted it. If the job is gone, or has no result for the prompt, the prompt
    fails, and the next run submits it again. If its results are late, it fails as Unavailable, and
    the next run waits for them again.

    Stopping: Draining and leaving drop the prompts that are waiting; their jobs continue at the
    service. Run again to collect them, or cancel them.

    Ordering, backpressure, cancellation, failure: as stream. ``elapsed`` excludes time in jobs.
    """
    service = service_of(client, namespace, prompt_column)
    if client.is_vertex:
        raise ValueError(
            "on Vertex, batch jobs use Cloud Storage buckets, which genbatch does not support: "
            "make live calls instead"
        )
    if (save_dir is None) == (store is None):
        raise ValueError("give save_dir or store: jobs outlive the process, so they are recorded")
    for name, number in (("window", window), ("job_size", job_size), ("poll", poll)):
        if not number > 0:
            raise ValueError(f"{name} must be > 0, got {number}")
    if max_concurrent < 1:
        raise ValueError(f"max_concurrent must be >= 1, got {max_concurrent}")
    defaults = defaults_of(service, settings, budget, price)
    place = Store(save_dir) if store is None else store  # type: ignore[arg-type]  # one is given
    calls = PaidCalls(service, Budget() if budget is None else budget, price, on_event)
    context = JobContext(place, calls, poll, watch)
    queue = Queue(context, job_size=job_size, live=max_concurrent if live else 0)
    batch = Batch(place, namespace, input_of(service, prompts, defaults, prompt_column))
    generate = generate_once(queue, defaults, place, batch, namespace)
    workers: Workers[PT, SavedImage] = Workers(
        of_rows(generate, prompts, prompt_column), prompts, window, None, fail_fast, numbered=True
    )
    calls.breaker.drop_waiting = workers.drop_waiting
    outcomes = _with(client, queue, open_stream(workers, ordered))
    return inside(nullcontext() if place is store else place, batch, workers, outcomes)


@asynccontextmanager
async def _with(
    client: GeminiClient, queue: Queue, outcomes: AbstractAsyncContextManager[T]
) -> AsyncGenerator[T]:
    async with open_service(client) as service, queue.running(service), outcomes as entered:
        yield entered


async def cancel(
    client: GeminiClient, directory: str | os.PathLike[str], names: Collection[str] | None = None
) -> list[Job]:
    """Ask the service to cancel jobs of a directory; the next run collects their results.

    Args:
        client: An open GeminiClient of the same account.
        directory: Their directory; a run may be using it.
        names: Their labels or names; None for all running jobs.

    Returns:
        The jobs it was asked to cancel; those without a name at the service are skipped.

    Raises:
        ValueError: If the directory has no such running job.
        StoreError: If its journal cannot be read.
        GenbatchError: If the request to the service fails.
    """
    found = [job for job in await to_thread.run_sync(jobs, directory) if job.ended is None]
    if names is not None:
        known = {name for job in found for name in (job.label, job.name)}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{os.fspath(directory)} has no running job {unknown[0]!r}")
        found = [job for job in found if job.label in names or job.name in names]
    asked = []
    async with open_service(client) as service:
        for job in found:
            if job.name is not None:
                await service.cancel(job.name)
                asked.append(job)
    return asked


@asynccontextmanager
async def open_service(client: GeminiClient) -> AsyncGenerator[BatchService]:
    """Open the batch queue on an open client's account; slow imports run in a thread.

    Raises:
        RuntimeError: If the client is not open.
        ValueError: If the environment's proxy cannot be used.
    """
    wire = client._opened()
    service, owned = await to_thread.run_sync(_open, client, wire, limiter=client._threads)
    try:
        yield service
    finally:
        if owned is not None:
            with anyio.CancelScope(shield=True):
                await owned.aclose()


def _open(client: GeminiClient, wire: Wire) -> tuple[BatchService, httpx.AsyncClient | None]:
    import httpx

    from ._service import BatchService

    if wire.stack is None:
        assert client._http_client is not None  # noqa: S101 - narrows the type
        return BatchService(client, client._http_client), None
    # One of our own: the client's reads an answer whole, and results may be gigabytes.
    owned = httpx.AsyncClient(
        verify=wire.stack.certificates,
        proxy=wire.stack.proxy_for(httpx.URL(client._base_url or DEFAULT_BASE_URL)),
        follow_redirects=False,
        trust_env=False,
    )
    return BatchService(client, owned), owned
