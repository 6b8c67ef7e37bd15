"""genbatch tune: a run is told something while it goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.commands import Genbatch, Serve, arrival, images, started, write_prompts
from support.folders import fill


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_is_paused_widened_and_resumed(
    backend: str, genbatch: Genbatch, serve: Serve
) -> None:
    release = threading.Event()
    arrived, latency = arrival(2, lambda call: 0.0 if release.is_set() else 0.05)
    fake = serve(latency=latency)
    write_prompts(60)
    arguments = ["run", "prompts.txt", "-o", "out", "-k", "1", "--price", "0", "--yes"]
    process = started([*arguments, "--backend", backend])
    assert arrived.wait(60)
    paused = genbatch("tune", "out", "--pause")
    assert (paused.returncode, paused.stdout) == (0, "paused, at most 1 calls at once\n")
    release.set()
    # Told after the pause: whatever had begun before has ended when it is answered.
    again = genbatch("tune", "out", "-k", "4")
    before = fake.stats.calls
    assert genbatch("tune", "out").stdout == again.stdout == "paused, at most 4 calls at once\n"
    assert fake.stats.calls == before < 60
    assert genbatch("tune", "out", "--resume").stdout == "running, at most 4 calls at once\n"
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, len(images("out"))) == (0, 60), stderr
    assert fake.stats.calls == 60


@pytest.mark.slow
def test_a_paused_run_is_drained(genbatch: Genbatch, serve: Serve) -> None:
    arrived, latency = arrival(2, lambda call: 0.05)
    serve(latency=latency)
    write_prompts(60)
    process = started(["run", "prompts.txt", "-o", "out", "-k", "1", "--price", "0", "--yes"])
    assert arrived.wait(60)
    assert genbatch("tune", "out", "--pause").returncode == 0
    drained = genbatch("tune", "out", "--drain")
    assert drained.stdout == "draining, at most 1 calls at once\n"
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the run was told to drain" in stderr
    assert 0 < len(images("out")) < 60


def test_only_a_run_that_goes_on_is_told(genbatch: Genbatch) -> None:
    fill(Path("out"), ["a fox"])
    told = genbatch("tune", "out", "--pause")
    assert told.returncode == 3
    expected = "genbatch: no run is in progress in out: start one with the options you want\n"
    assert told.stderr == expected
    both = genbatch("tune", "out", "--pause", "--resume")
    assert both.returncode == 2
