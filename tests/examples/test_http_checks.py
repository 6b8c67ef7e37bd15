"""HTTP checks: any call can be a batch's."""

from __future__ import annotations

import pytest

import http_checks
from genbatch.testing import FakeGemini, closed_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_every_address_is_checked_and_those_that_fail_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with FakeGemini() as server:
        with closed_port() as nobody:
            urls = [*http_checks.addresses(server.url, 2000), nobody]
            results = await http_checks.check_all(iter(urls))
    shown = capsys.readouterr().out
    assert (results["fine"], results["answered 404"], results.total()) == (1999, 1, 2001)
    assert "/nowhere/2000: answered 404\n" in shown
    assert f"{nobody}: " in shown
    assert "\n2000" in shown


async def test_a_check_that_takes_too_long_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_checks, "TIMEOUT", 0.0)
    async with FakeGemini() as server:
        results = await http_checks.check_all(http_checks.addresses(server.url, 3))
    assert results == {"": 3}
