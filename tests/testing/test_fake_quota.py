"""Quotas of a FakeGemini: which calls they admit, in virtual time, and what a refusal says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from genbatch.testing import FakeGemini, Fault, Stats
from genbatch.testing._server import Quota
from genbatch.testing._wire import quota_error
from support import virtual
from support.wire import MODEL, PATH, asking, client_of, details_of

on_virtual_clocks = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def quota(per_minute: str | None = None, daily: int | None = None, *, speed: float = 1.0) -> Quota:
    return Quota(per_minute, daily, retry_info=True, speed=speed)


def delay_of(quota: Quota, model: str = MODEL) -> float | None:
    """Make a call now, and return the seconds it is asked to wait, None if it is admitted."""
    beyond = quota.admit(model)
    if beyond is None:
        return None
    error = quota_error(beyond)["error"]
    assert error["code"] == 429
    return float(error["details"][1]["retryDelay"].removesuffix("s"))


def in_virtual_time(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: virtual.run(backend, main)


@on_virtual_clocks
def test_a_minute_rolls(backend: str) -> None:
    @in_virtual_time(backend)
    async def _() -> None:
        limit = quota("2/min")
        assert delay_of(limit) is None
        await anyio.sleep(40)
        assert delay_of(limit) is None
        assert delay_of(limit) == 20
        await anyio.sleep(19.5)
        assert delay_of(limit) == 0.5
        await anyio.sleep(0.5)
        assert delay_of(limit) is None  # the first has left the window, the second has not
        assert delay_of(limit) == 40


@on_virtual_clocks
def test_a_client_that_waits_as_long_as_it_is_told_is_admitted(backend: str) -> None:
    @in_virtual_time(backend)
    async def _() -> None:
        limit = quota("7/min", speed=7)
        for number in range(100):
            await anyio.sleep(number / 99)
            if (delay := delay_of(limit)) is not None:
                await anyio.sleep(delay)
                assert delay_of(limit) is None


@on_virtual_clocks
def test_a_refused_call_uses_up_nothing(backend: str) -> None:
    @in_virtual_time(backend)
    async def _() -> None:
        limit = quota("1/min", daily=2)
        assert delay_of(limit) is None
        for _ in range(30):
            await anyio.sleep(1)
            assert delay_of(limit) is not None
        await anyio.sleep(30)
        assert delay_of(limit) is None


@on_virtual_clocks
def test_a_day_begins_with_the_first_call(backend: str) -> None:
    @in_virtual_time(backend)
    async def _() -> None:
        await anyio.sleep(1000)
        limit = quota(daily=2)
        assert [delay_of(limit) for _ in range(3)] == [None, None, 47]
        await anyio.sleep(86_399)
        assert delay_of(limit) == 47
        await anyio.sleep(1)
        assert [delay_of(limit) for _ in range(3)] == [None, None, 47]


@on_virtual_clocks
def test_speed_divides_windows_and_delays(backend: str) -> None:
    @in_virtual_time(backend)
    async def _() -> None:
        limit = quota("1/min", daily=2, speed=60)
        assert [delay_of(limit), delay_of(limit)] == [None, 1]
        await anyio.sleep(1)
        assert delay_of(limit) is None
        await anyio.sleep(1)
        assert delay_of(limit) == pytest.approx(47 / 60, abs=0.001)
        await anyio.sleep(86_400 / 60)
        assert delay_of(limit) is None


@on_virtual_clocks
def test_each_model_has_its_own_quota(backend: str) -> None:
    @in_virtual_time(backend)
    async def _() -> None:
        limit = quota("1/min")
        assert delay_of(limit, "one") is None
        assert delay_of(limit, "two") is None
        assert delay_of(limit, "one") == 60


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "period", "limit", "delays"),
    [
        ({"quota": "1/min"}, "PerMinute", 1, True),
        ({"quota": "1/min", "retry_info": False}, "PerMinute", 1, False),
        ({"daily": 1}, "PerDay", 1, True),
        ({"daily": 1, "retry_info": False}, "PerDay", 1, False),
    ],
)
async def test_a_call_beyond_the_quota_is_refused_in_the_services_shape(
    options: dict[str, Any], period: str, limit: int, delays: bool
) -> None:
    async with FakeGemini(image_size=8, **options) as server, client_of(server) as client:
        assert (await client.post(PATH, json=asking())).status_code == 200
        refused = await client.post(PATH, json=asking())
        assert server.stats == Stats(calls=2, images=1, in_flight=0, peak=1, limited=1)
    assert refused.status_code == 429
    details = details_of(refused)
    (violation,) = details["QuotaFailure"]["violations"]
    assert violation["quotaId"] == f"GenerateRequests{period}PerProjectPerModel"
    assert violation["quotaValue"] == str(limit)
    assert violation["quotaDimensions"]["model"] == MODEL
    assert ("RetryInfo" in details) == ("retry in" in refused.text) == delays


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{"quota": "0/min"}, {"daily": 0}], ids=str)
async def test_a_quota_of_nothing_admits_nothing(options: dict[str, Any]) -> None:
    async with FakeGemini(**options) as server, client_of(server) as client:
        refused = await client.post(PATH, json=asking())
    assert refused.status_code == 429
    assert refused.json()["error"]["message"].partition("\nPlease")[0].endswith("limit: 0")


@pytest.mark.anyio
async def test_a_call_beyond_the_quota_uses_up_no_fault_and_a_wrong_one_no_quota() -> None:
    faults = [Fault(status=503), Fault(status=500)]
    async with (
        FakeGemini(image_size=8, quota="1/min", faults=faults) as server,
        client_of(server) as client,
    ):
        bodies: list[dict[str, Any]] = [{}, asking(), asking(), asking()]
        other = PATH.replace("2.1", "9")
        statuses = [(await client.post(PATH, json=body)).status_code for body in bodies]
        statuses.append((await client.post(other, json=asking())).status_code)
    assert statuses == [400, 503, 429, 429, 500]


@pytest.mark.anyio
async def test_a_server_entered_again_has_its_whole_quota() -> None:
    server = FakeGemini(image_size=8, quota="1/min", daily=1)
    for _ in range(2):
        async with server, client_of(server) as client:
            statuses = [(await client.post(PATH, json=asking())).status_code for _ in range(2)]
        assert statuses == [200, 429]


@pytest.mark.anyio
async def test_speed_divides_latency() -> None:
    async with (
        FakeGemini(image_size=8, latency=1e6, speed=1e12) as server,
        client_of(server) as client,
    ):
        assert (await client.post(PATH, json=asking())).status_code == 200


def test_a_server_may_be_entered_again_under_another_event_loop() -> None:
    server = FakeGemini(image_size=8, quota="1/min")

    async def call() -> None:
        async with server, client_of(server) as client:
            assert (await client.post(PATH, json=asking())).status_code == 200

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(call, backend=backend)
    assert server.stats.images == 3
