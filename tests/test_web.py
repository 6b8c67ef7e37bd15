"""A batch that an async generator relays may be forgotten, closed anywhere, or never read."""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from anyio import create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

import genbatch
from genbatch import Failure, GeminiClient, Success
from genbatch.testing import FakeGemini
from genbatch.web import Relay, open_relay
from support.backends import until
from support.gates import Gate

pytestmark = pytest.mark.anyio


class Calls:
    """Calls of which those from a number on never end."""

    def __init__(self, endless_from: int = 3) -> None:
        self.started = 0
        self.running: set[int] = set()
        self._endless_from = endless_from

    async def generate(self, prompt: int) -> int:
        self.started += 1
        self.running.add(prompt)
        try:
            await (anyio.sleep_forever() if prompt >= self._endless_from else checkpoint())
        finally:
            self.running.discard(prompt)
        return prompt

    async def relayed(self, relay: Relay, prompts: int = 10) -> AsyncGenerator[int]:
        with relay.outcomes_of(genbatch.stream(self.generate, range(prompts))) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()

    async def direct(self, prompts: int = 10) -> AsyncGenerator[int]:
        async with genbatch.stream(self.generate, range(prompts)) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()


@pytest.fixture
def calls() -> Calls:
    return Calls()


async def test_every_outcome_is_relayed_and_failures_are_data() -> None:
    async def generate(prompt: int) -> int:
        return 6 // prompt

    async with open_relay() as relay:
        batch = genbatch.stream(generate, [3, 0, 2], ordered=True)
        with relay.outcomes_of(batch) as outcomes:
            match [outcome async for outcome in outcomes]:
                case [Success(value=2), Failure(error=ZeroDivisionError()), Success(value=3)]:
                    pass
                case others:
                    pytest.fail(str(others))


async def test_closing_the_generator_in_another_task_ends_its_calls(calls: Calls) -> None:
    async with open_relay() as relay:
        generator = calls.relayed(relay)
        assert await anext(generator) in range(3)
        async with create_task_group() as others:
            others.start_soon(generator.aclose)
        await until(lambda: not calls.running)


async def test_a_timeout_around_one_step_is_harmless(calls: Calls) -> None:
    async with open_relay() as relay:
        generator = calls.relayed(relay)
        found = set()
        for _ in range(3):
            with anyio.fail_after(60):
                found.add(await anext(generator))
        assert found == {0, 1, 2}
        with anyio.move_on_after(0):
            await anext(generator)
        await until(lambda: not calls.running)


async def test_a_generator_that_is_forgotten_ends_its_calls(calls: Calls) -> None:
    async def forget() -> None:
        await anext(calls.relayed(relay))

    async with open_relay() as relay:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # trio's, about any such generator
            async with create_task_group() as others:
                others.start_soon(forget)
            gc.collect()
            await until(lambda: not calls.running)


async def test_a_generator_that_is_never_iterated_starts_nothing(calls: Calls) -> None:
    async with open_relay() as relay:
        await calls.relayed(relay).aclose()
        await wait_all_tasks_blocked()
        assert calls.started == 0


async def test_a_reader_that_never_reads_stops_the_batch() -> None:
    calls = Calls(endless_from=1000)
    async with open_relay() as relay:
        generator = calls.relayed(relay, prompts=1000)
        await anext(generator)
        await wait_all_tasks_blocked()
        assert calls.started == 1 + 1 + 2 * 5  # read, being handed over, and the window
        assert calls.running == set()
        await generator.aclose()


async def test_an_error_of_the_batch_arrives_as_the_block_ends() -> None:
    async def generate(prompt: int) -> float:
        return 1 / prompt

    async def prompts() -> AsyncIterator[int]:
        yield 1
        raise OSError("of the prompts")

    found = []
    async with open_relay() as relay:
        with pytest.raises(OSError, match="of the prompts"):
            with relay.outcomes_of(genbatch.stream(generate, prompts())) as outcomes:
                found += [outcome.unwrap() async for outcome in outcomes]
        with pytest.RaisesGroup(ZeroDivisionError):
            with relay.outcomes_of(genbatch.stream(generate, [0], fail_fast=True)) as outcomes:
                assert [outcome async for outcome in outcomes] == []
    assert found == [1.0]


