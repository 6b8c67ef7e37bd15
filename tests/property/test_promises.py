"""The ten promises of the core, over random batches and random schedules on every backend."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genbatch import Failure, Outcome, Success, collect, stream
from support import virtual
from support.pages import DOCS, blocks_of

backends = pytest.mark.parametrize("backend", virtual.BACKENDS_AND_UVLOOP)
examples = settings(deadline=None, max_examples=60)
setting: contextvars.ContextVar[object] = contextvars.ContextVar("setting")


@dataclass
class Batch:
    """A batch to run, and what was seen of it while it ran."""

    seed: int
    max_concurrent: int
    delays: list[int]
    failing: frozenset[int]
    kind: str  # of source: "list", "iterator" or "async"
    tokens: int | None
    ordered: bool

    backend: str = ""
    calls: list[int] = field(default_factory=list)
    ended: int = 0
    running: int = 0
    peak: int = 0
    pulled: int = 0
    handed_over: int = 0
    furthest_ahead: int = 0
    source_closed: bool = False
    started_after_leaving: list[int] = field(default_factory=list)
    left: bool = False

    @property
    def bound(self) -> int:
        return min(self.max_concurrent, self.tokens or self.max_concurrent)

    @property
    def prompts(self) -> list[str]:
        return [f"prompt {index}" for index in range(len(self.delays))]

    async def generate(self, prompt: str) -> str:
        index = int(prompt.removeprefix("prompt "))
        self.calls.append(index)
        if self.left:
            self.started_after_leaving.append(index)
        self.running += 1
        self.peak = max(self.peak, self.running)
        assert setting.get(None) is None
        setting.set(object())
        try:
            await virtual.pause(self.backend, self.delays[index])
        finally:
            self.running -= 1
        if index in self.failing:
            raise ValueError(prompt)
        return prompt.upper()

    def _pull(self) -> Iterator[str]:
        for prompt in self.prompts:
            self.pulled += 1
            self.furthest_ahead = max(self.furthest_ahead, self.pulled - self.handed_over)
            yield prompt

    async def _pull_async(self) -> AsyncIterator[str]:
        try:
            async with anyio.create_task_group():  # breaks a source iterated by several tasks
                for prompt in self._pull():
                    await virtual.pause(self.backend, int(prompt[-1]) % 3)
                    yield prompt
        finally:
            self.source_closed = True

    def stream(self, *, fail_fast: bool = False) -> Any:
        return stream(self.generate, *self._source(), **self._options(), fail_fast=fail_fast,
                      ordered=self.ordered)  # fmt: skip

    async def collect(self, *, fail_fast: bool = False) -> list[Outcome[str, str]]:
        return await collect(self.generate, *self._source(), **self._options(), fail_fast=fail_fast)

    def _source(self) -> tuple[Any]:
        sources = {"list": lambda: self.prompts, "iterator": self._pull, "async": self._pull_async}
        return (sources[self.kind](),)

    def _options(self) -> dict[str, Any]:
        limiter = anyio.CapacityLimiter(self.tokens) if self.tokens else None
        return {"max_concurrent": self.max_concurrent, "limiter": limiter}

    def expected(self, index: int) -> Outcome[str, str] | str:
        """The success of this index; of a failure, whose error has no equality, its text."""
        prompt = self.prompts[index]
        return prompt if index in self.failing else Success(index, prompt, prompt.upper())

    def check(self, outcomes: list[Outcome[str, str]]) -> None:
        """Each outcome is the one its prompt must have."""
        for outcome in outcomes:
            assert outcome.prompt == self.prompts[outcome.index]
            seen = str(outcome.error) if isinstance(outcome, Failure) else outcome
            assert seen == self.expected(outcome.index)


@st.composite
def batches(draw: st.DrawFn, *, failing: bool = True) -> Batch:
    delays = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 7]), max_size=24))
    indexes = st.integers(0, max(len(delays) - 1, 0))
    return Batch(
        seed=draw(st.integers(0, 2**32 - 1)),
        max_concurrent=draw(st.integers(1, 7)),
        delays=delays,
        failing=draw(st.frozensets(indexes)) if failing else frozenset(),
        kind=draw(st.sampled_from(["list", "iterator", "async"])),
        tokens=draw(st.none() | st.integers(1, 8)),
        ordered=draw(st.booleans()),
    )


def run(batch: Batch, backend: str, main: Any, *args: Any) -> Any:
    batch.backend = backend
    result = virtual.run(backend, main, *args, seed=batch.seed)
    assert batch.running == 0  # nothing outlives its block
    if batch.kind == "async" and batch.pulled:
        assert batch.source_closed
    return result


@backends
@examples
@given(batch=batches(), reading=st.integers(0, 3))
def test_every_prompt_has_exactly_one_outcome_within_the_bounds(
    backend: str, batch: Batch, reading: int
) -> None:
    async def main() -> list[Outcome[str, str]]:
        seen = []
        async with batch.stream() as outcomes:
            async for outcome in outcomes:
                batch.handed_over += 1
                seen.append(outcome)
                await virtual.pause(backend, reading)
            progress = outcomes.progress
        total, failed = len(batch.delays), len(seen) - sum(isinstance(o, Success) for o in seen)
        assert (progress.total, progress.started, progress.done) == (total, total, total)
        assert (progress.failed, progress.in_flight) == (failed, 0)
        return seen

    seen = run(batch, backend, main)
    batch.check(seen)
    indexes = [outcome.index for outcome in seen]
    assert sorted(indexes) == list(range(len(batch.delays)))
    assert batch.ordered is False or indexes == sorted(indexes)
    assert batch.peak <= batch.bound
    # The prompt whose outcome is on its way to this reader counts as handed over already.
    assert batch.furthest_ahead <= 2 * batch.max_concurrent + 1


@backends
@examples
@given(batch=batches())
def test_collect_returns_one_outcome_per_prompt_in_input_order(backend: str, batch: Batch) -> None:
    outcomes = run(batch, backend, batch.collect)
    assert [outcome.index for outcome in outcomes] == list(range(len(batch.delays)))
    batch.check(outcomes)
    assert batch.peak <= batch.bound


@backends
@examples
@given(batch=batches(), readers=st.integers(2, 5))
def test_several_readers_share_the_outcomes(backend: str, batch: Batch, readers: int) -> None:
    async def main() -> list[Outcome[str, str]]:
        seen: list[Outcome[str, str]] = []

        async def read(outcomes: Any) -> None:
            async for outcome in outcomes:
                seen.append(outcome)
                await virtual.pause(backend, outcome.index % 3)

        async with batch.stream() as outcomes, anyio.create_task_group() as group:
            for _ in range(readers):
                group.start_soon(read, outcomes)
        return seen

    seen = run(batch, backend, main)
    batch.check(seen)
    assert sorted(outcome.index for outcome in seen) == list(range(len(batch.delays)))


@backends
@examples
@given(
    batch=batches(), wanted=st.integers(0, 24), way=st.sampled_from(["break", "aclose", "error"])
)
def test_leaving_early_starts_no_further_call(
    backend: str, batch: Batch, wanted: int, way: str
) -> None:
    class Left(Exception):
        pass

    async def main() -> list[Outcome[str, str]]:
        seen = []
        try:
            async with batch.stream() as outcomes:
                while len(seen) < wanted:
                    try:
                        seen.append(await outcomes.receive())
                    except anyio.EndOfStream:
                        break
                batch.left = True
                if way == "aclose":
                    await outcomes.aclose()
                    assert batch.running == 0
                    with pytest.raises(anyio.ClosedResourceError):
                        await outcomes.receive()
                elif way == "error":
                    raise Left
        except Left:
            assert way == "error"
        assert batch.running == 0
        with pytest.raises(anyio.ClosedResourceError):
            await outcomes.receive()
        await virtual.pause(backend, 10)
        return seen

    batch.check(run(batch, backend, main))
    assert batch.started_after_leaving == []
    assert len(batch.calls) <= wanted + 2 * batch.max_concurrent


@backends
@examples
@given(batch=batches(), after=st.integers(0, 20))
def test_cancelling_from_outside_waits_for_the_calls(
    backend: str, batch: Batch, after: int
) -> None:
    before = 0

    async def main() -> None:
        nonlocal before
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                nonlocal before
                await virtual.pause(backend, after)
                before = len(batch.calls)
                group.cancel_scope.cancel()

            group.start_soon(cancel)
            async with batch.stream() as outcomes:
                async for _ in outcomes:
                    pass
            before = len(batch.calls)
            group.cancel_scope.cancel()
        batch.left = True
        assert batch.running == 0
        await virtual.pause(backend, 10)

    run(batch, backend, main)
    assert batch.started_after_leaving == []
    # A worker whose turn was coming may start a call in it, which its first checkpoint ends.
    assert len(batch.calls) - before <= 2 * batch.max_concurrent


@backends
@examples
@given(batch=batches(), patience=st.lists(st.integers(0, 3), min_size=1, max_size=10))
def test_a_cancelled_read_loses_nothing(backend: str, batch: Batch, patience: list[int]) -> None:
    async def main() -> list[Outcome[str, str]]:
        seen: list[Outcome[str, str]] = []
        async with batch.stream() as outcomes:
            for turn in range(10_000):
                try:
                    seen.append(
                        await impatiently(backend, outcomes, patience[turn % len(patience)], turn)
                    )
                except TimeoutError:
                    pass
                except anyio.EndOfStream:
                    return seen
        raise AssertionError("the stream did not end")

    seen = run(batch, backend, main)
    batch.check(seen)
    assert sorted(outcome.index for outcome in seen) == list(range(len(batch.delays)))


async def impatiently(backend: str, outcomes: Any, patience: int, turn: int) -> Any:
    """Read with a timeout: by an anyio scope, or natively where the backend has such a thing."""
    if backend == "trio" or turn % 3 == 0:
        with anyio.fail_after(max(patience, 1) if backend != "uvloop" else patience / 1e4):
            return await outcomes.receive()
    if turn % 3 == 1:
        async with asyncio.timeout(max(patience, 1) if backend != "uvloop" else patience / 1e4):
            return await outcomes.receive()
    return await cancelled_natively(outcomes, hops=patience)


async def cancelled_natively(outcomes: Any, hops: int) -> Any:
    """Read; after some steps of the event loop, if the read still waits, cancel its task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def run_in_thread(left: int) -> asyncio.Handle:
        nonlocal handle
        handle = loop.call_soon(run_in_thread, left - 1) if left else loop.call_soon(task.cancel)
        return handle

    handle = run_in_thread(hops)
    try:
        return await outcomes.receive()
    except asyncio.CancelledError:
        task.uncancel()
        raise TimeoutError from None
    finally:
        handle.cancel()


