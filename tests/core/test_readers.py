"""Outcomes, and those who read them."""

from __future__ import annotations

import copy
import gc
import pickle
import traceback
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio import Event, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Outcome, Success, collect, stream
from genbatch._core import waiting
from support.backends import only_trio

pytestmark = pytest.mark.anyio


# Outcomes


def test_outcomes_are_hashable_whatever_they_hold() -> None:
    success, failure = Success(3, {"a": 1}, ["image"]), Failure(3, {"a": 1}, ValueError())
    assert len({success, failure, Success(3, {"a": 1}, ["image"], 2.0), Success(4, "", "")}) == 3


def test_outcomes_can_be_pickled_and_copied() -> None:
    success = Success(3, "a cup", b"image", 1.5)
    for each in (pickle.loads(pickle.dumps(success)), copy.copy(success), copy.deepcopy(success)):
        assert each == success
        assert each.elapsed == 1.5
    failure = Failure(3, "a cup", ValueError("no"), 1.5)
    again = pickle.loads(pickle.dumps(failure))
    assert (again.index, again.prompt, str(again.error), again.elapsed) == (3, "a cup", "no", 1.5)
    assert copy.copy(failure) == failure
    assert type(success) is Success
    assert repr(success) == "Success(index=3, prompt='a cup', value=b'image', elapsed=1.5)"


def depth(error: BaseException) -> int:
    return len(traceback.extract_tb(error.__traceback__))


async def test_unwrapping_again_and_again_does_not_lengthen_the_traceback() -> None:
    async def generate(prompt: int) -> None:
        raise ValueError(prompt)

    def unwrapped(outcome: Outcome[int, None]) -> int:
        try:
            outcome.unwrap()
        except ValueError as exc:
            return depth(exc)
        raise AssertionError("not raised")

    (outcome,) = await collect(generate, [1])
    first = unwrapped(outcome)
    assert [unwrapped(outcome) for _ in range(5)] == [first] * 5
    with pytest.raises(ValueError, match="1") as info:
        outcome.unwrap()
    assert traceback.extract_tb(info.tb)[-1].name == "generate"


async def test_fail_fast_says_which_prompt_each_failure_was() -> None:
    async def generate(prompt: str) -> None:
        await checkpoint()
        raise ValueError(prompt)

    prompts = ["a fox", "x" * 500]
    with pytest.raises(ExceptionGroup) as info:
        await collect(generate, prompts, max_concurrent=2, fail_fast=True)
    for error in info.value.exceptions:
        (note,) = error.__notes__
        index = prompts.index(error.args[0])
        assert note.startswith(f"prompt {index}: '{prompts[index][:5]}")
        assert len(note) < 100
    assert "prompt 0: 'a fox'" in "".join(traceback.format_exception(info.value))


# Readers


async def test_one_outcome_wakes_one_of_the_readers_that_wait() -> None:
    release = [Event() for _ in range(3)]
    woken: list[int] = []

    async def generate(prompt: int) -> int:
        await release[prompt].wait()
        return prompt

    async with stream(generate, range(3)) as outcomes, create_task_group() as group:

        async def read(number: int) -> None:
            await outcomes.receive()
            woken.append(number)

        for number in range(3):
            group.start_soon(read, number)
            await wait_all_tasks_blocked()
        for number in range(3):
            release[number].set()
            await wait_all_tasks_blocked()
            assert woken == list(range(number + 1))  # the one that has waited longest
            assert len(outcomes._readers.parked) == 2 - number


async def test_outcomes_that_come_together_reach_as_many_readers_as_take_one_each() -> None:
    release = Event()
    read: list[int] = []

    async def generate(prompt: int) -> int:
        await release.wait()
        return prompt

    async with stream(generate, range(3)) as outcomes, create_task_group() as group:

        async def read_one() -> None:
            read.append((await outcomes.receive()).unwrap())

        for _ in range(3):
            group.start_soon(read_one)
        await wait_all_tasks_blocked()
        release.set()
    assert sorted(read) == [0, 1, 2]


async def test_readers_are_not_woken_for_outcomes_that_another_takes_meanwhile() -> None:
    async def generate(prompt: int) -> int:
        await checkpoint()
        return prompt

    resumed = 0
    async with stream(generate, range(1000), max_concurrent=50) as outcomes:
        park = outcomes._readers.park

        async def counting_park() -> None:
            nonlocal resumed
            await park()
            resumed += 1

        outcomes._readers.park = counting_park  # type: ignore[method-assign]

        async def read_all() -> None:
            async for _ in outcomes:
                pass

        async with create_task_group() as group:
            for _ in range(100):
                group.start_soon(read_all)
    assert resumed < 500  # not once per outcome


