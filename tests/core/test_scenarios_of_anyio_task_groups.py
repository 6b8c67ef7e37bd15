"""The scenarios that anyio tests its task groups and cancel scopes by, on the block of a stream.

From anyio 4.16, tests/test_taskgroups.py; only the scenarios are theirs. The block of a stream
takes the place of a task group, its calls that of the tasks.

What differs, and the promise that makes the difference:

- An error of a task cancels the host: the reader's block is never cancelled by a call, also not
  with fail_fast; promise 6.
- An error of the host arrives in a group, with those of its tasks: it arrives bare and wins over
  what calls in flight raise as they are cancelled; promise 6.
- An exit, such as SystemExit, arrives in a group: bare; promise 6.
- Leaving waits for all tasks: it cancels them; promise 5.
- A task of its own for each, with a name and a parent: a few workers make all calls; promise 3.
- A new task group where an old one cannot be entered again: the same, one stream to a block.

Without a counterpart here:
- start and its status, task handles, names, call graphs: a prompt has an outcome instead.
- Reasons and messages of cancellations; deadlines that are moved; scopes that are left in a wrong
  order or a wrong task: there is no scope of ours to hold.
- Generator-based coroutines: Python 3.11 has none.
- Eager task factories: the backend asyncio+eager runs all of this.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
import trio
from anyio import CancelScope, Event, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Success, collect, stream
from support import virtual
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio
in_virtual_time = pytest.mark.parametrize("backend", virtual.BACKENDS)
user: ContextVar[str] = ContextVar("user", default="nobody")


class Forever:
    """A generate that never returns, and what became of its calls."""

    def __init__(self) -> None:
        self.started: list[object] = []
        self.cancelled: list[object] = []

    async def generate(self, prompt: object) -> None:
        self.started.append(prompt)
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(prompt)
            raise


async def echo(prompt: Any) -> Any:
    return prompt


# Running


async def test_all_calls_run() -> None:
    """anyio: two tasks of a group both do their work."""
    done = set()

    async def generate(prompt: str) -> None:
        done.add(prompt)

    await collect(generate, ["a", "b"])
    assert done == {"a", "b"}


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_a_batch_runs_in_a_loop_that_anyio_has_not_started(
    run: Callable[..., list[Success[int, int]]] | Any,
) -> None:
    """anyio: a task group inside asyncio.run or trio.run."""

    async def main() -> list[Any]:
        return await collect(echo, range(3))

    outcomes = run(main() if run is asyncio.run else main)
    assert [outcome.unwrap() for outcome in outcomes] == [0, 1, 2]


async def test_a_call_may_add_prompts_to_its_own_batch() -> None:
    """anyio: a task that starts more tasks in its own group."""
    send, prompts = anyio.create_memory_object_stream[int](100)

    async def generate(prompt: int) -> int:
        for each in (2 * prompt, 2 * prompt + 1):
            if each < 8:
                send.send_nowait(each)
        return prompt

    seen = []
    send.send_nowait(1)
    async with stream(generate, prompts, max_concurrent=2) as outcomes:
        async for outcome in outcomes:
            seen.append(outcome.unwrap())
            if len(seen) == 7:
                send.close()
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_plain_function_may_return_the_coroutine() -> None:
    """anyio: what is started is called first, and what it returns is awaited in another task."""
    opener = anyio.get_current_task().id
    tasks = set()

    def generate(prompt: int) -> Coroutine[Any, Any, int]:
        tasks.add(anyio.get_current_task().id)

        async def call() -> int:
            tasks.add(anyio.get_current_task().id)
            return prompt

        return call()

    (outcome,) = await collect(generate, [7])
    assert outcome.unwrap() == 7
    assert len(tasks) == 1
    assert opener not in tasks


async def test_a_few_tasks_make_all_calls() -> None:
    """anyio: each task has an identity of its own, which here prompts share."""
    tasks = set()

    async def generate(prompt: int) -> None:
        tasks.add(anyio.get_current_task().id)
        await checkpoint()

    await collect(generate, range(50), max_concurrent=3)
    assert 1 <= len(tasks) <= 3


async def test_each_call_has_a_context_of_its_own() -> None:
    """anyio: a task in a context that is given to it; here a copy of the opener's, always."""
    user.set("ada")

    async def generate(prompt: str) -> str:
        seen = user.get()
        user.set(prompt)
        await checkpoint()
        return seen

    outcomes = await collect(generate, ["b", "c", "d"], max_concurrent=1)
    assert [outcome.unwrap() for outcome in outcomes] == ["ada"] * 3
    assert user.get() == "ada"