@backends
@examples
@given(batch=batches())
@example(batch=Batch(0, 3, [1, 1, 1, 7], frozenset({0, 1}), "list", None, True))
def test_fail_fast_hands_over_what_has_finished_and_raises_every_failure(
    backend: str, batch: Batch
) -> None:
    async def main() -> tuple[list[Outcome[str, str]], ExceptionGroup[Exception] | None]:
        seen: list[Outcome[str, str]] = []
        try:
            async with batch.stream(fail_fast=True) as outcomes:
                async for outcome in outcomes:
                    seen.append(outcome)
        except ExceptionGroup as group:
            return seen, group
        return seen, None

    seen, group = run(batch, backend, main)
    batch.check(seen)
    assert all(isinstance(outcome, Success) for outcome in seen)
    failed = {int(str(error).split()[1]) for error in group.exceptions} if group else set()
    assert bool(failed) == bool(batch.failing & set(range(len(batch.delays))))
    assert failed <= batch.failing
    if not failed:
        assert len(seen) == len(batch.delays)
    indexes = [outcome.index for outcome in seen]
    assert batch.ordered is False or indexes == sorted(indexes)


@backends
@examples
@given(batch=batches(), good=st.integers(0, 24), collecting=st.booleans())
def test_a_source_error_comes_after_the_last_outcome(
    backend: str, batch: Batch, good: int, collecting: bool
) -> None:
    class SourceError(Exception):
        pass

    good = min(good, len(batch.delays))

    def broken() -> Iterator[str]:
        yield from batch.prompts[:good]
        raise SourceError

    async def broken_async() -> AsyncIterator[str]:
        for prompt in broken():
            yield prompt

    async def main() -> list[Outcome[str, str]]:
        seen: list[Outcome[str, str]] = []
        source: Any = broken_async() if batch.kind == "async" else broken()
        if collecting:
            with pytest.raises(SourceError):
                await collect(batch.generate, source, max_concurrent=batch.max_concurrent)
            return []
        async with stream(batch.generate, source, max_concurrent=batch.max_concurrent) as outcomes:
            with pytest.raises(SourceError):
                async for outcome in outcomes:
                    seen.append(outcome)
            with pytest.raises(SourceError):  # and no later reader takes it for the end
                await outcomes.receive()
        return seen

    seen = run(batch, backend, main)
    batch.check(seen)
    assert len(batch.calls) == good
    assert collecting or sorted(outcome.index for outcome in seen) == list(range(good))


