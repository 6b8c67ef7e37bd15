"""Every hostile answer we know (support/hostile.py), borne by a process (support/bearing.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.hostile import Row, kinds, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TESTS = Path(__file__).parents[1]
MOST = 300  # MB


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_hostile_answers_are_typed_errors_in_time_and_bounded_memory(backend: str) -> None:
    hostile = kinds()
    with serving(hostile) as url:
        bearing = [sys.executable, "-m", "support.bearing", url, backend, *hostile]
        done = subprocess.run(
            bearing, cwd=TESTS, capture_output=True, text=True, timeout=880, check=False
        )
    assert done.returncode == 0, done.stderr
    closed, *told = map(json.loads, done.stdout.splitlines())
    assert [each["kind"] for each in told] == list(hostile)
    del closed["kind"]
    assert set(closed.values()) == {"image"}
    assert [each for each in told if not is_as_it_must_be(each, hostile)] == []


def is_as_it_must_be(told: dict[str, str], hostile: dict[str, Row]) -> bool:
    kind, job, results = told["kind"], told["job"], told["results"]
    # Results may take hours: only their lines are bounded, and they can be cancelled.
    has_no_end = kind == "endless-small-chunks" and results == "cancelled"
    return (
        told["call"] in hostile[kind][1].split()
        and not job.startswith(("untyped", "cancelled"))
        and (has_no_end or not results.startswith(("untyped", "cancelled")))
        and int(told["peak"]) <= MOST
        and told["next 0"] == told["next 1"] == "image"
    )
