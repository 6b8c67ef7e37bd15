"""A fake service in a thread of its own: entered with or without an event loop, in any task."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group

from genbatch import GeminiClient
from genbatch.openai import OpenAIClient
from genbatch.testing import Call, FakeGemini, FakeOpenAI, Fault, closed_port
from support.backends import until
from support.wire import PATH, asking

on_both = pytest.mark.parametrize("fake", [FakeGemini, FakeOpenAI])


def client_of(server: Any) -> Any:
    client = GeminiClient if isinstance(server, FakeGemini) else OpenAIClient
    return client("a-key", base_url=server.url)


async def paint(server: Any) -> bytes:
    async with client_of(server) as client:
        data: bytes = (await client.generate_image("a fox")).data
    return data


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"FakeGemini", "FakeOpenAI"}


@on_both
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_plain_program_runs_loops_beside_it(fake: Any, backend: str) -> None:
    with fake(image_size=8) as server:
        for _ in range(2):
            assert anyio.run(paint, server, backend=backend).startswith(b"\x89PNG")
        assert server.stats.images == 2
        assert threads() == {fake.__name__}
    assert threads() == set()
    with pytest.raises(RuntimeError, match="is not running: enter it with `with` or `async with`"):
        server.url  # noqa: B018


@on_both
@pytest.mark.anyio
async def test_it_serves_while_the_event_loop_is_held_up(fake: Any) -> None:
    async with fake(image_size=8, thread=True) as server:
        url = f"{server.url.removesuffix('/v1')}/stats"
        stats = httpx.get(url, trust_env=False).json()  # noqa: ASYNC210 - what is tested
        assert stats["images"] == 0
        assert (await paint(server)).startswith(b"\x89PNG")
    assert threads() == set()


@pytest.mark.anyio
async def test_it_may_be_left_by_another_task_than_entered_it() -> None:
    server = FakeGemini(image_size=8, thread=True)
    async with create_task_group() as tasks:
        tasks.start_soon(server.__aenter__)
    await paint(server)
    async with create_task_group() as tasks:
        tasks.start_soon(server.__aexit__, None, None, None)
    assert threads() == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_without_a_thread_that_is_told() -> None:
    server = FakeGemini()
    await asyncio.create_task(server.__aenter__())
    with pytest.raises(RuntimeError, match="enter it with `with`, or give it thread=True"):
        await asyncio.create_task(server.__aexit__(None, None, None))


@pytest.mark.anyio
async def test_it_ends_with_a_cancelled_block() -> None:
    with anyio.CancelScope() as scope:
        async with FakeGemini(thread=True):
            scope.cancel()
            await anyio.sleep_forever()
    assert threads() == set()


@on_both
def test_it_runs_once_at_a_time_and_again_on_its_own_port(fake: Any) -> None:
    with closed_port() as url:
        port = int(url.rpartition(":")[2])
    server = fake(port=port)
    with server:
        with pytest.raises(RuntimeError, match="is running already"), server:
            pass
        assert f":{port}" in server.url
    with server:
        assert f":{port}" in server.url
    assert threads() == set()


def test_what_cannot_be_listened_on_is_told_to_the_caller() -> None:
    with (
        pytest.raises(ValueError, match="host must be a loopback address"),
        FakeGemini(host="0.0.0.0"),
    ):
        pass
    with FakeGemini() as first, pytest.raises(OSError, match="in use"):
        with FakeGemini(port=int(first.url.rpartition(":")[2])):
            pass
    assert threads() == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_of_the_block_arrives_bare_and_ends_it(error: type[BaseException]) -> None:
    with pytest.raises(error, match="of the block"), FakeGemini():
        raise error("of the block")
    assert threads() == set()


def test_an_error_of_a_fault_arrives_as_the_block_ends() -> None:
    def broken(call: Call) -> Fault | None:
        raise ZeroDivisionError(call.prompt)

    expected = pytest.RaisesExc(ZeroDivisionError, match="a fox")
    with pytest.RaisesGroup(expected, flatten_subgroups=True), FakeGemini(faults=broken) as server:
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{server.url}{PATH}?key=any", json=asking("a fox"), trust_env=False)
    assert threads() == set()


@on_both
@pytest.mark.anyio
async def test_answers_that_are_held_back_hold_up_no_other(fake: Any) -> None:
    may_go = threading.Event()

    def held(answer: dict[str, Any]) -> dict[str, Any]:
        assert may_go.wait(60)
        return answer

    def faults(call: Call) -> Fault | None:
        return Fault(edit=held) if call.number <= 8 else None

    async with fake(image_size=8, faults=faults) as server, client_of(server) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(client.generate_image, "a slow fox")
            await until(lambda: bool(server.stats.calls == 8))
            await client.generate_image("a fox")
            may_go.set()
    assert server.stats.images == 9
