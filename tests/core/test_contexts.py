"""A context for each call, one for the source, and what is seen of a call from outside."""

from __future__ import annotations

import decimal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter, Event, create_task_group, to_thread, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from genbatch import Failure, Success, collect, stream

pytestmark = pytest.mark.anyio
setting: ContextVar[object] = ContextVar("setting")


async def seen_after_a_checkpoint(prompt: int) -> object:
    before = setting.get("nothing")
    setting.set(prompt)
    await checkpoint()
    assert setting.get() == prompt
    return before


@pytest.mark.parametrize("limiter", [False, True])
async def test_a_call_sees_the_context_in_which_the_batch_was_opened(limiter: bool) -> None:
    shared = CapacityLimiter(2) if limiter else None
    setting.set("the opener's")
    async with stream(
        seen_after_a_checkpoint, range(200), max_concurrent=3, limiter=shared
    ) as outcomes:
        setting.set("later")
        assert {outcome.unwrap() async for outcome in outcomes} == {"the opener's"}
    assert setting.get() == "later"


async def test_each_step_of_a_call_is_in_its_context() -> None:
    async def generate(prompt: int) -> int:
        setting.set(prompt)
        for _ in range(5):
            await checkpoint()
            assert setting.get() == prompt
        with anyio.move_on_after(0):
            await anyio.sleep_forever()  # an exception is thrown into this step
        assert setting.get() == prompt
        assert await to_thread.run_sync(setting.get) == prompt
        async with create_task_group() as group:
            group.start_soon(check, prompt)
        try:
            await checkpoint()
        finally:
            assert setting.get() == prompt
        return prompt

    async def check(prompt: int) -> None:
        assert setting.get() == prompt

    outcomes = await collect(generate, range(30), max_concurrent=4)
    assert outcomes == [Success(n, n, n) for n in range(30)]


async def test_the_cleanup_of_a_cancelled_call_is_in_its_context() -> None:
    cleaned = []

    async def generate(prompt: int) -> None:
        token = setting.set(prompt)
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(setting.get())
            setting.reset(token)

    async with stream(generate, range(3)):
        await wait_all_tasks_blocked()
    assert sorted(cleaned) == [0, 1, 2]


class Later:
    """An awaitable that is no coroutine, as many a decorator returns."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, object]:
        yield from checkpoint().__await__()
        return self.value


@pytest.mark.parametrize("limiter", [False, True])
async def test_generate_may_return_any_awaitable(limiter: bool) -> None:
    def generate(prompt: int) -> Later:
        setting.set(prompt)
        return Later(prompt)

    shared = CapacityLimiter(2) if limiter else None
    outcomes = await collect(generate, range(9), limiter=shared)
    assert outcomes == [Success(n, n, n) for n in range(9)]
    assert setting.get(None) is None


async def test_the_stop_iteration_of_a_function_is_its_failure() -> None:
    def generate(prompt: int) -> Awaitable[int]:
        raise StopIteration("not a result")

    outcomes = await collect(generate, range(3))
    assert [type(outcome.error) for outcome in outcomes if isinstance(outcome, Failure)] == [
        StopIteration
    ] * 3


# Functions that are not asynchronous


def paid(calls: list[int]) -> Callable[[int], Any]:
    def generate(prompt: int) -> bytes:
        calls.append(prompt)
        return b"an image"

    return generate


@pytest.mark.parametrize("fail_fast", [False, True])
@pytest.mark.parametrize("limiter", [False, True])
async def test_a_function_that_is_not_asynchronous_is_refused_at_its_first_call(
    fail_fast: bool, limiter: bool
) -> None:
    calls: list[int] = []
    shared = CapacityLimiter(9) if limiter else None
    match = "generate must be an async function: its call returned bytes"
    with pytest.raises(TypeError, match=match):
        await collect(paid(calls), range(100), fail_fast=fail_fast, limiter=shared)
    assert calls == [0]


async def test_a_reader_has_the_failure_and_then_the_refusal() -> None:
    calls: list[int] = []
    async with stream(paid(calls), range(100)) as outcomes:
        first = await outcomes.receive()
        assert isinstance(first, Failure)
        assert isinstance(first.error, TypeError)
        with pytest.raises(TypeError, match="must be an async function"):
            await outcomes.receive()
    assert calls == [0]


async def test_one_result_among_many_that_cannot_be_awaited_fails_alone() -> None:
    async def asynchronous(prompt: int) -> int:
        return prompt

    def generate(prompt: int) -> Any:
        return prompt if prompt == 5 else asynchronous(prompt)

    outcomes = await collect(generate, range(10), max_concurrent=1)
    assert [outcome.index for outcome in outcomes if isinstance(outcome, Failure)] == [5]
    assert len(outcomes) == 10


# Sources


async def test_a_synchronous_source_is_resumed_in_one_context() -> None:
    async def generate(prompt: decimal.Decimal) -> decimal.Decimal:
        decimal.setcontext(decimal.Context(prec=3))
        await checkpoint()
        return prompt

    def prompts() -> Iterator[decimal.Decimal]:
        with decimal.localcontext() as context:
            context.prec = 5
            for number in range(1, 100):
                yield decimal.Decimal(1) / number
        assert decimal.getcontext().prec == 28

    expected = [decimal.Decimal(f"{1 / n:.5g}") for n in range(1, 100)]
    outcomes = await collect(generate, prompts(), max_concurrent=4)
    assert [outcome.unwrap() for outcome in outcomes] == expected


async def test_a_synchronous_source_may_reset_what_it_has_set() -> None:
    def prompts() -> Iterator[int]:
        for number in range(50):
            token = setting.set(number)
            yield number
            assert setting.get() == number
            setting.reset(token)

    setting.set("the opener's")
    outcomes = await collect(seen_after_a_checkpoint, prompts(), max_concurrent=4)
    assert {outcome.unwrap() for outcome in outcomes} == {"the opener's"}


async def test_an_asynchronous_source_is_resumed_in_one_context() -> None:
    async def prompts() -> AsyncIterator[int]:
        for number in range(50):
            token = setting.set(number)
            yield number
            await checkpoint()
            setting.reset(token)

    setting.set("the opener's")
    outcomes = await collect(seen_after_a_checkpoint, prompts(), max_concurrent=4)
    assert {outcome.unwrap() for outcome in outcomes} == {"the opener's"}


async def test_other_tasks_may_open_batches_in_their_own_contexts() -> None:
    started = Event()

    async def open_one(name: str) -> None:
        setting.set(name)
        started.set()
        outcomes = await collect(seen_after_a_checkpoint, range(20))
        assert {outcome.unwrap() for outcome in outcomes} == {name}

    async with create_task_group() as group:
        for name in "abc":
            group.start_soon(open_one, name)
    assert setting.get(None) is None


class Traced:
    """A proxy of a method that runs code of its own and passes everything else on, as wrapt's."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def __call__(self, prompt: int) -> Any:
        seen = setting.get(None)
        setting.set(prompt)
        return self.method(prompt, seen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)


async def test_a_proxy_of_a_method_runs_in_the_context_of_the_call() -> None:
    class Client:
        async def ask(self, prompt: int, seen: object) -> object:
            return seen

    outcomes = await collect(Traced(Client().ask), range(5), max_concurrent=1)
    assert [outcome.unwrap() for outcome in outcomes] == [None] * 5