async def test_a_block_that_was_left_makes_no_more_calls() -> None:
    """anyio: a group that is closed starts no task, whether it ended well or with an error."""
    calls = Forever()
    for error in (None, ZeroDivisionError()):
        try:
            async with stream(calls.generate, range(9), max_concurrent=1) as outcomes:
                await wait_all_tasks_blocked()
                if error:
                    raise error
        except ZeroDivisionError:
            pass
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
    assert calls.started == calls.cancelled == [0, 0]


async def test_a_stream_is_opened_once() -> None:
    """anyio: a group cannot be entered again."""
    calls = []

    async def generate(prompt: int) -> None:
        calls.append(prompt)

    once = stream(generate, [1])
    async with once as outcomes:
        assert len([outcome async for outcome in outcomes]) == 1
    with pytest.raises((RuntimeError, AttributeError)):  # whichever contextlib raises
        await once.__aenter__()
    assert calls == [1]


# Errors


@pytest.mark.parametrize("fail_fast", [False, True])
async def test_a_call_that_fails_does_not_cancel_the_block(fail_fast: bool) -> None:
    """anyio: a task that fails cancels its host; here the host goes on."""
    error = ValueError("foo")
    is_done = False

    async def generate(prompt: int) -> None:
        raise error

    async def run() -> None:
        nonlocal is_done
        async with stream(generate, [1], fail_fast=fail_fast):
            await wait_all_tasks_blocked()
            await checkpoint()
            is_done = True

    if fail_fast:
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="foo")):
            await run()
    else:
        await run()
    assert is_done


async def test_an_error_of_the_block_cancels_the_calls_and_arrives_bare() -> None:
    """anyio: a host that fails cancels its tasks; here its error is in no group."""
    calls = Forever()
    with pytest.raises(ZeroDivisionError):
        async with stream(calls.generate, range(2)):
            await wait_all_tasks_blocked()
            raise ZeroDivisionError
    assert sorted(calls.cancelled) == [0, 1]  # type: ignore[type-var]


async def test_an_error_of_the_block_before_any_call_makes_none() -> None:
    """anyio: a host that fails before its tasks do anything."""
    calls = Forever()
    with pytest.raises(ZeroDivisionError):
        async with stream(calls.generate, range(2)):
            raise ZeroDivisionError
    assert calls.started == calls.cancelled


@pytest.mark.parametrize("fail_fast", [False, True])
async def test_an_error_of_the_block_wins_over_one_of_a_call_that_it_cancels(
    fail_fast: bool,
) -> None:
    """anyio: host and task both fail, and both errors are in the group; here the host's is all."""

    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("child")

    with pytest.raises(ZeroDivisionError):
        async with stream(generate, [1], fail_fast=fail_fast):
            await wait_all_tasks_blocked()
            raise ZeroDivisionError


async def test_errors_of_several_calls_arrive_in_one_group() -> None:
    """anyio: one task fails at once, another in the cleanup of its cancellation."""

    async def generate(prompt: str) -> None:
        if prompt == "first":
            await wait_all_tasks_blocked()
            raise ValueError(prompt)
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError(prompt)

    with pytest.RaisesGroup(
        pytest.RaisesExc(ValueError, match="first"), pytest.RaisesExc(ValueError, match="second")
    ):
        await collect(generate, ["second", "first"], fail_fast=True)


async def test_a_call_that_fails_cancels_the_others_on_request() -> None:
    """anyio: a task that fails cancels its siblings; here with fail_fast alone."""
    calls = Forever()

    async def generate(prompt: int) -> None:
        if prompt == 1:
            await wait_all_tasks_blocked()
            raise ValueError("foo")
        await calls.generate(prompt)

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="foo")):
        await collect(generate, [0, 1], fail_fast=True)
    assert calls.cancelled == [0]


async def test_an_exit_out_of_a_call_arrives_bare() -> None:
    """anyio: a task that raises SystemExit ends its group."""
    calls = Forever()

    async def generate(prompt: int) -> None:
        if prompt == 1:
            await wait_all_tasks_blocked()
            raise SystemExit(5)
        await calls.generate(prompt)

    with pytest.raises(SystemExit, match="5"):
        async with stream(generate, [0, 1]) as outcomes:
            async for _ in outcomes:
                pass
    assert calls.cancelled == [0]


