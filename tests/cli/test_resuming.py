"""Runs that end early, by a signal or a kill, and the same command again."""

from __future__ import annotations

import json
import re
import signal
import threading
from pathlib import Path

import pytest

from genbatch.testing import Fault
from support.commands import PARTI, Genbatch, Serve, arrival, images, started, write_prompts

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_long_run_interrupted_after_a_third_goes_on_where_it_stopped(
    genbatch: Genbatch, serve: Serve, backend: str
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hold(answer: object) -> object:
        arrived.set()
        assert go_on.wait(60)
        return answer

    fake = serve(faults=lambda call: Fault(edit=hold) if call.number >= 544 else None)
    command = ["run", str(PARTI), "-o", "out", "--yes", "--backend", backend]
    with started(command) as process:
        assert arrived.wait(120)
        status = json.loads(genbatch("status", "out", "--json").stdout)
        rows = genbatch("export", "out").stdout.splitlines()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while not process.stderr.readline().startswith("Stopping: waiting for the calls in flight"):
            assert process.poll() is None
        go_on.set()
        _, err = process.communicate(timeout=60)
    assert 0 < status["done"] < 1632
    assert status["runner"]["pid"] == process.pid
    assert len(rows) >= status["done"]
    assert process.returncode == 130
    assert err.endswith("SIGINT; finished images are kept, the same command resumes\n")
    made = fake.stats.images
    assert 544 <= made == fake.stats.calls == len(images("out")) < 1632

    again = genbatch(*command)
    assert again.returncode == 0, again.stderr
    assert fake.stats.images == fake.stats.calls == len(images("out")) == 1632
    assert again.stdout.startswith(f"1,632 images in out, 0 failed, {made} already there\n")

    third = genbatch(*command)
    assert third.returncode == 0
    assert fake.stats.calls == 1632
    assert third.stdout.startswith("1,632 images in out, 0 failed, 1,632 already there\n")
    assert genbatch("verify", "out").stdout == "all is well\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_budget_holds_over_kills(genbatch: Genbatch, serve: Serve, backend: str) -> None:
    """Killed with four calls in flight, again and again: they count as if they had been paid."""
    arrivals = {number: arrival(number, lambda call: 0.0) for number in (5, 12, 19)}

    def latency(call: object) -> float:
        return max(watch(call) for _, watch in arrivals.values())

    fake = serve(latency=latency, speed=1.0)
    write_prompts(100)
    command = ["run", "prompts.txt", "-k", "4", "--budget", "1.00", "--backend", backend]
    for arrived, _ in arrivals.values():
        with started(command) as process:
            assert arrived.wait(60)
            process.kill()
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    last = genbatch(*command)
    assert last.returncode == 3
    assert "stopped: the budget of $1.00 is used up" in last.stderr
    assert genbatch(*command).returncode == 3
    most = int(1.00 / 0.0336)
    assert most - 3 * 4 <= fake.stats.images <= most
    spent = json.loads(genbatch("status", "genbatch-out", "--json").stdout)["spent"]
    assert spent["images"] == len(images("genbatch-out"))
    assert fake.stats.images <= spent["images"] + spent["maybe_images"] <= most
    assert re.search(r"perhaps \d+ more calls", last.stderr) or not spent["maybe_images"]
    assert not list(Path("genbatch-out").glob(".*.part"))
