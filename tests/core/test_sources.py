"""What prompts may be, and what is taken from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from genbatch import Failure, Outcome, Stopped, Success, collect, stream

pytestmark = pytest.mark.anyio


async def echo(prompt: Any) -> Any:
    return prompt


class Frame:
    """A data frame in what matters here: it iterates the names of its columns."""

    columns = ("prompt", "id")
    shape = (3, 2)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"a fox": 1}, r"got a mapping, which iterates its keys: pass its values\(\)"),
        (Frame(), r'got a Frame, which does not iterate its rows: .* frame\["prompt"\]'),
        (bytearray(b"a fox"), "not a single string"),
    ],
)
async def test_what_would_iterate_something_else_than_prompts_is_refused(
    prompts: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        stream(echo, prompts)


async def test_a_limiter_of_trio_is_called_by_its_full_name() -> None:
    import trio

    message = r"must be an anyio\.CapacityLimiter, got trio\.CapacityLimiter"
    with pytest.raises(TypeError, match=message):
        stream(echo, [], limiter=trio.CapacityLimiter(1))  # type: ignore[arg-type]


# Their number


class Counted:
    """Notes how often it is asked for its length."""

    def __init__(self, length: int | Exception) -> None:
        self.asked = 0
        self.length = length

    def __len__(self) -> int:
        self.asked += 1
        if isinstance(self.length, Exception):
            raise self.length
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class CountedAsync(Counted):
    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(3):
            yield number


class DatabaseError(Exception):
    pass


async def test_the_number_is_asked_for_once_and_when_progress_is_read() -> None:
    prompts = Counted(3)
    async with stream(echo, prompts, max_concurrent=1) as outcomes:
        await wait_all_tasks_blocked()
        assert prompts.asked == 0
        assert outcomes.progress.total == outcomes.progress.total == 3
        assert prompts.asked == 1
    unread = Counted(3)
    assert len(await collect(echo, unread)) == 3
    assert unread.asked == 0


async def test_an_asynchronous_source_is_never_asked_for_its_number() -> None:
    prompts = CountedAsync(3)
    async with stream(echo, prompts, max_concurrent=1) as outcomes:
        assert outcomes.progress.total is None
        assert len([outcome async for outcome in outcomes]) == 3
    assert prompts.asked == 0


@pytest.mark.parametrize("error", [DatabaseError(), AttributeError(), ValueError()])
async def test_a_number_that_cannot_be_told_is_unknown(error: Exception) -> None:
    async with stream(echo, Counted(error), max_concurrent=1) as outcomes:
        assert outcomes.progress.total is None
        assert len([outcome async for outcome in outcomes]) == 3


async def test_a_list_that_grows_meanwhile_is_never_more_than_done() -> None:
    prompts = [0, 1, 2]
    async with stream(echo, prompts, max_concurrent=1) as outcomes:
        assert outcomes.progress.total == 3
        prompts += [3, 4, 5]
        seen = 0
        async for _ in outcomes:
            seen += 1
            now = outcomes.progress
            assert now.total is not None
            assert now.done == seen <= now.total
            assert now.percent is not None
            assert now.percent <= 100
        assert str(outcomes.progress) == "6/6 done, 100 %"


# Ends that are none


@pytest.mark.parametrize("error", [StopAsyncIteration, anyio.EndOfStream])
async def test_an_error_that_looks_like_an_end_is_none(error: type[Exception]) -> None:
    class Prompts:
        count = 0

        def __iter__(self) -> Prompts:
            return self

        def __next__(self) -> int:
            self.count += 1
            if self.count > 2:
                raise error
            return self.count

    with pytest.raises(RuntimeError, match=f"prompts raised {error.__name__}"):
        await collect(echo, Prompts())
    async with stream(echo, Prompts()) as outcomes:
        seen = []
        with pytest.raises(RuntimeError, match=f"prompts raised {error.__name__}") as info:
            while True:
                seen.append(await outcomes.receive())
    assert len(seen) == 2
    assert isinstance(info.value.__cause__, error)


async def test_an_asynchronous_source_whose_stream_has_ended_elsewhere_is_no_clean_end() -> None:
    class Prompts:
        def __aiter__(self) -> Prompts:
            return self

        async def __anext__(self) -> int:
            raise anyio.EndOfStream

    with pytest.raises(RuntimeError, match="prompts raised EndOfStream"):
        await collect(echo, Prompts())


# What is taken


async def test_an_asynchronous_source_is_asked_only_for_what_is_called() -> None:
    send, receive = anyio.create_memory_object_stream[int](10)
    for number in range(10):
        send.send_nowait(number)
    called: list[int] = []
    release = anyio.Event()

    async def generate(prompt: int) -> int:
        called.append(prompt)
        await release.wait()
        return prompt

    async with send, receive:
        async with stream(generate, receive.clone(), max_concurrent=2) as outcomes:
            await wait_all_tasks_blocked()
            assert called == [0, 1]
            outcomes.drain()
            release.set()
            seen = [outcome.unwrap() async for outcome in outcomes]
        assert sorted(seen) == [0, 1]
        assert [receive.receive_nowait() for _ in range(8)] == list(range(2, 10))


async def test_each_prompt_taken_from_an_asynchronous_source_has_an_outcome() -> None:
    """Whenever the batch drains: what was taken and is not called is a Failure with Stopped."""
    for steps in range(30):
        send, receive = anyio.create_memory_object_stream[int](10)
        for number in range(10):
            send.send_nowait(number)
        seen: list[Outcome[int, int]] = []
        async with send, receive:
            async with stream(slow, receive.clone(), max_concurrent=2) as outcomes:
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                outcomes.drain()
                seen += [outcome async for outcome in outcomes]
                assert outcomes.progress.total == len(seen)
            left = []
            with pytest.raises(anyio.WouldBlock):
                while True:
                    left.append(receive.receive_nowait())
        assert sorted(outcome.prompt for outcome in seen) + left == list(range(10))
        for outcome in seen:
            assert isinstance(outcome, Success) or isinstance(outcome.error, Stopped)


async def slow(prompt: int) -> int:
    await anyio.lowlevel.checkpoint()
    return prompt


async def test_a_failure_that_is_a_group_is_the_same_object() -> None:
    class Group(ExceptionGroup[Exception]):
        detail = ""

    raised = Group("several", [KeyError("a"), ValueError("b")])
    raised.detail = "kept"

    async def generate(prompt: int) -> None:
        raise raised

    (outcome,) = await collect(generate, [0])
    assert isinstance(outcome, Failure)
    assert outcome.error is raised


async def test_draining_as_a_source_with_a_task_group_goes_on_closes_it_in_order() -> None:
    come = anyio.Event()
    closed = False

    async def prompts() -> AsyncIterator[int]:
        nonlocal closed
        async with anyio.create_task_group():
            yield 0
            await come.wait()
            try:
                yield 1
                yield 2
            finally:
                await anyio.lowlevel.checkpoint()
                closed = True

    async with stream(echo, prompts()) as outcomes:
        assert (await outcomes.receive()).unwrap() == 0
        await wait_all_tasks_blocked()
        come.set()  # the source is about to go on,
        outcomes.drain()  # and is ended before it does
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Failure)
    assert (outcome.prompt, type(outcome.error)) == (1, Stopped)
    assert closed


async def test_an_error_of_the_source_is_not_raised_by_leaving_before_it_is_read() -> None:
    def prompts() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("source")

    async with stream(slow, prompts()) as outcomes:
        async for _ in outcomes:
            await wait_all_tasks_blocked()
            break
    async with stream(slow, prompts(), max_concurrent=1) as outcomes:
        await outcomes.receive()