async def test_a_reader_that_is_cancelled_as_it_is_woken_passes_that_on() -> None:
    release = Event()
    seen: list[int] = []

    async def generate(prompt: int) -> int:
        await release.wait()
        return prompt

    async with stream(generate, range(1)) as outcomes, create_task_group() as group:

        async def read_until(scope: anyio.CancelScope) -> None:
            with scope, suppress(anyio.EndOfStream):
                seen.append((await outcomes.receive()).unwrap())

        first, second = anyio.CancelScope(), anyio.CancelScope()
        group.start_soon(read_until, first)
        await wait_all_tasks_blocked()
        group.start_soon(read_until, second)
        await wait_all_tasks_blocked()
        outcomes._readers.unpark(1)  # as a put does
        first.cancel()
        release.set()
        await wait_all_tasks_blocked()
    assert seen == [0]


@pytest.mark.parametrize("ordered", [False, True])
async def test_outcomes_that_nobody_has_read_end_with_the_block(ordered: bool) -> None:
    class Image:
        pass

    made: list[weakref.ref[Image]] = []
    slow = Event()

    async def generate(prompt: int) -> Image:
        if ordered and prompt == 0:
            await slow.wait()
        image = Image()
        made.append(weakref.ref(image))
        return image

    gc.collect()
    gc.disable()
    try:
        async with stream(generate, range(50), ordered=ordered) as outcomes:
            await wait_all_tasks_blocked()
            assert len(made) >= 9
            assert all(image() is not None for image in made)
        assert [image() for image in made] == [None] * len(made)
        assert outcomes.progress.done == 0
    finally:
        gc.enable()


# Progress


async def test_a_call_with_several_waits_at_once_counts_once() -> None:
    turn, end = Event(), Event()

    async def wait() -> None:
        with waiting():
            await turn.wait()

    async def generate(prompt: int) -> int:
        if prompt:
            async with create_task_group() as group:
                for _ in range(5):
                    group.start_soon(wait)
        await end.wait()
        return prompt

    async with stream(generate, range(3)) as outcomes:
        await wait_all_tasks_blocked()
        now = outcomes.progress
        assert (now.started, now.in_flight, now.waiting) == (3, 1, 2)
        turn.set()
        await wait_all_tasks_blocked()
        assert (outcomes.progress.in_flight, outcomes.progress.waiting) == (3, 0)
        end.set()
        assert len([outcome async for outcome in outcomes]) == 3


async def test_several_waits_at_once_are_taken_off_elapsed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    for module in ("_waiting", "_workers"):
        monkeypatch.setattr(f"genbatch._core.{module}.perf_counter", lambda: clock[0])

    async def wait() -> None:
        with waiting():
            await wait_all_tasks_blocked()

    async def generate(prompt: int) -> int:
        clock[0] += 1
        async with create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
            await checkpoint()
            await checkpoint()
            clock[0] += 10
        clock[0] += 1
        return prompt

    (outcome,) = await collect(generate, [7])
    assert outcome.elapsed == 2.0


async def test_a_wait_that_a_call_has_left_behind_is_no_call() -> None:
    never = Event()

    async def wait() -> None:
        with waiting():
            await never.wait()

    async with create_task_group() as outer:

        async def generate(prompt: int) -> int:
            outer.start_soon(wait)
            await checkpoint()
            return prompt

        async with stream(generate, range(20), max_concurrent=2) as outcomes:
            async for outcome in outcomes:
                now: Any = outcomes.progress
                assert 0 <= now.waiting <= now.started - now.finished
                assert now.in_flight >= 0
                assert outcome.elapsed >= 0
                await wait_all_tasks_blocked()
        outer.cancel_scope.cancel()


# What errors keep alive


class OwnError(Exception):  # one that a weak reference can be made to
    pass


async def by_stream(generate: Any, prompts: Any, **options: Any) -> None:
    async with stream(generate, prompts, **options) as outcomes:
        async for _ in outcomes:
            pass