async def test_an_error_beside_cancellations_is_all_that_leaves_a_cancelled_block() -> None:
    """anyio: cancellations are taken out of a group of errors as it leaves its scope."""
    error = RuntimeError()
    with (
        pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, check=lambda exc: exc is error)),
        CancelScope() as scope,
    ):
        async with stream(Forever().generate, [1]):
            scope.cancel()
            try:
                await checkpoint()
            except anyio.get_cancelled_exc_class() as cancelled:
                raise BaseExceptionGroup("", [error, cancelled]) from None


async def test_a_group_of_nothing_but_cancellations_ends_in_its_scope() -> None:
    """anyio: a cancellation that the host wraps in a group is still a cancellation."""
    with CancelScope() as scope:
        async with stream(Forever().generate, [1]):
            scope.cancel()
            try:
                await checkpoint()
            except anyio.get_cancelled_exc_class() as cancelled:
                raise BaseExceptionGroup("", [cancelled]) from None
    assert scope.cancelled_caught


async def test_an_error_dies_with_its_last_reference() -> None:
    """anyio: a group keeps no reference to the errors of its tasks."""

    class OwnError(Exception):  # one that a weak reference can be made to
        pass

    async def generate(prompt: int) -> None:
        raise OwnError

    gc.collect()
    gc.disable()
    try:
        async with stream(generate, [1]) as outcomes:
            error = weakref.ref((await outcomes.receive()).error)  # type: ignore[union-attr]
            assert error() is None
    finally:
        gc.enable()


# Cancellation


