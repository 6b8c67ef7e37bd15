"""The scenarios that others test their own map functions by, on genbatch.

From aiometer 1.0 (tests/test_aiometer.py: run_on_each, run_all, amap, run_any) and anyio 4.16
(tests/test_concurrency_utils.py: gather, as_completed, amap). Only the scenarios are theirs.

What differs, and the promise that makes the difference:

- aiometer, leaving the block of amap waits for calls whose results nobody wants: leaving cancels
  them; who wants them all awaits collect; promise 5.
- aiometer, the first error ends amap: it is the outcome of its prompt; promise 6.
- aiometer, all at once without a limit: max_concurrent is always a number; promise 3.
- anyio, as_completed of nothing is an error: a stream of no prompts ends; promise 7.
- anyio, an error ends gather, amap and as_completed: with fail_fast alone; promise 6.
- anyio, a task with a name for each awaitable: a few workers make all calls; promise 3.

Without a counterpart here:
- aiometer, max_per_second: a pace is a throttle's, not the scheduler's (tested).
- aiometer, lambdas that all call the last item are refused: generate takes the prompt, nothing is
  closed over (tested).
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio import Event
from anyio.lowlevel import checkpoint

from genbatch import Failure, Success, Throttle, collect, stream, throttled
from support import virtual

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
    """aiometer: run_on_each, with an item that comes twice."""
    processed = []

    async def generate(prompt: str) -> None:
        processed.append(prompt)

    outcomes = await collect(generate, FRUIT)
    assert sorted(processed) == sorted(FRUIT)
    assert outcomes == [Success(index, prompt, None) for index, prompt in enumerate(FRUIT)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_results_are_in_input_order_whichever_call_ends_first(order: tuple[int, int]) -> None:
    """aiometer: run_all, of a fast and a slow function, either one first."""
    outcomes = await collect(Relay(order).generate, [0, 1])
    assert [outcome.unwrap() for outcome in outcomes] == [0, 2]


async def test_results_can_be_iterated() -> None:
    """aiometer: the results of amap are iterated."""
    async with stream(capitalize, FRUIT) as outcomes:
        assert {outcome.unwrap() async for outcome in outcomes} == {"Apple", "Banana", "Cherry"}


async def test_an_asynchronous_iterable_can_be_mapped_too() -> None:
    """aiometer: amap of items, which here may come asynchronously."""

    async def fruit() -> AsyncIterator[str]:
        for prompt in FRUIT:
            await checkpoint()
            yield prompt

    outcomes = await collect(capitalize, fruit(), max_concurrent=2)
    assert [outcome.unwrap() for outcome in outcomes] == ["Apple", "Banana", "Cherry", "Apple"]


async def test_an_error_reaches_whoever_unwraps_it_as_it_was() -> None:
    """aiometer: amap, of which one call fails while its results are iterated."""
    with pytest.raises(LookupError, match="banana"):
        async with stream(fail_on_banana, FRUIT) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()


async def test_an_error_costs_the_others_nothing() -> None:
    """aiometer: amap, of which one call fails; there the rest is lost."""
    outcomes = await collect(fail_on_banana, FRUIT)
    assert [type(outcome) for outcome in outcomes] == [Success, Failure, Success, Success]


async def test_the_first_result_may_be_all_that_is_wanted() -> None:
    """aiometer: run_any, the value of the winner, and every other call cancelled."""
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


async def test_leaving_without_reading_waits_for_no_call() -> None:
    """aiometer: amap whose results are ignored; there all calls are made, here none goes on."""
    started, completed = [], []

    async def generate(prompt: str) -> None:
        started.append(prompt)
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep_forever()
        completed.append(prompt)

    async with stream(generate, FRUIT, max_concurrent=2):
        await anyio.wait_all_tasks_blocked()
    assert (len(started), completed) == (2, [])


@pytest.mark.parametrize("limit", LIMITS)
async def test_prompts_may_be_functions(limit: int) -> None:
    """aiometer: run_all of functions without arguments, of which each has its own item."""

    async def call(prompt: Callable[[], Awaitable[str]]) -> str:
        return await prompt()

    outcomes = await collect(
        call, [partial(capitalize, fruit) for fruit in FRUIT], max_concurrent=limit
    )
    assert [outcome.unwrap() for outcome in outcomes] == ["Apple", "Banana", "Cherry", "Apple"]


async def test_generate_may_be_a_lambda() -> None:
    """aiometer: lambdas made in a loop, which there see its last item and are refused."""
    outcomes = await collect(lambda prompt: capitalize(prompt), FRUIT)
    assert [outcome.unwrap() for outcome in outcomes] == ["Apple", "Banana", "Cherry", "Apple"]


@pytest.mark.parametrize("per_second", [5, 20, 100])
@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_calls_begin_no_faster_than_their_throttle_lets_them(backend: str, per_second: int) -> None:
    """aiometer: max_per_second of all its functions."""
    begun: list[float] = []

    async def generate(prompt: int) -> None:
        begun.append(anyio.current_time())

    async def main() -> None:
        paced = throttled(generate, Throttle(pace=f"{per_second}/s"))
        await collect(paced, range(4))

    virtual.run(backend, main)
    waited = [later - earlier for earlier, later in pairwise(begun)]
    assert waited == pytest.approx([1 / per_second] * 3)


# aiometer: max_at_once


@pytest.mark.parametrize("limit", LIMITS)
async def test_collect_never_exceeds_the_limit_and_reaches_it(limit: int) -> None:
    """aiometer: max_at_once of run_on_each and run_all."""
    spy = Spy(limit)
    await collect(spy.generate, range(30), max_concurrent=limit)
    assert spy.peak == limit


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_stream_never_exceeds_the_limit_and_reaches_it(limit: int) -> None:
    """aiometer: max_at_once of amap."""
    spy = Spy(limit)
    async with stream(spy.generate, range(30), max_concurrent=limit) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 30
    assert spy.peak == limit


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_stream_left_after_one_result_never_exceeds_the_limit(limit: int) -> None:
    """aiometer: max_at_once of run_any."""
    spy = Spy(limit)
    async with stream(spy.generate, range(30), max_concurrent=limit) as outcomes:
        await outcomes.receive()
    assert 0 < spy.peak <= limit
    assert spy.running == 0


@pytest.mark.parametrize("limit", [0, -1, -10])
async def test_the_limit_must_be_positive(limit: int) -> None:
    """aiometer: a max_at_once below 1."""
    message = f"max_concurrent must be >= 1, got {limit}"
    with pytest.raises(ValueError, match=message):
        stream(capitalize, FRUIT, max_concurrent=limit)
    with pytest.raises(ValueError, match=message):
        await collect(capitalize, FRUIT, max_concurrent=limit)


# anyio: gather and amap


async def test_calls_that_end_in_reverse_come_back_in_input_order() -> None:
    """anyio: gather and amap, of calls that end in reverse."""
    outcomes = await collect(Relay([3, 2, 1]).generate, [1, 2, 3])
    assert [outcome.unwrap() for outcome in outcomes] == [2, 4, 6]


async def test_mapping_nothing_gives_nothing() -> None:
    """anyio: amap of no arguments."""
    assert await collect(capitalize, []) == []
    assert await collect(capitalize, iter(())) == []


@pytest.mark.parametrize("failing", ["apple", "banana", "cherry"])
async def test_an_error_is_propagated_in_a_group(failing: str) -> None:
    """anyio: gather and amap, of which one call fails."""

    async def generate(prompt: str) -> str:
        if prompt == failing:
            raise ValueError("boom")
        return prompt

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="boom")):
        await collect(generate, ["apple", "banana", "cherry"], fail_fast=True)


# anyio: as_completed


async def test_a_stream_of_nothing_just_ends() -> None:
    """anyio: as_completed of no awaitables, there an error."""
    async with stream(capitalize, []) as outcomes:
        with pytest.raises(anyio.EndOfStream):
            await outcomes.receive()


async def test_the_prompts_of_outcomes_tell_them_apart() -> None:
    """anyio: as_completed, whose results have the names of their tasks; here workers are shared."""

    class Answer:
        def __await__(self) -> Generator[Any, Any, int]:
            return self._answer().__await__()

        async def _answer(self) -> int:
            return 42

    answers = [Answer(), Answer()]
    async with stream(lambda answer: answer, answers) as outcomes:
        received = [outcome async for outcome in outcomes]
    assert {outcome.prompt for outcome in received} == set(answers)
    assert [outcome.unwrap() for outcome in received] == [42, 42]


@pytest.mark.parametrize("order", [(2, 3, 1), (1, 2, 3), (3, 2, 1)])
async def test_results_come_in_the_order_in_which_calls_end(order: tuple[int, ...]) -> None:
    """anyio: as_completed, of calls that end in several orders."""
    async with stream(Relay(order).generate, [1, 2, 3]) as outcomes:
        assert [outcome.prompt async for outcome in outcomes] == list(order)


async def test_an_error_cancels_calls_that_would_never_end() -> None:
    """anyio: as_completed, of which one call fails and the other never ends."""
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
    """anyio: as_completed, left after its first result."""
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