@pytest.mark.parametrize("run", [collect, by_stream])
@pytest.mark.parametrize("of_source", [True, False])
async def test_an_error_that_ends_a_batch_dies_with_its_last_reference(
    run: Any, of_source: bool
) -> None:
    def prompts() -> Iterator[int]:
        yield 1
        if of_source:
            raise OwnError

    async def generate(prompt: int) -> None:
        if not of_source:
            raise OwnError

    async def fail() -> weakref.ref[BaseException]:
        try:
            await run(generate, prompts(), fail_fast=True)
        except OwnError as exc:
            return weakref.ref(exc)
        except ExceptionGroup as group:
            return weakref.ref(group.exceptions[0])
        raise AssertionError("not raised")

    gc.collect()
    gc.disable()
    try:
        assert (await fail())() is None
    finally:
        gc.enable()


async def test_the_traceback_of_a_failure_begins_in_generate() -> None:
    async def generate(prompt: int) -> None:
        raise ValueError(prompt)

    (outcome,) = await collect(generate, [1])
    assert isinstance(outcome, Failure)
    frames = traceback.extract_tb(outcome.error.__traceback__)
    assert [frame.name for frame in frames] == ["generate"]


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class Untold:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class array(Untold):
    pass


@pytest.mark.parametrize("of_source", [True, False])
async def test_an_error_that_cannot_be_changed_is_an_error_like_others(of_source: bool) -> None:
    def prompts() -> Iterator[int]:
        yield from range(3)
        if of_source:
            raise FrozenError(7)

    async def generate(prompt: int) -> int:
        await checkpoint()
        if prompt == 1 and not of_source:
            raise FrozenError(7)
        return prompt

    if of_source:
        with pytest.raises(FrozenError):
            await collect(generate, prompts())
        return
    outcomes = await collect(generate, prompts())
    assert [type(outcome) for outcome in outcomes] == [Success, Failure, Success]
    with pytest.raises(ExceptionGroup) as info:
        await collect(generate, prompts(), fail_fast=True)
    assert info.value.exceptions == (FrozenError(7),)


@pytest.mark.parametrize("prompt", [Untold(), array()])
async def test_a_prompt_that_cannot_be_shown_fails_like_others(prompt: object) -> None:
    async def generate(prompt: object) -> None:
        raise ValueError

    with pytest.raises(ExceptionGroup) as info:
        await collect(generate, [prompt], fail_fast=True)
    assert [type(error) for error in info.value.exceptions] == [ValueError]


async def test_an_error_of_the_source_that_is_false_is_not_lost() -> None:
    class Errors(Exception):
        def __len__(self) -> int:
            return 0

    def prompts() -> Iterator[int]:
        yield 1
        raise Errors

    async def generate(prompt: int) -> int:
        return prompt

    async with stream(generate, prompts()) as outcomes:
        await wait_all_tasks_blocked()
        outcomes.drain()
        assert (await outcomes.receive()).unwrap() == 1
        with pytest.raises(Errors):
            await outcomes.receive()


async def test_a_worker_that_waits_keeps_nothing_of_its_last_call() -> None:
    class Thing:
        pass

    made: list[weakref.ref[Thing]] = []

    async def prompts() -> AsyncIterator[Thing]:
        for _ in range(2):
            thing = Thing()
            made.append(weakref.ref(thing))
            yield thing
            del thing
        await anyio.sleep_forever()

    async def generate(prompt: Thing) -> Thing:
        await checkpoint()
        value = Thing()
        made.append(weakref.ref(value))
        return value

    gc.collect()
    gc.disable()
    try:
        async with stream(generate, prompts(), max_concurrent=1) as outcomes:
            for _ in range(2):
                await outcomes.receive()
            await wait_all_tasks_blocked()
            assert [thing() for thing in made] == [None] * 4
    finally:
        gc.enable()


@only_trio
async def test_leaving_early_leaves_no_reference_cycle() -> None:
    """On asyncio a task group of anyio's leaves one of its own."""

    class Prompts(list[int]):
        pass

    async def generate(prompt: int) -> int:
        if prompt:
            await anyio.sleep_forever()
        return prompt

    async def leave() -> weakref.ref[Prompts]:
        prompts = Prompts(range(9))
        async with stream(generate, prompts) as outcomes:
            async for _ in outcomes:
                break
        return weakref.ref(prompts)

    gc.collect()
    gc.disable()
    try:
        assert (await leave())() is None
    finally:
        gc.enable()
