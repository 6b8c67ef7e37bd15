"""The command by jobs, in processes of its own: run --via batch, and jobs."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from genbatch.cli._main import run
from genbatch.testing import JobFault
from support.commands import images, served, started, write_prompts


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    for name in ("GOOGLE_API_KEY", "GENBATCH_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    with served(monkeypatch) as serve:
        yield serve


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in this process look at jobs often."""
    from genbatch import batch_api
    from genbatch.cli import _run

    def quick(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options, poll=0.05)

    original = batch_api.generate_images
    monkeypatch.setattr(batch_api._queue, "_LINGER", 0.1)
    monkeypatch.setattr(_run.batch_api, "generate_images", quick)


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_run_by_jobs(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    short(monkeypatch)
    fake = serve(job_faults=[JobFault(shuffle=True)])
    write_prompts(12)
    assert run(["run", "prompts.txt", "--via", "batch", "--backend", backend]) == 0
    shown = capsys.readouterr()
    assert "12 images in genbatch-out, 0 failed" in shown.out
    assert "$0.20" in shown.out
    assert "about $0.40, by batch $0.20" in shown.err
    assert (fake.stats.calls, fake.stats.jobs, len(images("genbatch-out"))) == (0, 1, 12)
    assert run(["jobs", "genbatch-out"]) == 0
    line = capsys.readouterr().out
    assert line == f"{fake.jobs[0].name} succeeded · 12 prompts for {fake.jobs[0].model}, 0 open\n"


def test_leftovers_go_on_live(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short(monkeypatch)
    fake = serve(job_faults=[JobFault(state="EXPIRED", after=0.5)])
    write_prompts(4)
    assert run(["run", "prompts.txt", "--via", "batch,live"]) == 0
    assert (fake.stats.calls, len(images("genbatch-out"))) == (2, 4)
    assert "4 images in genbatch-out, 0 failed" in capsys.readouterr().out


def test_what_a_job_did_not_make_is_told(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short(monkeypatch)
    serve(job_faults=[JobFault(state="FAILED")])
    write_prompts(2)
    assert run(["run", "prompts.txt", "--via", "batch"]) == 1
    shown = capsys.readouterr().err
    assert "2 Unavailable: run the same command again" in shown
    assert shown.endswith("the same command retries 2\n")


def test_a_dry_run_has_both_prices(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve()
    write_prompts(10)
    assert run(["run", "prompts.txt", "--dry-run", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["batch_cost"] == row["cost"] / 2


def test_ctrl_c_leaves_the_job_and_the_same_command_collects_it(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latency = [3600.0]
    fake = serve(job_latency=lambda job: latency[0])
    write_prompts(3)
    run_it = ["run", "prompts.txt", "--via", "batch", "--budget", "0.075"]
    with started(run_it) as process:
        while not fake.jobs:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "3 prompts in jobs still running at the service (genbatch jobs genbatch-out)" in shown
    assert "leaving the jobs at the service" in shown
    assert "may have been billed" not in shown
    assert run(["jobs", "genbatch-out", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["open"], row["ended"], row["name"]) == (3, None, fake.jobs[0].name)
    assert run(["status", "genbatch-out"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 of 3 done, $0.00",
        "3 to do",
        "3 in jobs, $0.07: run again with --via batch to collect them",
    ]
    assert run(["run", "prompts.txt"]) == 1  # live, and nothing is paid twice
    assert "3 GenbatchError: collect them with --via batch" in capsys.readouterr().err
    assert fake.stats.calls == 0
    short(monkeypatch)
    assert run(["jobs", "genbatch-out", "--cancel", row["name"]]) == 0
    assert run(["jobs", "genbatch-out", "--cancel", "batches/other"]) == 2
    assert "cancelling batches/" in capsys.readouterr().out
    latency[0] = 0.0
    # There was nothing to collect from the job that was cancelled: its budget is free again.
    run(run_it)
    assert run(run_it) == 0
    assert len(images("genbatch-out")) == 3
    assert set(Counter(key for job in fake.jobs for key in job.keys).values()) <= {1, 2}
    capsys.readouterr()
    assert run(["jobs", "genbatch-out", "--cancel-all"]) == 0
    assert capsys.readouterr().out == "No job is running.\n"


def test_a_folder_without_jobs_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run(["jobs", "empty"]) == 0
    assert run(["jobs", "missing"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, "missing is not a folder" in shown.err) == ("", True)
