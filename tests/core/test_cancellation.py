"""Batches are never short, and a cancelled one starts no further call."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
import trio
from anyio import CancelScope, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Outcome, OutcomeStream, Success, collect, stream
from support import virtual
from support.backends import only_asyncio, only_trio

pytestmark = pytest.mark.anyio
setting: ContextVar[int] = ContextVar("setting")

Run = Callable[..., Awaitable[list[Outcome[int, int]]]]


async def by_stream(generate: Any, prompts: Any, **options: Any) -> list[Outcome[int, int]]:
    async with stream(generate, prompts, ordered=True, **options) as outcomes:
        return [outcome async for outcome in outcomes]


both_ways = pytest.mark.parametrize("run", [collect, by_stream])


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# Calls that leave a native cancellation behind


@only_asyncio
@both_ways
@pytest.mark.parametrize("size", [4, 1000])
async def test_a_call_that_cancels_its_own_task_and_returns_is_a_success(
    run: Run, size: int
) -> None:
    async def generate(prompt: int) -> int:
        setting.set(prompt)
        await asyncio.sleep(0)
        if prompt == 3:
            current_task().cancel()
        return prompt

    assert await run(generate, range(size)) == [Success(n, n, n) for n in range(size)]


@only_asyncio
@both_ways
async def test_a_cancellation_that_comes_out_of_a_call_is_its_failure_alone(run: Run) -> None:
    async def generate(prompt: int) -> int:
        setting.set(prompt)
        if prompt % 3 == 2:
            current_task().cancel()
        await asyncio.sleep(0)
        return prompt

    outcomes = await run(generate, range(30), max_concurrent=2)
    for index, outcome in enumerate(outcomes):
        if index % 3 == 2:
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.error.__cause__, asyncio.CancelledError)
        else:
            assert outcome == Success(index, index, index)
    assert len(outcomes) == 30


@only_asyncio
@both_ways
@pytest.mark.parametrize("catches", [True, False])
async def test_a_task_group_whose_child_fails_at_once_disturbs_no_other_call(
    run: Run, catches: bool
) -> None:
    async def fail() -> None:
        raise KeyError

    async def generate(prompt: int) -> int:
        if prompt % 4 == 1:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
            except* KeyError:
                if not catches:
                    raise
            return (
                prompt  # before Python 3.13 its task may be left to be cancelled at its next await
            )
        await asyncio.sleep(0)
        return prompt

    outcomes = await run(generate, range(40), max_concurrent=2)
    assert [outcome.index for outcome in outcomes] == list(range(40))
    for outcome in outcomes:
        if outcome.index % 4 == 1 and not catches:
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.error, ExceptionGroup)
        else:
            assert outcome == Success(outcome.index, outcome.index, outcome.index)


@only_asyncio
@both_ways
async def test_a_call_does_not_hear_of_a_cancellation_that_an_earlier_one_has_swallowed(
    run: Run,
) -> None:
    async def generate(prompt: int) -> int:
        if prompt % 2 == 0:
            current_task().cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                return prompt
        assert current_task().cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        return prompt

    outcomes = await run(generate, range(10), max_concurrent=1)
    assert outcomes == [Success(n, n, n) for n in range(10)]


# Tasks of the batch that somebody cancels


@only_asyncio
@both_ways
async def test_a_watchdog_that_cancels_the_tasks_of_calls_fails_these_calls_alone(run: Run) -> None:
    host, tasks_of_calls = current_task(), set[asyncio.Task[Any]]()
    pick = 0

    async def generate(prompt: int) -> int:
        nonlocal pick
        setting.set(prompt)
        await asyncio.sleep(0)
        if prompt % 7 == 6:
            tasks = sorted(tasks_of_calls, key=id)
            pick += 1
            tasks[pick % len(tasks)].cancel()
        tasks_of_calls.add(current_task())
        await asyncio.sleep(0)
        return prompt

    outcomes = await run(generate, range(2000), max_concurrent=5)
    assert host.cancelling() == 0
    assert [outcome.index for outcome in outcomes] == list(range(2000))
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert all(isinstance(each.error.__cause__, asyncio.CancelledError) for each in failed)
    assert len(failed) <= pick
    assert all(each.unwrap() == each.index for each in outcomes if isinstance(each, Success))


def cancel_all_others(*, but: set[asyncio.Task[Any]], name: str = "") -> None:
    for task in asyncio.all_tasks() - but - {current_task()}:
        if task.get_name().endswith(name):
            task.cancel()


never_started = pytest.mark.filterwarnings(
    "ignore:coroutine 'Workers._work' was never awaited", "ignore:Exception ignored in"
)


@only_asyncio
@both_ways
@never_started
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_cut_short_raises(run: Run, asynchronous: bool) -> None:
    before = asyncio.all_tasks()
    called: list[int] = []

    async def prompts() -> AsyncIterator[int]:
        for prompt in range(100):
            await asyncio.sleep(0)
            yield prompt

    async def generate(prompt: int) -> int:
        called.append(prompt)
        if prompt == 0:  # another worker has just been started, and not made its first step
            cancel_all_others(but=before, name="_work")
        await asyncio.sleep(0)
        return prompt

    source: Any = prompts() if asynchronous else range(100)
    with pytest.raises(RuntimeError, match=r"cut short after (1 outcome|[0234] outcomes):"):
        await run(generate, source)
    assert len(called) < 10
    gc.collect()


@only_asyncio
@never_started
@pytest.mark.parametrize("steps", range(5))
async def test_cancelling_the_tasks_of_a_batch_that_begins_is_no_clean_end(steps: int) -> None:
    """Among them the one that runs the others, before and after its own first step."""
    before = asyncio.all_tasks()
    seen: list[Outcome[int, int]] = []

    async def generate(prompt: int) -> int:
        return prompt

    async def strike() -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        cancel_all_others(but=before)

    async def batch() -> None:
        async with stream(generate, range(20)) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome)
                await asyncio.sleep(0)

    striker = asyncio.ensure_future(strike())
    before.add(striker)
    try:
        await batch()
    except RuntimeError as exc:
        assert "cut short" in str(exc)  # noqa: PT017 - or it has not struck anything
    else:
        assert len(seen) == 20
    await striker
    gc.collect()


@only_asyncio
@never_started
async def test_a_batch_cut_short_raises_at_the_exit_if_nobody_reads() -> None:
    before = asyncio.all_tasks()

    async def generate(prompt: int) -> int:
        cancel_all_others(but=before)
        await asyncio.sleep(0)
        return prompt

    with pytest.raises(RuntimeError, match="cut short"):
        async with stream(generate, range(100)):
            await wait_all_tasks_blocked()
    gc.collect()


@only_asyncio
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_cancelling_every_task_of_a_batch_at_work_loses_no_outcome(
    asynchronous: bool,
) -> None:
    """Each of its tasks waits then: workers in calls, a feeder, and the one that runs them."""
    before = asyncio.all_tasks()
    called: list[int] = []

    async def prompts() -> AsyncIterator[int]:
        for prompt in range(20):
            await asyncio.sleep(0)
            yield prompt

    async def generate(prompt: int) -> int:
        called.append(prompt)
        for _ in range(5):
            await asyncio.sleep(0)
        return prompt

    source: Any = prompts() if asynchronous else range(20)
    seen: list[Outcome[int, int]] = []
    async with stream(generate, source, max_concurrent=3) as outcomes:
        seen += [await outcomes.receive(), await outcomes.receive()]
        cancel_all_others(but=before)
        try:
            async for outcome in outcomes:
                seen.append(outcome)
        except RuntimeError:  # the cancellation of the feeder, out of the source
            assert asynchronous
    assert sorted(outcome.index for outcome in seen) == sorted(called)
    assert asynchronous or len(seen) == 20


# A cancelled batch starts no further call


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@both_ways
@pytest.mark.parametrize("way", ["shields", "swallows"])
def test_a_deadline_ends_the_calls_of_a_batch_that_resist_it(
    backend: str, run: Run, way: str
) -> None:
    calls: list[int] = []

    async def generate(prompt: int) -> int:
        calls.append(prompt)
        with CancelScope(shield=way == "shields"):
            try:
                await anyio.sleep(0.01)
            except anyio.get_cancelled_exc_class():
                return prompt
        return prompt

    async def main() -> bool:
        with anyio.move_on_after(0.1) as scope:
            await run(generate, range(1000), max_concurrent=5)
        return scope.cancelled_caught

    assert virtual.run(backend, main)
    # A worker that hears of it before the batch does may start one more call, which is cancelled.
    assert len(calls) <= 50 + 2 * 5


@only_asyncio
@both_ways
async def test_cancelling_the_callers_task_ends_the_calls_that_shield_themselves(run: Run) -> None:
    calls: list[int] = []

    async def generate(prompt: int) -> int:
        calls.append(prompt)
        if prompt == 20:
            batch.cancel()
        with CancelScope(shield=True):
            await checkpoint()
        return prompt

    batch = asyncio.ensure_future(run(generate, range(1000), max_concurrent=5))
    await asyncio.wait([batch])
    assert batch.cancelled()
    assert len(calls) <= 21 + 2 * 5


async def test_a_cancelled_block_ends_the_calls_before_it_is_left() -> None:
    calls: list[int] = []

    async def generate(prompt: int) -> int:
        calls.append(prompt)
        with CancelScope(shield=True):
            await checkpoint()
        return prompt

    async def read(outcomes: OutcomeStream[int, int]) -> None:
        async for _ in outcomes:
            pass

    with CancelScope() as scope:
        async with create_task_group() as group, stream(generate, range(10**6)) as outcomes:
            group.start_soon(read, outcomes)
            while len(calls) < 50:
                await checkpoint()
            scope.cancel()
            before = len(calls)
            with CancelScope(shield=True):
                for _ in range(100):
                    await checkpoint()
            assert len(calls) <= before + 10


# Ctrl-C on trio


@trio.lowlevel.enable_ki_protection
def interrupt() -> None:
    """Press Ctrl-C where nobody hears of it at once: the main task does, at its next checkpoint."""
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_collect_waits_is_bare() -> None:
    async def generate(prompt: int) -> None:
        interrupt()
        await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(collect, generate, range(3))


def test_ctrl_c_while_a_block_waits_for_its_calls_is_bare() -> None:
    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            interrupt()
            with CancelScope(shield=True):
                await wait_all_tasks_blocked()

    async def main() -> None:
        async with stream(generate, range(1)):
            await wait_all_tasks_blocked()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


# Exits


@only_trio
async def test_an_exit_in_a_nursery_of_the_source_arrives_bare() -> None:
    async def prompts() -> AsyncIterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await collect(by_stream, prompts())


@pytest.mark.parametrize("collecting", [True, False])
async def test_an_exit_of_a_call_is_not_lost_where_the_cleanup_of_the_block_fails(
    collecting: bool,
) -> None:
    async def generate(prompt: int) -> None:
        raise SystemExit(3)

    async def block() -> None:
        if collecting:
            await collect(generate, [1])
            return
        async with stream(generate, [1]):
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("cleanup")

    with pytest.raises(SystemExit) as info:
        await block()
    assert info.value.code == 3
    assert collecting or isinstance(info.value.__context__, ValueError)