async def cancel_when_idle(scope: CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_a_call_that_is_cancelled_is_cancelled_at_each_checkpoint() -> None:
    """anyio: cancellation is a level; awaiting again in the cleanup is cancelled again."""
    steps = []

    async def generate(prompt: int) -> None:
        for _ in range(3):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                steps.append("cancelled")
        await checkpoint()
        steps.append("not reached")

    async with stream(generate, [1]):
        await wait_all_tasks_blocked()
    assert steps == ["cancelled"] * 3


async def test_a_scope_of_a_call_ends_nothing_but_its_own_part() -> None:
    """anyio: a scope inside a task is cancelled by another one; the group does not notice."""
    scopes = {}

    async def generate(prompt: int) -> str:
        with CancelScope() as scopes[prompt]:
            await anyio.sleep_forever()
        return "cancelled"

    async with stream(generate, [0, 1]) as outcomes:
        await wait_all_tasks_blocked()
        scopes[1].cancel()
        assert await outcomes.receive() == Success(1, 1, "cancelled")
        assert outcomes.progress.in_flight == 1


async def test_cancelling_around_a_batch_reaches_batches_inside_its_calls() -> None:
    """anyio: a cancellation goes down through groups in tasks of groups."""
    calls = Forever()

    async def generate(prompt: int) -> None:
        await collect(calls.generate, range(2))
        raise AssertionError("unreachable")

    async with create_task_group() as group:
        group.start_soon(collect, generate, range(3))
        await cancel_when_idle(group.cancel_scope)
    assert len(calls.started) == len(calls.cancelled) == 6


async def test_a_cancellation_of_the_block_reaches_its_calls() -> None:
    """anyio: a host that is cancelled while it waits for something else."""
    calls = Forever()
    with CancelScope() as scope:
        async with create_task_group() as group, stream(calls.generate, range(2)):
            group.start_soon(cancel_when_idle, scope)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert sorted(calls.cancelled) == [0, 1]  # type: ignore[type-var]


async def test_a_task_may_be_cancelled_in_one_batch_after_another() -> None:
    """anyio: the same task hears of two cancellations, one after the other."""
    calls = Forever()
    for _ in range(2):
        with CancelScope() as scope:
            async with create_task_group() as group:
                group.start_soon(cancel_when_idle, scope)
                await collect(calls.generate, [1])
        assert scope.cancelled_caught
    assert calls.cancelled == [1, 1]


async def test_a_block_that_is_cancelled_while_it_ends_still_waits_for_its_calls() -> None:
    """anyio: a group that is cancelled as it waits for its tasks."""
    may_end, ended = Event(), []

    async def generate(prompt: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await may_end.wait()
            ended.append(prompt)

    async def leave(scope: CancelScope) -> None:
        with scope:
            async with stream(generate, range(2)):
                await wait_all_tasks_blocked()

    scope = CancelScope()
    async with create_task_group() as group:
        group.start_soon(leave, scope)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert ended == []
        may_end.set()
    assert sorted(ended) == [0, 1]


async def test_what_a_call_shields_is_finished_before_the_block_is_left() -> None:
    """anyio: a shielded part ends, and what comes after it is cancelled."""
    steps, may_end = [], Event()

    async def generate(prompt: int) -> None:
        with CancelScope(shield=True):
            await may_end.wait()
            steps.append("shielded")
        await checkpoint()
        steps.append("not reached")

    async with create_task_group() as group:
        async with stream(generate, [1]):
            await wait_all_tasks_blocked()

            async def release() -> None:
                await wait_all_tasks_blocked()
                steps.append("left")
                may_end.set()

            group.start_soon(release)
    assert steps == ["left", "shielded"]


async def test_calls_are_cancelled_while_the_block_shields_itself() -> None:
    """anyio: a cancellation reaches the tasks although their host is in a shielded scope."""
    calls = Forever()
    with CancelScope() as scope:
        async with stream(calls.generate, range(2)):
            await wait_all_tasks_blocked()
            with CancelScope(shield=True):
                scope.cancel()
                await wait_all_tasks_blocked()
                assert sorted(calls.cancelled) == [0, 1]  # type: ignore[type-var]


async def test_a_block_cancelled_before_it_begins_makes_no_call() -> None:
    """anyio: a scope that is cancelled before it is entered; a group in it raises nothing."""
    calls = Forever()
    with CancelScope() as scope:
        scope.cancel()
        async with stream(calls.generate, range(2)):
            await checkpoint()
            raise AssertionError("unreachable")
    assert calls.started == []


@in_virtual_time
def test_a_deadline_around_the_block_cancels_its_calls(backend: str) -> None:
    """anyio: fail_after around work that takes longer."""
    cancelled, received = [], []

    async def generate(prompt: int) -> int:
        try:
            await anyio.sleep(prompt)
        except anyio.get_cancelled_exc_class():
            cancelled.append(prompt)
            raise
        return prompt

    async def main() -> None:
        with pytest.raises(TimeoutError), anyio.fail_after(3.5):
            async with stream(generate, [1, 2, 5, 3, 4]) as outcomes:
                async for outcome in outcomes:
                    received.append(outcome.unwrap())

    virtual.run(backend, main)
    assert received == [1, 2, 3]
    assert sorted(cancelled) == [4, 5]


@in_virtual_time
def test_a_deadline_inside_a_call_is_the_failure_of_its_prompt(backend: str) -> None:
    """anyio: fail_after inside a task is an error of that task."""

    async def generate(prompt: int) -> int:
        with anyio.fail_after(2.5):
            await anyio.sleep(prompt)
        return prompt

    async def main() -> list[Any]:
        return await collect(generate, [1, 3, 2])

    first, second, third = virtual.run(backend, main)
    assert (first.unwrap(), third.unwrap()) == (1, 2)
    assert isinstance(second.error, TimeoutError)


@only_asyncio
async def test_a_call_that_awaits_a_native_future_is_cancelled_as_any_other() -> None:
    """anyio: tasks of a group that wait for futures of asyncio."""
    futures = []

    async def generate(prompt: int) -> None:
        futures.append(asyncio.get_running_loop().create_future())
        with CancelScope():
            await futures[-1]

    async with stream(generate, range(2)):
        await wait_all_tasks_blocked()
    assert [future.cancelled() for future in futures] == [True, True]


@only_asyncio
async def test_leaving_as_calls_end_tells_the_loop_of_no_error() -> None:
    """anyio: cancelling tasks that are already done."""
    told: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: told.append(context))
    try:
        for steps in range(6):
            async with stream(echo, range(2)):
                for _ in range(steps):
                    await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert told == []


@only_asyncio
async def test_a_native_cancellation_of_the_block_leaves_no_debt() -> None:
    """anyio: the count of cancellations of a host is as before, once one was caught."""
    calls = Forever()
    task = asyncio.current_task()
    assert task

    async def cancel() -> None:
        await wait_all_tasks_blocked()
        task.cancel()

    async with create_task_group() as group:
        group.start_soon(cancel)
        with pytest.raises(asyncio.CancelledError):
            await collect(calls.generate, range(2))
        assert task.cancelling() == 1
        task.uncancel()
    assert task.cancelling() == 0
    assert sorted(calls.cancelled) == [0, 1]  # type: ignore[type-var]


@only_asyncio
async def test_a_scope_around_a_batch_leaves_no_debt() -> None:
    """anyio: the count of cancellations of a task is as before, once a scope was left."""
    task = asyncio.current_task()
    assert task
    with CancelScope() as scope:
        async with stream(Forever().generate, range(2)) as outcomes:
            await wait_all_tasks_blocked()
            scope.cancel()
            await outcomes.receive()
    assert scope.cancelled_caught
    assert task.cancelling() == 0
