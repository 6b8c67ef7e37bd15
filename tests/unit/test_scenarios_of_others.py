"""The scenarios that others test their own map functions by, on genbatch.

From aiometer 1.0 (tests/test_aiometer.py: run_on_each, run_all, amap, run_any) and anyio 4.16
(tests/test_concurrency_utilities.py: gather, as_completed, amap). Only the scenarios are theirs.

Without a counterpart here:
- aiometer, max_per_second: a pace is a throttle's, not the scheduler's.
- aiometer, lambdas that all call the last item: generate takes the prompt, nothing is closed over.
- aiometer, leaving amap's block waits for calls whose results nobody wants: the opposite is
  promised here, leaving cancels them; who wants them all awaits collect.
- anyio, names of tasks: a worker serves many prompts.
- anyio, as_completed() of nothing is an error: a stream of no prompts just ends.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import pytest
from anyio import Event
from anyio.lowlevel import checkpoint

from genbatch import Failure, Success, collect, stream

pytestmark = pytest.mark.anyio
FRUIT = ["apple", "banana", "cherry", "apple"]
LIMITS = [1, 2, 5, 10, 20]


class Relay:
    """A generate whose calls end in a given order: each one lets the next one end."""

    def __init__(self, order: Iterable[int]) -> None:
        self._order = list(order)
        self._may_end = {prompt: Event() for prompt in self._order}
        self._may_end[self._order[0]].set()

    async def generate(self, prompt: int) -> int:
        await self._may_end[prompt].wait()
        position = self._order.index(prompt) + 1
        if position < len(self._order):
            self._may_end[self._order[position]].set()
        return prompt * 2


class Spy:
    """A generate that counts the calls running at once; they last a random while.

    The first ones wait until there are as many as there may be.
    """

    def __init__(self, limit: int) -> None:
        self.running = self.peak = 0
        self._limit = limit
        self._full = Event()
        self._random = random.Random(1)

    async def generate(self, prompt: int) -> int:
        self.running += 1
        self.peak = max(self.peak, self.running)
        if self.running == self._limit:
            self._full.set()
        try:
            await self._full.wait()
            for _ in range(self._random.randint(1, 9)):
                await checkpoint()
        finally:
            self.running -= 1
        return prompt


async def capitalize(prompt: str) -> str:
    return prompt.capitalize()


async def fail_on_banana(prompt: str) -> str:
    if prompt == "banana":
        raise LookupError(prompt)
    return prompt


# aiometer: run_on_each, run_all, amap, run_any


async def test_every_item_is_processed_also_one_that_comes_twice() -> None:
    processed = []

    async def generate(prompt: str) -> None:
        processed.append(prompt)

    outcomes = await collect(generate, FRUIT)
    assert sorted(processed) == sorted(FRUIT)
    assert outcomes == [Success(index, prompt, None) for index, prompt in enumerate(FRUIT)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_results_are_in_input_order_whichever_call_ends_first(order: tuple[int, int]) -> None:
    outcomes = await collect(Relay(order).generate, [0, 1])
    assert [outcome.unwrap() for outcome in outcomes] == [0, 2]


async def test_results_can_be_iterated() -> None:
    async with stream(capitalize, FRUIT) as outcomes:
        assert {outcome.unwrap() async for outcome in outcomes} == {"Apple", "Banana", "Cherry"}


async def test_an_asynchronous_iterable_can_be_mapped_too() -> None:
    async def fruit() -> AsyncIterator[str]:
        for prompt in FRUIT:
            await checkpoint()
            yield prompt

    outcomes = await collect(capitalize, fruit(), max_concurrent=2)
    assert [outcome.unwrap() for outcome in outcomes] == ["Apple", "Banana", "Cherry", "Apple"]


async def test_an_error_reaches_whoever_unwraps_it_as_it_was() -> None:
    with pytest.raises(LookupError, match="banana"):
        async with stream(fail_on_banana, FRUIT) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()


async def test_an_error_costs_the_others_nothing() -> None:
    outcomes = await collect(fail_on_banana, FRUIT)
    assert [type(outcome) for outcome in outcomes] == [Success, Failure, Success, Success]


async def test_the_first_result_may_be_all_that_is_wanted() -> None:
    """aiometer's run_any: the winner's value, and every other call cancelled."""
    cancelled = []

    async def generate(prompt: str) -> str:
        if prompt == "fast":
            return prompt
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(prompt)
            raise
        raise AssertionError("unreachable")

    async with stream(generate, ["slow", "fast", "slower"]) as outcomes:
        winner = await outcomes.receive()
        await anyio.wait_all_tasks_blocked()
    assert winner.unwrap() == "fast"
    assert sorted(cancelled) == ["slow", "slower"]


# aiometer: max_at_once


@pytest.mark.parametrize("limit", LIMITS)
async def test_collect_never_exceeds_the_limit_and_reaches_it(limit: int) -> None:
    spy = Spy(limit)
    await collect(spy.generate, range(30), max_concurrent=limit)
    assert spy.peak == limit


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_stream_never_exceeds_the_limit_and_reaches_it(limit: int) -> None:
    spy = Spy(limit)
    async with stream(spy.generate, range(30), max_concurrent=limit) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 30
    assert spy.peak == limit


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_stream_left_after_one_result_never_exceeds_the_limit(limit: int) -> None:
    spy = Spy(limit)
    async with stream(spy.generate, range(30), max_concurrent=limit) as outcomes:
        await outcomes.receive()
    assert 0 < spy.peak <= limit
    assert spy.running == 0


@pytest.mark.parametrize("limit", [0, -1, -10])
async def test_the_limit_must_be_positive(limit: int) -> None:
    message = f"max_concurrent must be >= 1, got {limit}"
    with pytest.raises(ValueError, match=message):
        stream(capitalize, FRUIT, max_concurrent=limit)
    with pytest.raises(ValueError, match=message):
        await collect(capitalize, FRUIT, max_concurrent=limit)


# anyio: gather and amap


async def test_calls_that_end_in_reverse_come_back_in_input_order() -> None:
    outcomes = await collect(Relay([3, 2, 1]).generate, [1, 2, 3])
    assert [outcome.unwrap() for outcome in outcomes] == [2, 4, 6]


async def test_mapping_nothing_gives_nothing() -> None:
    assert await collect(capitalize, []) == []
    assert await collect(capitalize, iter(())) == []


@pytest.mark.parametrize("failing", ["apple", "banana", "cherry"])
async def test_an_error_is_propagated_in_a_group(failing: str) -> None:
    async def generate(prompt: str) -> str:
        if prompt == failing:
            raise ValueError("boom")
        return prompt

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="boom")):
        await collect(generate, ["apple", "banana", "cherry"], fail_fast=True)


# anyio: as_completed


@pytest.mark.parametrize("order", [(2, 3, 1), (1, 2, 3), (3, 2, 1)])
async def test_results_come_in_the_order_in_which_calls_end(order: tuple[int, ...]) -> None:
    async with stream(Relay(order).generate, [1, 2, 3]) as outcomes:
        assert [outcome.prompt async for outcome in outcomes] == list(order)


async def test_an_error_cancels_calls_that_would_never_end() -> None:
    cancelled = []

    async def generate(prompt: str) -> None:
        if prompt == "fail":
            await anyio.wait_all_tasks_blocked()
            raise ValueError("boom")
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(prompt)

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="boom")):
        async with stream(generate, ["never", "fail"], fail_fast=True) as outcomes:
            async for _ in outcomes:
                pass
    assert cancelled == ["never"]


async def test_leaving_after_the_first_result_cancels_the_unfinished_call() -> None:
    ended: list[Any] = []

    async def generate(prompt: str) -> str:
        try:
            if prompt == "never":
                await anyio.sleep_forever()
        finally:
            ended.append(prompt)
        return prompt

    async with stream(generate, ["now", "never"]) as outcomes:
        assert (await anext(outcomes)).unwrap() == "now"
        await anyio.wait_all_tasks_blocked()
        assert ended == ["now"]
    assert ended == ["now", "never"]