@backends
@examples
@given(batch=batches(failing=False), own=st.sampled_from([KeyError, KeyboardInterrupt, SystemExit]))
def test_an_error_of_the_block_arrives_bare_even_when_it_is_cancelled(
    backend: str, batch: Batch, own: type[BaseException]
) -> None:
    async def main() -> None:
        with pytest.raises(own, match="mine"), anyio.CancelScope() as scope:
            async with batch.stream() as outcomes:
                async for _ in outcomes:
                    break
                scope.cancel()
                raise own("mine")

    run(batch, backend, main)


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@pytest.mark.parametrize(("max_concurrent", "seconds"), [(5, 60.0), (1, 300.0)])
@pytest.mark.parametrize("collecting", [True, False])
def test_a_hundred_prompts_of_three_seconds_take_exactly_their_time(
    backend: str, max_concurrent: int, seconds: float, collecting: bool
) -> None:
    async def generate(prompt: int) -> int:
        await anyio.sleep(3)
        return prompt

    async def main() -> float:
        began = anyio.current_time()
        if collecting:
            await collect(generate, range(100), max_concurrent=max_concurrent)
        else:
            async with stream(generate, range(100), max_concurrent=max_concurrent) as outcomes:
                assert len([outcome async for outcome in outcomes]) == 100
        return anyio.current_time() - began

    assert virtual.run(backend, main) == pytest.approx(seconds, abs=1e-9)


