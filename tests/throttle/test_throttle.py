"""What a throttle promises in single cases; tests/property has whole batches against services."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from genbatch import (
    QuotaExhausted,
    RateLimited,
    Stopped,
    Success,
    Throttle,
    TimedOut,
    Unavailable,
    collect,
    stream,
    throttled,
)
from genbatch._throttle._limits import Starts
from support import virtual
from support.backends import only_asyncio

backends = pytest.mark.parametrize("backend", virtual.BACKENDS)


class Service:
    """Calls that do what their script says, and when each of them started.

    A number is a call's seconds, an error is raised after verdict; after the script all take 1 s.
    """

    def __init__(self, *script: float | Exception, verdict: float = 0.0) -> None:
        self.script = list(script)
        self.verdict = verdict
        self.starts: list[float] = []
        self.prompts: list[Any] = []
        self.running = 0
        self.peak = 0

    async def generate(self, prompt: Any = None) -> Any:
        self.starts.append(anyio.current_time())
        self.prompts.append(prompt)
        step = self.script.pop(0) if self.script else 1.0
        if isinstance(step, Exception):
            if self.verdict:
                await anyio.sleep(self.verdict)
            raise step
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await anyio.sleep(step)
        finally:
            self.running -= 1
        return prompt

    def since(self, began: float) -> list[float]:
        return [pytest.approx(start - began, abs=1e-6) for start in self.starts]


def limited(retry_after: float | None = None) -> RateLimited:
    return RateLimited("too many calls", retry_after=retry_after)


def gaps(starts: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(starts)]


async def batch(service: Service, throttle: Throttle, n: int, k: int) -> list[float]:
    """Run n prompts, k at once; return when each call started."""
    began = anyio.current_time()
    outcomes = await collect(throttled(service.generate, throttle), range(n), max_concurrent=k)
    assert [outcome.unwrap() for outcome in outcomes] == list(range(n))
    assert (throttle.in_flight, throttle.waiting) == (0, 0)
    return service.since(began)


# Pace


@backends
def test_a_pace_of_one_per_15_s_starts_calls_exactly_so(backend: str) -> None:
    throttle = Throttle(pace="4/min")
    starts = virtual.run(backend, batch, Service(), throttle, 5, 2)
    assert starts == [0, 15, 30, 45, 60]


@backends
def test_a_burst_comes_at_once_and_the_rest_at_the_pace(backend: str) -> None:
    throttle = Throttle(pace="4/min", burst=3)
    starts = virtual.run(backend, batch, Service(), throttle, 6, 6)
    assert starts == [0, 0, 0, 15, 30, 45]


@pytest.mark.parametrize(
    ("pace", "rate"), [("10/min", 1 / 6), ("2/s", 2.0), ("100/h", 1 / 36), (" 0.5 / s ", 0.5)]
)
def test_a_pace_is_calls_per_unit_of_time(pace: str, rate: float) -> None:
    assert Throttle(pace=pace).rate == pytest.approx(rate)


@pytest.mark.parametrize("pace", ["", "10", "10/day", "0/s", "-1/s", "ten/min", "1/s/s", "nan/s"])
def test_a_pace_of_another_form_is_refused(pace: str) -> None:
    with pytest.raises(ValueError, match="pace must be like"):
        Throttle(pace=pace)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be >= 1, got 0"),
        ({"capacity": 1.5}, TypeError, "capacity must be an int, got float"),
        ({"burst": 0, "pace": "1/s"}, ValueError, "burst must be >= 1, got 0"),
        ({"burst": "2", "pace": "1/s"}, TypeError, "burst must be an int, got str"),
        ({"burst": 2}, ValueError, "burst needs a pace"),
        ({"pace": 10}, TypeError, "pace must be a str, got int"),
        ({"patience": -1}, ValueError, "patience must be >= 0 seconds, got -1"),
        ({"patience": math.nan}, ValueError, "patience must be >= 0 seconds, got nan"),
    ],
)
def test_arguments_are_checked(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Throttle(**options)


# The pause


@backends
def test_no_call_starts_before_the_delay_has_passed_and_delays_do_not_add_up(backend: str) -> None:
    async def main() -> None:
        service = Service(*[limited(15.0)] * 4, verdict=0.1)
        throttle = Throttle()
        starts = await batch(service, throttle, 4, 4)
        assert starts[:5] == [0, 0, 0, 0, 15.1]
        assert throttle.episodes == 1

    virtual.run(backend, main)


@backends
def test_the_longest_of_overlapping_delays_holds(backend: str) -> None:
    async def main() -> None:
        service = Service(limited(15), limited(40), limited(5), verdict=0.1)
        starts = await batch(service, Throttle(), 3, 3)
        assert starts[3] == 40.1

    virtual.run(backend, main)


@backends
def test_the_same_delay_again_and_again_is_neither_doubled_nor_cut(backend: str) -> None:
    async def main() -> None:
        starts = await batch(Service(*[limited(15.0)] * 8), Throttle(), 1, 1)
        assert starts == [15 * number for number in range(9)]

    virtual.run(backend, main)


@backends
@pytest.mark.parametrize("untold", [None, 0.0, -1.0, math.nan, math.inf])
def test_where_no_delay_is_named_the_pauses_double_up_to_a_minute(
    backend: str, untold: float | None
) -> None:
    async def main() -> None:
        service = Service(*[limited(untold)] * 10)
        await batch(service, Throttle(), 1, 1)
        pauses = gaps(service.starts)
        for pause, least in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
            assert least - 1e-6 <= pause <= 1.25 * least + 1e-6

    virtual.run(backend, main)


@backends
def test_a_success_ends_the_doubling(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        service = Service(limited(), limited(), limited(), 1.0, limited())
        await throttle.run(service.generate)
        await anyio.sleep(100)  # no window of time is full any more
        await throttle.run(service.generate)
        assert 1 - 1e-6 <= gaps(service.starts)[-1] <= 1.25 + 1e-6

    virtual.run(backend, main)


@backends
def test_after_an_episode_that_left_nothing_one_call_tries_before_the_others(backend: str) -> None:
    async def main() -> None:
        service = Service(*[limited(10.0)] * 20, 3.0, verdict=0.1)
        starts = await batch(service, Throttle(), 20, 20)
        assert starts[20:22] == [10.1, 13.1]

    virtual.run(backend, main)


@backends
def test_what_was_kept_in_between_ends_the_doubling_and_the_first_after_a_pause_goes_alone(
    backend: str,
) -> None:
    async def main() -> None:
        burst: list[float | Exception] = [99.0, 99.0, 99.0, limited(), limited()]
        service = Service(*burst, 99.0, limited(), verdict=0.1)
        await batch(service, Throttle(), 5, 5)
        last, kept, rejected, again = service.starts[4:8]
        assert 1.1 - 1e-6 <= kept - last <= 1.35 + 1e-6
        assert rejected - kept == pytest.approx(0.2)  # twice what a rejection takes
        assert 1.1 - 1e-6 <= again - rejected <= 1.35 + 1e-6

    virtual.run(backend, main)


@backends
def test_a_waiting_call_is_not_in_flight(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        generate = throttled(Service(limited(30.0)).generate, throttle)
        async with stream(generate, range(3), max_concurrent=3) as outcomes:
            await anyio.sleep(20)
            progress = outcomes.progress
            assert (progress.waiting, progress.in_flight) == (3, 0)
            assert (throttle.waiting, throttle.in_flight) == (3, 0)
            assert throttle.paused_for == pytest.approx(10)
            assert throttle.paused_until == pytest.approx(anyio.current_time() + 10)
            assert str(throttle) == "rate limited: 10 s, capacity 20"
        assert (throttle.waiting, throttle.in_flight) == (0, 0)

    virtual.run(backend, main)


@backends
def test_a_batch_that_drains_drops_the_calls_that_wait(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=1)
        generate = throttled(Service(50.0, limited(1000)).generate, throttle)
        async with stream(generate, range(3), max_concurrent=3) as outcomes:
            await anyio.sleep(10)
            outcomes.drain()
            seen = {outcome.index: outcome async for outcome in outcomes}
        assert isinstance(seen.pop(0), Success)
        for outcome in seen.values():
            with pytest.raises(Stopped):
                outcome.unwrap()
        assert (throttle.waiting, throttle.in_flight) == (0, 0)

    virtual.run(backend, main)


# Capacity


@backends
def test_rejections_of_one_episode_cut_capacity_once(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()

        async def reject_after_a_second(_: int) -> None:
            if throttle.episodes and not rejections:
                return
            rejections.pop()
            await anyio.sleep(len(rejections) / 10)  # one after another
            raise limited()

        rejections = [None] * 20
        await collect(throttled(reject_after_a_second, throttle), range(20), max_concurrent=20)
        assert throttle.episodes == 1
        assert throttle.capacity == 10

    virtual.run(backend, main)


@backends
def test_capacity_is_cut_to_what_the_service_kept(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        service = Service(*[9.0] * 15, *[limited()] * 5)
        generate = throttled(service.generate, throttle)
        async with stream(generate, range(20), max_concurrent=20):
            await anyio.sleep(0.5)
            assert throttle.capacity == 14  # 97 % of 15

    virtual.run(backend, main)


@backends
def test_capacity_doubles_with_each_round_of_successes_while_it_is_in_use(backend: str) -> None:
    async def main() -> None:
        busy, idle = Throttle(), Throttle()
        await batch(Service(), busy, 60, 100)
        assert busy.capacity == 80  # after 20 and 40
        await batch(Service(), idle, 200, 10)
        assert idle.capacity == 20

    virtual.run(backend, main)


@backends
def test_other_trouble_stops_growth_without_a_cut(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        service = Service(*[1.0] * 19, Unavailable("503"), *[1.0] * 20)
        generate = throttled(service.generate, throttle)
        await collect(generate, range(20), max_concurrent=20)
        assert throttle.capacity == 20
        service.script = [TimedOut("late")]
        await collect(generate, range(19), max_concurrent=20)
        assert throttle.capacity == 20
        await collect(generate, range(20), max_concurrent=20)
        assert throttle.capacity == 40

    virtual.run(backend, main)


@backends
def test_a_fixed_capacity_is_neither_exceeded_nor_changed(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=3)
        service = Service(*[1.0] * 30, limited(5.0))
        await batch(service, throttle, 200, 50)
        assert service.peak == 3
        assert throttle.capacity == 3
        fresh = Throttle(capacity=3)
        await batch(Service(*[limited()] * 3, verdict=0.1), fresh, 3, 3)
        assert fresh.capacity == 3

    virtual.run(backend, main)


@backends
@pytest.mark.parametrize("max_concurrent", [1, 10])
def test_a_call_alone_that_is_rejected_is_about_the_rate_and_capacity_is_as_before(
    backend: str, max_concurrent: int
) -> None:
    async def main() -> None:
        throttle = Throttle()
        # 3 in any minute, and the service does not say so
        kept: list[float] = []

        async def generate(_: int) -> None:
            now = anyio.current_time()
            if sum(start > now - 60 for start in kept) >= 3:
                raise limited()
            kept.append(now)
            await anyio.sleep(0.2)

        generating = throttled(generate, throttle)
        await collect(generating, range(9), max_concurrent=max_concurrent)
        assert throttle.capacity == 20
        assert throttle.rate is not None
        assert 0.9 * 3 / 60 <= throttle.rate <= 3 / 60
        assert kept[-1] - kept[0] <= 60 + 6 * 20 / 0.9

    virtual.run(backend, main)


@backends
@pytest.mark.parametrize(
    ("takes", "delay", "is_about_rate"),
    [
        (10.0, 45.0, True),  # longer than a call takes
        (30.0, None, True),  # until the first start has left the window of a minute
        (30.0, 15.0, False),
    ],
)
def test_a_delay_tells_whether_calls_at_once_are_counted_or_starts_in_a_time(
    backend: str, takes: float, delay: float | None, is_about_rate: bool
) -> None:
    async def main() -> None:
        throttle = Throttle()
        rejected = anyio.Event()
        starts: list[float] = []

        async def generate(_: int) -> None:
            now = anyio.current_time()
            if len(starts) == 50:
                rejected.set()
                raise limited(starts[0] + 60 - now if delay is None else delay)
            starts.append(now)
            await anyio.sleep(takes)

        async with stream(throttled(generate, throttle), range(99), max_concurrent=99):
            await rejected.wait()
            assert (throttle.rate is not None) == is_about_rate
            assert (throttle.capacity == 40) == is_about_rate

    virtual.run(backend, main)


@backends
def test_a_few_calls_at_once_of_a_first_burst_are_about_capacity(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        running = 0

        async def generate(_: int) -> None:
            nonlocal running
            if running == 5:
                await anyio.sleep(0.1)
                raise limited()
            running += 1
            await anyio.sleep(8)
            running -= 1

        await collect(throttled(generate, throttle), range(100), max_concurrent=50)
        assert throttle.capacity in (4, 5)
        assert throttle.rate is None

    virtual.run(backend, main)


@backends
def test_a_rate_that_is_not_used_does_not_grow(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        await batch(Service(*[1.0] * 10, limited(50.0)), throttle, 12, 1)
        rate = throttle.rate
        assert rate is not None
        await batch(Service(*[100.0] * 100), throttle, 100, 1)
        assert throttle.rate == rate
        await batch(Service(), throttle, 30, 5)
        assert throttle.rate > rate

    virtual.run(backend, main)


@backends
def test_a_rate_that_was_only_guessed_grows_in_larger_steps(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        await batch(Service(*[1.0] * 10, limited()), throttle, 11, 1)
        rate = throttle.rate
        assert rate is not None
        await batch(Service(), throttle, 25, 5)
        assert throttle.rate == pytest.approx(1.25 * rate)

    virtual.run(backend, main)


def test_starts_that_no_window_reaches_are_forgotten() -> None:
    starts = Starts()
    for number in range(10_000):
        starts.add(1_440 * number)
    last, day = 1_440 * 9_999, 86_400
    assert starts.count(last, day) == 60
    assert starts.count(last, math.inf) <= 300


@backends
def test_a_rejection_that_takes_minutes_is_no_trouble(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle()
        service = Service(limited(1.0), *[40.0] * 30, verdict=900.0)
        await batch(service, throttle, 30, 2)
        assert throttle.episodes == 1

    virtual.run(backend, main)


@backends
def test_a_learned_rate_and_a_pace_hold_both(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(pace="1/s")
        service = Service(*[0.1] * 3, limited(60.0))
        starts = await batch(service, throttle, 5, 1)
        assert starts[:5] == [0, 1, 2, 3, 63]
        assert throttle.rate == pytest.approx(0.97 * 3 / 63)
        assert starts[5] == 63 + 63 / 3 / 0.97

    virtual.run(backend, main)


# Errors and patience


@backends
@pytest.mark.parametrize("error", [QuotaExhausted("no more today"), ValueError("a bug")])
def test_any_other_error_is_the_callers_at_once(backend: str, error: Exception) -> None:
    async def main() -> None:
        throttle = Throttle()
        service = Service(error)
        with pytest.raises(type(error)):
            await throttle.run(service.generate)
        assert len(service.starts) == 1
        assert (throttle.episodes, throttle.in_flight, throttle.paused_for) == (0, 0, 0.0)
        assert throttle.paused_until is None

    virtual.run(backend, main)


@backends
def test_without_patience_the_first_rejection_is_the_callers(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(patience=0)
        with pytest.raises(RateLimited):
            await throttle.run(Service(limited(5)).generate)
        assert throttle.in_flight == 0
        assert throttle.paused_for == 5  # for all others

    virtual.run(backend, main)


@backends
def test_patience_lasts_from_the_first_rejection_without_a_success_since(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(patience=100)
        service = Service(limited(60), limited(39), 50.0, limited(60), limited(39), limited(60))
        await throttle.run(service.generate)
        began = anyio.current_time()
        with pytest.raises(RateLimited):
            service.script.append(limited(60))
            await throttle.run(service.generate)
        assert anyio.current_time() - began == 60 + 39 + 60
        assert await throttle.run(lambda: service.generate("again")) == "again"

    virtual.run(backend, main)


@backends
@pytest.mark.parametrize("patience", [0, 3, 100])
def test_a_pause_longer_than_patience_ends_all_calls_at_once(backend: str, patience: float) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=2, patience=patience)
        service = Service(limited(100_000), 1.0, verdict=0.5)
        began = anyio.current_time()
        outcomes = await collect(throttled(service.generate, throttle), range(9), max_concurrent=9)
        assert anyio.current_time() - began == pytest.approx(1)
        errors = [outcome.error for outcome in outcomes if not isinstance(outcome, Success)]
        assert [type(error) for error in errors] == [RateLimited] * 8
        assert {error.retry_after for error in errors} == {100_000}  # type: ignore[attr-defined]
        assert len(service.starts) == 2
        assert throttle.waiting == throttle.in_flight == 0
        told = "it asks to wait 100,000 s, longer than the patience of"
        assert all((told in str(error)) == (patience > 0) for error in errors)

    virtual.run(backend, main)


@backends
def test_the_end_of_patience_ends_the_calls_that_wait(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=1, patience=50)
        service = Service(*[limited(20)] * 4)
        outcomes = await collect(throttled(service.generate, throttle), range(5), max_concurrent=5)
        assert service.since(0) == [0, 20, 40, 60]
        assert all("within the patience of 50 s" in str(outcome.error) for outcome in outcomes)  # type: ignore[union-attr]
        assert await throttle.run(lambda: anyio.sleep(80)) is None  # once the pause is over

    virtual.run(backend, main)


@backends
def test_the_reason_of_a_pause_is_in_the_service_s_words(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        throttle = Throttle()
        assert throttle.reason == ""
        with anyio.move_on_after(3):
            await throttle.run(Service(limited(5)).generate)
        assert throttle.reason == "too many calls"
        await throttle.run(Service().generate)
        assert throttle.reason == ""

    caplog.set_level("INFO", "genbatch.throttle")
    virtual.run(backend, main)
    assert "no call starts for 5.0 s: too many calls" in caplog.text


# The line


@backends
def test_calls_start_in_the_order_of_arrival_and_a_rejected_one_goes_to_the_front(
    backend: str,
) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=1)
        service = Service(1.0, limited(3.0))
        async with anyio.create_task_group() as group:
            for prompt in range(5):
                group.start_soon(throttle.run, lambda prompt=prompt: service.generate(prompt))
                await anyio.sleep(0.01)
        assert service.prompts == [0, 1, 1, 2, 3, 4]

    virtual.run(backend, main)


@backends
def test_a_rejected_call_goes_before_one_that_sleeps_at_the_head_of_the_line(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=2)
        service = Service()
        order: list[str] = []

        def slow() -> Awaitable[None]:
            return reject_late() if not order.count("slow") else note("slow")

        async def note(name: str) -> None:
            order.append(name)
            await service.generate()

        async def reject_late() -> None:
            order.append("slow")
            await anyio.sleep(2)
            raise limited(5)

        async with anyio.create_task_group() as group:
            group.start_soon(throttle.run, slow)
            await anyio.sleep(0.1)
            group.start_soon(throttle.run, lambda: note("first"))
            await anyio.sleep(0.1)
            group.start_soon(throttle.run, lambda: note("second"))
            await anyio.sleep(0.1)
            group.start_soon(throttle.run, lambda: note("third"))
        assert order[:3] == ["slow", "first", "second"]
        assert order[3:] == ["third", "slow"] or order[3:] == ["slow", "third"]

    virtual.run(backend, main)


@pytest.mark.anyio
async def test_a_cancelled_waiter_leaves_neither_token_nor_place() -> None:
    throttle = Throttle(capacity=1)
    release = anyio.Event()
    done: list[str] = []

    async def finish(name: str) -> None:
        await throttle.run(anyio.lowlevel.checkpoint)
        done.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(throttle.run, release.wait)
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                for _ in range(3):
                    cancelled.start_soon(finish, "cancelled")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(finish, "last")
                await anyio.wait_all_tasks_blocked()
                assert throttle.waiting == 4
                scope.cancel()
        assert throttle.waiting == 1
        release.set()
    assert done == ["last"]
    assert (throttle.waiting, throttle.in_flight) == (0, 0)


@only_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_waiter_cancelled_in_the_moment_of_its_turn_wakes_the_next(
    cancelled_first: bool,
) -> None:
    throttle = Throttle(capacity=1)
    release = asyncio.Event()
    calls: list[str] = []

    def waiter(name: str) -> asyncio.Task[None]:
        async def call() -> None:
            calls.append(name)

        return asyncio.create_task(throttle.run(call))

    holder = asyncio.create_task(throttle.run(release.wait))
    await anyio.wait_all_tasks_blocked()
    unlucky = waiter("unlucky")
    await anyio.wait_all_tasks_blocked()
    lucky = waiter("lucky")
    await anyio.wait_all_tasks_blocked()

    class Caller:
        """Cancels in the very step in which the token is given back."""

        def cancel(self, *_: object) -> None:
            unlucky.cancel()

    if cancelled_first:
        unlucky.cancel()
    else:
        holder.add_done_callback(Caller().cancel)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await unlucky
        raise asyncio.CancelledError  # its call was made before the cancellation came
    await lucky
    await holder
    assert calls[-1] == "lucky"
    assert (throttle.waiting, throttle.in_flight) == (0, 0)


@pytest.mark.anyio
async def test_cancelling_ends_a_pause_at_once() -> None:
    throttle = Throttle()
    with anyio.fail_after(5):
        with anyio.move_on_after(0.01) as scope:
            await throttle.run(Service(limited(1000)).generate)
        assert scope.cancelled_caught
    assert (throttle.waiting, throttle.in_flight) == (0, 0)


@pytest.mark.anyio
async def test_a_waiter_that_is_cancelled_while_it_is_woken_makes_no_call() -> None:
    throttle = Throttle(capacity=1)
    release = anyio.Event()
    calls: list[str] = []

    async def call() -> None:
        calls.append("made")

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()

        async def wait_in_scope() -> None:
            with scope:
                await throttle.run(call)

        async def hold_and_cancel() -> None:
            await throttle.run(release.wait)
            scope.cancel()  # in the step in which the token came free

        group.start_soon(hold_and_cancel)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(wait_in_scope)
        await anyio.wait_all_tasks_blocked()
        release.set()
    assert calls == []
    assert (throttle.waiting, throttle.in_flight) == (0, 0)


@pytest.mark.anyio
async def test_a_value_that_was_received_is_returned_although_its_caller_is_cancelled() -> None:
    throttle = Throttle()
    values: list[str] = []
    with anyio.CancelScope() as scope:

        async def call() -> str:
            scope.cancel()
            return "paid"

        values.append(await throttle.run(call))
    assert values == ["paid"]


# One throttle, many uses


@pytest.mark.parametrize("first", virtual.BACKENDS)
@pytest.mark.parametrize("second", virtual.BACKENDS)
def test_a_throttle_made_outside_any_loop_serves_one_loop_after_another(
    first: str, second: str
) -> None:
    throttle = Throttle()
    assert str(throttle) == "capacity 20"

    async def leave_in_a_pause() -> None:
        with anyio.move_on_after(10):
            await throttle.run(Service(limited(30)).generate)
        assert throttle.paused_for == pytest.approx(20)

    async def go_on() -> None:
        service = Service()
        began = anyio.current_time()
        assert throttle.paused_for == pytest.approx(20)
        await throttle.run(service.generate)
        assert service.since(began) == [20]

    virtual.run(first, leave_in_a_pause)
    assert throttle.paused_for == pytest.approx(20)  # between two loops no time passes
    assert str(throttle) == "rate limited: 20 s, capacity 20"
    virtual.run(second, go_on)
    assert (throttle.episodes, throttle.waiting, throttle.in_flight) == (1, 0, 0)


@backends
def test_two_batches_share_one_throttle_and_neither_starves(backend: str) -> None:
    async def main() -> None:
        throttle = Throttle(capacity=4)
        service = Service()
        ends: dict[str, float] = {}

        async def run(name: str) -> None:
            generate = throttled(service.generate, throttle)
            await collect(generate, [name] * 40, max_concurrent=10)
            ends[name] = anyio.current_time()

        async with anyio.create_task_group() as group:
            group.start_soon(run, "a")
            group.start_soon(run, "b")
        assert service.peak == 4
        assert abs(ends["a"] - ends["b"]) <= 2
        for first in range(0, 60, 20):
            assert 5 <= service.prompts[first : first + 20].count("a") <= 15

    virtual.run(backend, main)


def test_a_throttled_function_keeps_its_name() -> None:
    async def paint(prompt: str) -> str:
        """Paint."""
        return prompt

    painted: Callable[[str], Awaitable[str]] = throttled(paint, Throttle())
    assert (painted.__name__, painted.__doc__) == ("paint", "Paint.")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "capacity 20"),
        ({"capacity": 4, "pace": "5/min"}, "capacity 4, 5/min"),
        ({"pace": "2/s"}, "capacity 20, 2/s"),
        ({"pace": "0.5/h"}, "capacity 20, 0.5/h"),
    ],
)
def test_its_state_is_readable(options: dict[str, Any], text: str) -> None:
    assert str(Throttle(**options)) == text


@backends
def test_a_pause_of_the_user_starts_nothing_and_a_new_pace_counts_from_the_last_start(
    backend: str,
) -> None:
    service, throttle = Service(), Throttle(capacity=9)

    async def main() -> list[float]:
        began = anyio.current_time()
        throttle.is_paused = True
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(throttle.run, service.generate)
            await anyio.sleep(20)
            assert not service.starts
            throttle.pace = "6/min"
            throttle.is_paused = False
        return service.since(began)

    assert virtual.run(backend, main) == [20, 30, 40]
    with pytest.raises(ValueError, match="pace must be like"):
        throttle.pace = "fast"
    assert throttle.pace == "6/min"
