"""The contenders: one small function each, all with one signature.

Each is an async context manager made from a call, a sequence of prompts and the most calls at once.
It yields the results: a list if the way it works leaves no choice, else an async iterable. Each is
written as its users would, and where there is a choice, as its fastest form. Each imports its
packages when it is first opened, so that a process that runs one holds no package of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trio

Results = Iterable[Any] | AsyncIterable[Any]
Generate = Callable[[int], Coroutine[Any, Any, int]]
Open = Callable[[Generate, Sequence[int], int], AbstractAsyncContextManager[Results]]


@asynccontextmanager
async def genbatch_stream(
    generate: Generate, prompts: Sequence[int], k: int, **options: bool
) -> AsyncIterator[Results]:
    import genbatch

    async with genbatch.stream(generate, prompts, max_concurrent=k, **options) as outcomes:
        yield outcomes


@asynccontextmanager
async def genbatch_stream_limiter(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """A limiter as an app would share it; nobody else uses it here."""
    import anyio

    import genbatch

    limiter = anyio.CapacityLimiter(k)
    async with genbatch.stream(generate, prompts, max_concurrent=k, limiter=limiter) as outcomes:
        yield outcomes


@asynccontextmanager
async def genbatch_stream_readers(
    generate: Generate, prompts: Sequence[int], k: int, *, readers: int
) -> AsyncIterator[Results]:
    """Tasks that all read from one stream at once."""
    import anyio

    import genbatch

    results: list[Any] = []

    async def read(outcomes: AsyncIterable[Any]) -> None:
        results.extend([outcome async for outcome in outcomes])

    async with (
        genbatch.stream(generate, prompts, max_concurrent=k) as outcomes,
        anyio.create_task_group() as group,
    ):
        for _ in range(readers):
            group.start_soon(read, outcomes)
    yield results


@asynccontextmanager
async def genbatch_collect(
    generate: Generate, prompts: Sequence[int], k: int, **options: bool
) -> AsyncIterator[Results]:
    import genbatch

    yield await genbatch.collect(generate, prompts, max_concurrent=k, **options)


def _with_semaphore(generate: Generate, k: int) -> Generate:
    semaphore = asyncio.Semaphore(k)

    async def call(prompt: int) -> int:
        async with semaphore:
            return await generate(prompt)

    return call


@asynccontextmanager
async def gather_semaphore(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    yield await asyncio.gather(*map(_with_semaphore(generate, k), prompts))


@asynccontextmanager
async def gather_progress(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """gather + Semaphore, where each call counts itself and reports to a callback."""
    call, done = _with_semaphore(generate, k), 0

    async def count(prompt: int) -> int:
        nonlocal done
        value = await call(prompt)
        done += 1
        report(done, len(prompts))
        return value

    def report(done: int, total: int) -> None: ...

    yield await asyncio.gather(*map(count, prompts))


@asynccontextmanager
async def as_completed_semaphore(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    async def results() -> AsyncIterator[int]:
        for earliest in asyncio.as_completed(list(map(_with_semaphore(generate, k), prompts))):
            yield await earliest

    yield results()


@asynccontextmanager
async def tqdm_gather(generate: Generate, prompts: Sequence[int], k: int) -> AsyncIterator[Results]:
    from tqdm.asyncio import tqdm

    # The bar is off: what counts is the scheduling, not the terminal.
    yield await tqdm.gather(*map(_with_semaphore(generate, k), prompts), disable=True)


@asynccontextmanager
async def task_group_queue(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """asyncio.TaskGroup: k workers share an iterator and put results into a bounded Queue."""
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=k)
    pending, end = iter(prompts), object()

    async def work() -> None:
        for prompt in pending:
            await queue.put(await generate(prompt))

    async def put_end(workers: list[asyncio.Task[None]]) -> None:
        await asyncio.wait(workers)
        await queue.put(end)

    async def results() -> AsyncIterator[Any]:
        while (value := await queue.get()) is not end:
            yield value

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(k)]
        tasks = [*workers, group.create_task(put_end(workers))]
        yield results()
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def bare_workers(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """k tasks share an iterator and append to a list: the floor."""
    pending, results = iter(prompts), []

    async def work() -> None:
        for prompt in pending:
            results.append(await generate(prompt))  # noqa: PERF401 - as it completes

    async with asyncio.TaskGroup() as group:
        for _ in range(k):
            group.create_task(work())
    yield results


@dataclass(slots=True)
class _ItemResult:
    index: int
    value: int | None
    error: Exception | None
    seconds: float


@asynccontextmanager
async def filled_queue_workers(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """The shape of async-batch-llm: a Queue of all prompts, k workers, a result each, and join."""
    queue: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
    results: list[_ItemResult] = []
    for item in enumerate(prompts):
        await queue.put(item)

    async def work() -> None:
        while (item := await queue.get()) is not None:
            index, prompt = item
            began = perf_counter()
            value = error = None
            try:
                value = await generate(prompt)
            except Exception as exc:  # noqa: BLE001 - a result says what failed, whatever it was
                error = exc
            results.append(_ItemResult(index, value, error, perf_counter() - began))
            queue.task_done()

    async with asyncio.TaskGroup() as group:
        for _ in range(k):
            group.create_task(work())
        await queue.join()
        for _ in range(k):
            await queue.put(None)
    yield results


def _with_limiter(generate: Generate, k: int) -> Generate:
    import anyio

    limiter = anyio.CapacityLimiter(k)

    async def call(prompt: int) -> int:
        async with limiter:
            return await generate(prompt)

    return call


@asynccontextmanager
async def anyio_amap(generate: Generate, prompts: Sequence[int], k: int) -> AsyncIterator[Results]:
    import anyio

    yield await anyio.amap(_with_limiter(generate, k), prompts)


@asynccontextmanager
async def anyio_as_completed(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    import anyio

    async with anyio.as_completed(*map(_with_limiter(generate, k), prompts)) as handles:
        yield handles  # as they are: unwrapping them would cost more


@asynccontextmanager
async def aiometer_amap(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    import aiometer

    async with aiometer.amap(generate, prompts, max_at_once=k) as results:
        yield results


@asynccontextmanager
async def aiometer_run_all(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    import aiometer

    calls = [partial(generate, prompt) for prompt in prompts]
    yield await aiometer.run_all(calls, max_at_once=k)


@asynccontextmanager
async def aiostream_map(
    generate: Generate, prompts: Sequence[int], k: int, *, ordered: bool = False
) -> AsyncIterator[Results]:
    from aiostream import stream

    source = stream.iterate(prompts)
    async with stream.map(source, generate, ordered=ordered, task_limit=k).stream() as results:
        yield results


@asynccontextmanager
async def streamable_map(
    generate: Generate, prompts: Sequence[int], k: int, *, ordered: bool = False
) -> AsyncIterator[Results]:
    from streamable import stream

    yield stream(prompts).map(generate, concurrency=k, as_completed=not ordered)


@asynccontextmanager
async def tuskpool_as_completed(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    from tuskpool import TaskPool

    async with (
        TaskPool(max_workers=k) as pool,
        aclosing(pool.as_completed(generate, prompts)) as results,  # as its readme stops early
    ):
        yield results


@asynccontextmanager
async def tuskpool_map(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    from tuskpool import TaskPool

    async with TaskPool(max_workers=k) as pool, aclosing(pool.map(generate, prompts)) as results:
        yield results


@asynccontextmanager
async def langchain_abatch(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    from langchain_core.runnables import RunnableLambda

    config = {"max_concurrency": k}
    yield await RunnableLambda(generate).abatch(list(prompts), config)


@asynccontextmanager
async def langchain_as_completed(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    from langchain_core.runnables import RunnableLambda

    config = {"max_concurrency": k}
    yield RunnableLambda(generate).abatch_as_completed(list(prompts), config)


@asynccontextmanager
async def trio_channel_workers(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """Native trio: k workers share an iterator and send results into a bounded memory channel."""
    import trio

    sender, receiver = trio.open_memory_channel[int](k)
    pending = iter(prompts)

    async def work(sender: trio.MemorySendChannel[int]) -> None:
        async with sender:
            for prompt in pending:
                await sender.send(await generate(prompt))

    async with trio.open_nursery() as nursery:
        async with sender:
            for _ in range(k):
                nursery.start_soon(work, sender.clone())
        yield receiver
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def trio_nursery_limiter(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """Native trio: a task a prompt, each behind one CapacityLimiter."""
    import trio

    limiter, results = trio.CapacityLimiter(k), []

    async def call(prompt: int) -> None:
        async with limiter:
            results.append(await generate(prompt))

    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(call, prompt)
    yield results


@asynccontextmanager
async def trio_bare_workers(
    generate: Generate, prompts: Sequence[int], k: int
) -> AsyncIterator[Results]:
    """Native trio: k tasks share an iterator and append to a list: the floor."""
    import trio

    pending, results = iter(prompts), []

    async def work() -> None:
        for prompt in pending:
            results.append(await generate(prompt))  # noqa: PERF401 - as it completes

    async with trio.open_nursery() as nursery:
        for _ in range(k):
            nursery.start_soon(work)
    yield results


async def drain(results: Results) -> None:
    """Read all results, as cheaply as can be."""
    if isinstance(results, AsyncIterable):
        async for _ in results:
            pass
    else:
        for _ in results:
            pass


async def each(results: Results) -> AsyncIterator[Any]:
    """Iterate results, be they a list or asynchronous."""
    if isinstance(results, AsyncIterable):
        async for result in results:
            yield result
    else:
        for result in results:
            yield result