@backends
@examples
@given(
    batch=batches(),
    totals=st.lists(st.sampled_from([0, 1, 2, 3, 5, 9]), min_size=1, max_size=8),
    reading=st.integers(0, 2),
)
def test_the_calls_follow_the_limiter_of_their_batch(
    backend: str, batch: Batch, totals: list[int], reading: int
) -> None:
    """Whatever is set while it runs; a pause is always ended, and then all goes on."""
    seen: list[Outcome[str, str]] = []
    highest = 0  # calls that may run: a lower total lets those that run finish

    async def generate(prompt: str) -> str:
        nonlocal highest
        highest = max(limiter.total_tokens, min(highest, batch.running))
        assert batch.running < highest
        return await batch.generate(prompt)

    async def resize() -> None:
        nonlocal highest
        for total in [*totals, batch.max_concurrent]:
            await virtual.pause(backend, 2)
            assert batch.running <= highest
            assert limiter.borrowed_tokens >= batch.running
            highest = max(total, batch.running)
            limiter.total_tokens = total
            if total == 0:
                await virtual.pause(backend, 20)  # longer than any call
                assert batch.running == 0
                started = len(batch.calls)
                await virtual.pause(backend, 5)
                assert len(batch.calls) == started

    async def main() -> None:
        nonlocal limiter, highest
        highest = batch.max_concurrent
        shared = anyio.CapacityLimiter(batch.tokens) if batch.tokens else None
        async with stream(
            generate,
            *batch._source(),
            max_concurrent=batch.max_concurrent,
            limiter=shared,
            ordered=batch.ordered,
        ) as outcomes:
            limiter = outcomes.limiter
            assert limiter.total_tokens == batch.max_concurrent
            async with anyio.create_task_group() as group:
                group.start_soon(resize)
                async for outcome in outcomes:
                    batch.handed_over += 1
                    seen.append(outcome)
                    await virtual.pause(backend, reading)
            assert limiter.borrowed_tokens == 0

    limiter: Any = None
    run(batch, backend, main)
    batch.check(seen)
    indexes = [outcome.index for outcome in seen]
    assert sorted(indexes) == list(range(len(batch.delays)))
    assert not batch.ordered or indexes == sorted(indexes)
    assert batch.tokens is None or batch.peak <= batch.tokens
    most = 2 * max(*totals, batch.max_concurrent)
    assert batch.furthest_ahead <= most + 1


@backends
@examples
@given(batch=batches(), wanted=st.none() | st.integers(0, 24))
def test_the_version_of_sixty_lines_keeps_what_its_page_says(
    backend: str, batch: Batch, wanted: int | None
) -> None:
    (block,) = (each for each in blocks_of(DOCS / "sixty-lines.md") if each.file == "sixty.py")
    assert len(block.text.splitlines()) <= 60
    names: dict[str, Any] = {"__name__": "__main__"}  # where dataclasses look
    exec(block.text, names)
    source = batch.prompts if batch.kind == "list" else batch._pull()

    async def generate(prompt: str) -> str:
        setting.set(None)  # it isolates no contexts
        return await batch.generate(prompt)

    async def main() -> list[Any]:
        seen: list[Any] = []
        async with names["stream"](
            generate, source, max_concurrent=batch.max_concurrent
        ) as outcomes:
            async for outcome in outcomes:
                batch.handed_over += 1
                seen.append(outcome)
                if len(seen) == wanted:
                    break
            batch.left = True
        await virtual.pause(backend, 10)
        return seen

    batch.kind = "list"
    seen = run(batch, backend, main)
    for each in seen:
        assert each.prompt == batch.prompts[each.index]
        failed = each.index in batch.failing
        assert (str(each.error) if failed else each.value) == (
            each.prompt if failed else each.prompt.upper()
        )
    indexes = [each.index for each in seen]
    assert len(indexes) == len(set(indexes))
    assert wanted is not None or sorted(indexes) == list(range(len(batch.delays)))
    assert batch.peak <= batch.max_concurrent
    assert batch.started_after_leaving == []
