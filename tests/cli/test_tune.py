"""genbatch tune: a run is told something while it goes on."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genbatch._store import Tuning, choices, status, steered, tell_run
from genbatch.view import serving
from support.commands import Genbatch, Serve, arrival, images, started, write_prompts
from support.folders import fill
from support.served import Page
from support.waiting import until


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
    assert (paused.returncode, paused.stdout) == (0, "paused, at most 1 call at once\n")
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
    assert drained.stdout == "draining, at most 1 call at once\n"
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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_message_that_makes_no_sense_is_told_and_loses_nothing(
    backend: str, genbatch: Genbatch, serve: Serve
) -> None:
    arrived, latency = arrival(2, lambda call: 0.05)
    fake = serve(latency=latency)
    write_prompts(40)
    arguments = ["run", "prompts.txt", "-o", "out", "-k", "2", "--budget", "100", "--yes"]
    process = started([*arguments, "--backend", backend])
    assert arrived.wait(60)
    number = tell_run(Path("out"), Tuning(pace="now and then", budget=-1.0))
    until(lambda: (steered(Path("out")) or (0,))[0] >= number)
    _, state = steered(Path("out")) or (0, {})
    assert "pace" in state["problems"][0]
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert len(images("out")) == fake.stats.images == 40


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_a_paused_run(backend: str, genbatch: Genbatch, serve: Serve) -> None:
    arrived, latency = arrival(2, lambda call: 0.05)
    fake = serve(latency=latency)
    write_prompts(60)
    arguments = ["run", "prompts.txt", "-o", "out", "-k", "2", "--price", "0", "--yes"]
    process = started([*arguments, "--backend", backend])
    assert arrived.wait(60)
    assert genbatch("tune", "out", "--pause").returncode == 0
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert len(images("out")) == fake.stats.images < 60
    assert status(Path("out")).spent.maybe_images == 0


@pytest.mark.slow
def test_a_run_by_jobs_is_paused_and_drained(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(job_latency=lambda job: 3600.0)
    write_prompts(3)
    process = started(["run", "prompts.txt", "-o", "out", "--via", "batch", "-k", "5"])
    until(lambda: fake.jobs)
    assert genbatch("tune", "out", "--pause").stdout == "paused, at most 5 calls at once\n"
    more = genbatch("tune", "out", "-k", "7")
    assert (more.returncode, more.stdout.splitlines()[0]) == (
        2,
        "--max-concurrent: only a run of live calls has calls at once",
    )
    assert genbatch("tune", "out", "--drain").stdout.startswith("draining, ")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "Told to drain: leaving the jobs at the service" in stderr
    assert "3 prompts in jobs still running at the service" in stderr
    assert (len(fake.jobs), status(Path("out")).in_jobs) == (1, 3)


@pytest.mark.slow
def test_two_runners_a_page_and_tune_on_one_folder_lose_nothing(
    genbatch: Genbatch, serve: Serve
) -> None:
    arrived, latency = arrival(3, lambda call: 0.02)
    fake = serve(latency=latency)
    write_prompts(300)
    arguments = ["run", "prompts.txt", "-o", "out", "-k", "4", "--price", "0", "--yes", "-q"]
    process = started(arguments)
    assert arrived.wait(60)
    second = genbatch(*arguments)
    assert (second.returncode, "out is in use by" in second.stderr) == (3, True)
    with serving(Path("out")) as server:
        pages = [Page(server.url) for _ in range(2)]
        answers, told = [], []

        def choose(page: Page) -> None:
            while status(Path("out")).runner is not None:
                for path in images("out")[:20]:
                    note = {"verdict": "keep", "stars": 4, "note": path.name}
                    answers.append(page.post("/choices", {path.name: note}).status)
                answers.append(page.post("/tune", {"max_concurrent": 4}).status)

        def tune(word: str) -> None:
            for _ in range(3):
                told.append(genbatch("tune", "out", word))

        with ThreadPoolExecutor(4) as threads:
            jobs = [threads.submit(choose, page) for page in pages]
            jobs += [threads.submit(tune, word) for word in ("--pause", "--resume")]
            for job in jobs[2:]:
                job.result()
            told.append(genbatch("tune", "out", "--resume"))
            for job in jobs[:2]:
                job.result()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, len(images("out"))) == (0, 300), stderr
    assert fake.stats.calls == 300
    outputs = [stderr, *(done.stderr for done in told)]
    assert not any("locked" in output for output in outputs)
    assert {done.returncode for done in told} <= {0, 3}  # 3 where the run has ended meanwhile
    assert set(answers) <= {200, 503}
    assert answers.count(503) <= 2
    assert {choice.note for choice in choices(Path("out")).values()} == {
        path.name for path in images("out")[:20]
    }
    assert genbatch("verify", "out").stdout == "all is well\n"
