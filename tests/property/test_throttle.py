"""Throttled batches against services that reject: whole ones, and at random."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genbatch import RateLimited, Success, Throttle, Unavailable, collect, stream, throttled
from support import virtual

backends = pytest.mark.parametrize("backend", virtual.BACKENDS)
seeds = pytest.mark.parametrize("seed", [1, 2])
examples = settings(deadline=None, max_examples=60)


@dataclass
class Service:
    """Answers a call after so many seconds, or rejects it, as wait says, after verdict seconds."""

    wait: Callable[[float], float]  # seconds until there is room for one more; 0 lets one in
    takes: float = 8.0
    tells: bool = False
    verdict: float = 0.0
    calls: int = 0
    rejected: int = 0
    late: int = 0  # rejected after the first 20 calls
    running: int = 0
    paused_until: float = float("-inf")
    started_in_a_pause: int = 0
    order: list[int] = field(default_factory=list)  # prompts let in
    waiting: set[int] = field(default_factory=set)  # prompts rejected and not yet called again
    overtaken: int = 0  # by a later prompt, while waiting

    async def generate(self, prompt: int) -> int:
        now = anyio.current_time()
        self.calls += 1
        self.started_in_a_pause += now < self.paused_until - 1e-9
        self.waiting.discard(prompt)
        self.overtaken += any(earlier < prompt for earlier in self.waiting)
        if (wait := self.wait(now)) > 0:
            self.rejected += 1
            self.late += self.calls > 20
            await anyio.sleep(self.verdict)
            if self.tells:
                now = anyio.current_time()
                self.paused_until = max(self.paused_until, now + wait)
            self.waiting.add(prompt)
            raise RateLimited("too many calls", retry_after=wait if self.tells else None)
        self.order.append(prompt)
        self.running += 1
        try:
            await anyio.sleep(self.takes)
        finally:
            self.running -= 1
        return prompt


def crowd(room: Callable[[Service], int], **options: float) -> Service:
    """Return a service that runs so many calls at once."""
    service = Service(lambda _: 1.0 if service.running >= room(service) else 0.0, **options)
    return service


def rolling(quota: int, window: float = 60, **options: float) -> Service:
    """Return a service that lets so many calls start in any window of seconds."""
    kept: deque[float] = deque()

    def wait(now: float) -> float:
        while kept and kept[0] <= now - window:
            kept.popleft()
        if len(kept) >= quota:
            return kept[0] + window - now
        kept.append(now)
        return 0.0

    return Service(wait, **options)


def minutes(quota: int, window: float = 60, **options: float) -> Service:
    """Return a service that lets so many calls start in each full minute of the clock, say."""
    used: dict[float, int] = {}

    def wait(now: float) -> float:
        minute = now // window
        if used.get(minute, 0) >= quota:
            return (minute + 1) * window - now
        used[minute] = used.get(minute, 0) + 1
        return 0.0

    return Service(wait, **options)


def run(service: Service, n: int, k: int, backend: str, seed: int) -> float:
    """Run a throttled batch in which every prompt must succeed; return its seconds."""

    async def main() -> float:
        began = anyio.current_time()
        generate = throttled(service.generate, Throttle(patience=math.inf))
        outcomes = await collect(generate, range(n), max_concurrent=k)
        assert [outcome.unwrap() for outcome in outcomes] == list(range(n))
        return anyio.current_time() - began

    random.seed(seed)  # of the pauses
    return virtual.run(backend, main, seed=seed)


@backends
@seeds
def test_a_limit_on_calls_at_once_is_found_with_few_rejections(backend: str, seed: int) -> None:
    service = crowd(lambda _: 40)
    assert run(service, 1500, 100, backend, seed) <= 1.2 * 304  # fixed k=40
    assert service.rejected <= 10


@backends
@seeds
def test_a_limit_that_falls_midway_is_found_again(backend: str, seed: int) -> None:
    service = crowd(lambda service: 40 if len(service.order) < 750 else 10)
    assert run(service, 1500, 100, backend, seed) <= 1.3 * (750 / 40 * 8 + 750 / 10 * 8)


@backends
@seeds
def test_a_limit_that_rises_is_found_too(backend: str, seed: int) -> None:
    service = crowd(lambda service: 10 if len(service.order) < 500 else 90)
    assert run(service, 4000, 100, backend, seed) <= 1.4 * (500 / 10 * 8 + 3500 / 90 * 8)
    assert service.rejected <= 30


@backends
def test_a_quota_that_rises_is_found_within_some_rounds(backend: str) -> None:
    slow, fast = rolling(5), rolling(60)
    service = Service(lambda now: (slow if len(service.order) < 100 else fast).wait(now))
    assert run(service, 1000, 50, backend, 1) <= 1.7 * (1200 + 900)
    assert service.late <= 0.05 * service.calls


@backends
@seeds
def test_without_a_limit_a_batch_is_soon_as_fast_as_unthrottled(backend: str, seed: int) -> None:
    service = crowd(lambda _: 1000)
    assert run(service, 1500, 100, backend, seed) <= 1.2 * 120
    assert service.rejected == 0


@backends
@seeds
@pytest.mark.parametrize("takes", [0.2, 3, 8, 20])
@pytest.mark.parametrize(
    ("quota", "tells"), [(60, True), (60, False), (5, True), (5, False)], ids=str
)
def test_a_quota_on_starts_is_used_up_with_few_rejections(
    quota: int, tells: bool, takes: float, backend: str, seed: int
) -> None:
    service = rolling(quota, takes=takes, tells=tells)
    assert run(service, 300, 50, backend, seed) <= 1.15 * 300 / quota * 60
    assert service.late <= 0.05 * (service.calls - 20)
    assert service.started_in_a_pause == 0


@backends
@pytest.mark.parametrize("takes", [0.2, 3, 8, 20])
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("quota", [60, 5])
def test_a_quota_that_is_counted_anew_each_minute_is_no_trouble(
    quota: int, tells: bool, takes: float, backend: str
) -> None:
    service = minutes(quota, takes=takes, tells=tells)
    assert run(service, 300, 50, backend, 1) <= 1.3 * 300 / quota * 60
    assert service.late <= 0.1 * (service.calls - 20)


@backends
@seeds
@pytest.mark.parametrize("takes", [3, 20])
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("counted", [rolling, minutes])
def test_a_spend_limit_of_ten_minutes_is_used_up_with_few_rejections(
    counted: Callable[..., Service], tells: bool, takes: float, backend: str, seed: int
) -> None:
    dollars, each = 10, 0.134
    quota = int(dollars / each)
    service = counted(quota, 600, takes=takes, tells=tells)
    assert run(service, 300, 50, backend, seed) <= 1.1 * 300 / quota * 600
    assert service.late <= 0.1 * (service.calls - 20)


@backends
@pytest.mark.parametrize("counted", [rolling, minutes])
def test_a_quota_of_a_day_that_is_not_told_is_asked_about_every_ten_minutes(
    counted: Callable[..., Service], backend: str
) -> None:
    service = counted(100, 86_400, takes=8)
    assert run(service, 250, 50, backend, 1) <= 1.1 * 2.5 * 86_400
    assert service.late <= 2.5 * 86_400 / 600


@backends
def test_rejections_that_come_late_cost_little_more(backend: str) -> None:
    service = rolling(60, takes=8.0, tells=True, verdict=0.2)
    assert run(service, 300, 50, backend, 1) <= 1.15 * 300
    assert service.late <= 0.05 * (service.calls - 20)


@backends
@examples
@given(
    seed=st.integers(0, 2**32 - 1),
    room=st.integers(1, 30),
    quota=st.integers(1, 40),
    delay=st.none() | st.sampled_from([0.5, 3.0, 15.0, 90.0]),
    takes=st.sampled_from([0.0, 0.3, 2.0, 30.0]),
    verdict=st.sampled_from([0.0, 0.1, 5.0]),
    n=st.integers(1, 60),
    k=st.integers(1, 40),
    broken=st.frozensets(st.integers(0, 59), max_size=5),
)
def test_any_service_gets_no_call_in_a_pause_and_any_prompt_its_one_outcome(
    backend: str,
    seed: int,
    room: int,
    quota: int,
    delay: float | None,
    takes: float,
    verdict: float,
    n: int,
    k: int,
    broken: frozenset[int],
) -> None:
    kept: list[float] = []

    def wait(now: float) -> float:
        in_a_minute = sum(start > now - 60 for start in kept)
        if service.running >= room or in_a_minute >= quota:
            return delay or 1.0
        kept.append(now)
        return 0.0

    service = Service(wait, takes, tells=delay is not None, verdict=verdict)

    async def generate(prompt: int) -> int:
        await service.generate(prompt)
        if prompt in broken:
            raise Unavailable(f"prompt {prompt}")
        return prompt

    async def main() -> None:
        throttle = Throttle(patience=1e6)
        seen = []
        async with stream(throttled(generate, throttle), range(n), max_concurrent=k) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome.index)
                assert isinstance(outcome, Success) == (outcome.index not in broken)
        assert sorted(seen) == list(range(n))
        assert (throttle.waiting, throttle.in_flight) == (0, 0)
        assert service.running == 0

    virtual.run(backend, main, seed=seed)
    assert service.started_in_a_pause == 0
    assert service.overtaken == 0


@backends
@examples
@given(
    seed=st.integers(0, 2**32 - 1),
    room=st.integers(1, 8),
    sizes=st.lists(st.integers(1, 25), min_size=2, max_size=4),
    leave_after=st.sampled_from([0.5, 2.0, 9.0, 40.0]),
)
def test_batches_that_share_a_throttle_stay_within_its_capacity_also_when_one_is_left(
    backend: str, seed: int, room: int, sizes: list[int], leave_after: float
) -> None:
    service = crowd(lambda _: room, takes=2.0)
    peak = 0

    async def generate(prompt: int) -> int:
        nonlocal peak
        peak = max(peak, throttle.in_flight)
        return await service.generate(prompt)

    async def run_batch(size: int) -> None:
        outcomes = await collect(throttled(generate, throttle), range(size), max_concurrent=10)
        done.append([outcome.unwrap() for outcome in outcomes])

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for size in sizes:
                group.start_soon(run_batch, size)
            with anyio.move_on_after(leave_after):
                await run_batch(1000)
        assert (throttle.waiting, throttle.in_flight, service.running) == (0, 0, 0)

    throttle = Throttle(capacity=3)
    done: list[list[int]] = []
    virtual.run(backend, main, seed=seed)
    assert peak <= 3
    assert sorted(map(len, done)) == sorted(sizes)