async def test_an_error_of_the_block_arrives_bare(calls: Calls) -> None:
    async with open_relay() as relay:
        with pytest.raises(KeyError):
            with relay.outcomes_of(genbatch.stream(calls.generate, range(10))) as outcomes:
                await outcomes.receive()
                raise KeyError
        await until(lambda: not calls.running)


async def test_a_batch_that_the_app_cuts_short_does_not_end_clean(calls: Calls) -> None:
    found: list[int] = []

    async def read(generator: AsyncGenerator[int]) -> None:
        with pytest.raises(RuntimeError, match="cut short"):
            async for value in generator:
                found.append(value)

    async with create_task_group() as requests:
        async with open_relay(grace=0) as relay:
            requests.start_soon(read, calls.relayed(relay))
            await until(lambda: len(found) == 3)
    assert sorted(found) == [0, 1, 2]
    assert calls.running == set()


async def test_an_app_that_shuts_down_does_not_wait_for_readers() -> None:
    calls = Calls(endless_from=1000)
    async with open_relay(grace=math.inf) as relay:
        generator = calls.relayed(relay, prompts=1000)
        await anext(generator)
        await wait_all_tasks_blocked()
    started = calls.started
    with pytest.raises(RuntimeError, match="cut short"):
        while True:
            await anext(generator)
    assert calls.started == started


@pytest.mark.parametrize("drain", [True, False])
async def test_calls_in_flight_finish_and_are_saved_if_asked_for(
    drain: bool, tmp_path: Path
) -> None:
    gate = Gate()
    prompts = [f"fox {number}" for number in range(40)]
    async with (
        FakeGemini(image_size=8, faults=gate) as fake,
        GeminiClient("a-key", base_url=fake.url) as client,
        open_relay() as relay,
    ):
        batch = genbatch.generate_images(client, prompts, save_dir=tmp_path)
        with relay.outcomes_of(batch, drain=drain):
            await until(lambda: fake.stats.in_flight == 5)
        if not drain:
            await until(lambda: fake.stats.in_flight == 0)
        gate.open()
    assert len(list(tmp_path.glob("*.png"))) == (5 if drain else 0)
    assert fake.stats.calls == 5


# What a generator may do around a batch of its own


async def test_a_batch_in_a_generator_is_left_in_order_by_the_task_that_reads_it(
    calls: Calls,
) -> None:
    async with aclosing(calls.direct()) as generator:
        async for _ in generator:
            break
    assert calls.running == set()
    with anyio.move_on_after(0.01) as scope:
        async with aclosing(calls.direct()) as generator:
            async for _ in generator:
                pass
    assert scope.cancelled_caught
    assert calls.running == set()


async def test_a_batch_in_a_generator_goes_on_while_that_is_suspended(calls: Calls) -> None:
    async with aclosing(calls.direct()) as generator:
        await anext(generator)
        await wait_all_tasks_blocked()
        assert calls.running


BROKEN = """
import anyio
import genbatch

async def generate(prompt):
    return prompt

async def outcomes():
    async with genbatch.stream(generate, [1, 2]) as outcomes:
        async for outcome in outcomes:
            yield outcome

async def main():
    generator = outcomes()
    with anyio.fail_after(60):
        await anext(generator)

anyio.run(main, backend={!r})
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_timeout_around_one_step_breaks_a_batch_in_a_generator(backend: str) -> None:
    command = [sys.executable, "-c", BROKEN.format(backend)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert re.search("Attempted to exit a cancel scope|TrioInternalError", done.stderr)
