"""What belongs to an event loop refuses a second one at once; one after another may use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from genbatch import (
    Budget,
    Failure,
    GeminiClient,
    Store,
    Throttle,
    generate_images,
)
from genbatch.openai import OpenAIClient
from genbatch.testing import FakeGemini
from support.backends import BACKENDS

Use: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]

pytestmark = pytest.mark.anyio

MESSAGE = "is in use in another event loop: use it in one at a time, or make one .* for each"


@asynccontextmanager
async def in_flight(throttle: Throttle) -> AsyncIterator[None]:
    """Have a call of a throttle in flight inside the block."""
    began, end = anyio.Event(), anyio.Event()

    async def call() -> None:
        began.set()
        await end.wait()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(throttle.run, call)
            await began.wait()
            yield
            end.set()
    except ExceptionGroup as group_of_one:
        raise group_of_one.exceptions[0] from None


@pytest.fixture(params=["throttle", "budget", "store", "client", "other client"])
def use(request: pytest.FixtureRequest, tmp_path: Path) -> Use:
    """Return what uses one and the same thing for as long as a block lasts."""
    throttle, budget, store = Throttle(), Budget(1.0), Store(tmp_path)
    gemini, openai = GeminiClient(api_key="any"), OpenAIClient(api_key="any")
    uses: dict[str, Use] = {
        "throttle": lambda: in_flight(throttle),
        "budget": lambda: budget.attempt(0.1),
        "store": lambda: store,
        "client": lambda: gemini,
        "other client": lambda: openai,
    }
    return uses[request.param]


async def elsewhere(function: Callable[[], Awaitable[Any]], backend: tuple[str, Any]) -> Any:
    """Run a function to its end on another event loop, while this one goes on."""
    name, options = backend
    run = anyio.to_thread.run_sync
    return await run(lambda: anyio.run(function, backend=name, backend_options=options))


async def once(use: Use) -> None:
    async with use():
        pass


@pytest.mark.parametrize("other", BACKENDS.values(), ids=BACKENDS)
async def test_a_second_loop_is_refused_at_once_and_the_first_goes_on(
    use: Use, other: tuple[str, Any]
) -> None:
    async with use():
        with pytest.raises(RuntimeError, match=MESSAGE):
            await elsewhere(lambda: once(use), other)
    await once(use)


@pytest.mark.parametrize("other", BACKENDS.values(), ids=BACKENDS)
async def test_one_loop_after_another_may_use_it(use: Use, other: tuple[str, Any]) -> None:
    await once(use)
    await elsewhere(lambda: once(use), other)
    await once(use)


async def test_one_loop_may_use_a_throttle_and_a_budget_many_times_at_once() -> None:
    throttle, budget = Throttle(), Budget(1.0)
    async with in_flight(throttle), in_flight(throttle):
        assert throttle.in_flight == 2
    async with budget.attempt(0.1), budget.attempt(0.1):
        pass
    assert budget.maybe_images == 2


async def test_what_an_open_client_is_asked_from_another_loop_is_refused(
    anyio_backend: Any,
) -> None:
    async with FakeGemini() as server:
        async with GeminiClient(api_key="any", base_url=server.url) as client:
            with pytest.raises(RuntimeError, match=f"GeminiClient {MESSAGE}"):
                await elsewhere(lambda: client.generate_image("a fox"), anyio_backend)
            await client.generate_image("a fox")
        assert len(server.calls) == 1


async def test_a_batch_of_another_loop_fails_with_it(tmp_path: Path, anyio_backend: Any) -> None:
    async def generate(prompt: str) -> bytes:
        raise AssertionError("nothing may be paid")

    async def batch() -> list[type[Exception]]:
        async with generate_images(generate, ["a", "b"], store=store) as outcomes:
            return [type(each.error) async for each in outcomes if isinstance(each, Failure)]

    async with Store(tmp_path) as store:
        assert await elsewhere(batch, anyio_backend) == [RuntimeError, RuntimeError]


async def test_the_state_of_a_throttle_can_be_read_from_another_loop(anyio_backend: Any) -> None:
    throttle = Throttle(pace="1/h")

    async def state() -> tuple[int, float, str]:
        return throttle.in_flight, throttle.paused_for, str(throttle)

    async with in_flight(throttle):
        due = throttle._due()
        assert (await elsewhere(state, anyio_backend))[0] == 1
        assert throttle._due() == due
