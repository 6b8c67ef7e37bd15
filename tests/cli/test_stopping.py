"""What ends a run early, or cannot: exit codes 3, 130 and 143, closed streams."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genbatch import StoreError
from genbatch.cli._main import _explain
from genbatch.testing import Call, ControlCall, Fault, JobFault, blocked, rate_limited
from support.commands import (
    CANARY,
    COMMAND,
    Genbatch,
    Serve,
    arrival,
    images,
    started,
    write_prompts,
)
from support.warm import start_module

ROOT = Path(__file__).parents[2]

# Exit code 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_at_the_first_call(
    genbatch: Genbatch, serve: Serve, status: int
) -> None:
    fake = serve(faults=lambda call: Fault(status=status))
    write_prompts()
    done = genbatch("--debug", "run", "prompts.txt", "-k", "1")
    assert done.returncode == 3
    assert fake.stats.calls == 1
    announced, *_, stopped = done.stderr.splitlines()
    assert announced.startswith("8 prompts · 0 done · 8 to make · flash = ")
    assert re.fullmatch(rf"genbatch: stopped: .*\({status}\).*", stopped)
    assert CANARY not in done.stdout + done.stderr
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert not any(CANARY.encode() in path.read_bytes() for path in files)


def test_a_refused_key_cancels_the_calls_in_flight(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(faults=[Fault(delay=3600), Fault(status=401)])
    write_prompts()
    assert genbatch("run", "prompts.txt", "-k", "2").returncode == 3
    assert fake.stats.calls == 2


def test_a_daily_quota_lets_calls_in_flight_finish_and_starts_no_more(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(faults=[None, None, rate_limited(per_day=True), None])
    write_prompts()
    done = genbatch("run", "prompts.txt", "-k", "1")
    assert done.returncode == 3
    assert (fake.stats.calls, fake.stats.images) == (3, 2)
    assert "2 images in genbatch-out, 0 failed, 6 not made" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("genbatch: stopped: daily quota of gemini-nano-banana-2.1")
    assert last.endswith("finished images are kept, the same command resumes")


@pytest.mark.parametrize("folder", ["prompts.txt", "prompts.txt/out", "/proc/out"])
def test_an_impossible_folder_is_one_line_before_any_call(
    genbatch: Genbatch, serve: Serve, folder: str
) -> None:
    fake = serve()
    write_prompts()
    done = genbatch("run", "prompts.txt", "-o", folder)
    assert done.returncode == 2
    assert fake.stats.calls == 0
    assert re.fullmatch(rf"genbatch: .*{folder}.*", done.stderr.splitlines()[-1])


def test_a_disk_that_takes_no_more_stops_the_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(100)

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    done = genbatch("run", "prompts.txt", "-k", "1", preexec_fn=limit_files)
    assert done.returncode == 3
    assert fake.stats.calls < 100
    assert re.search(r"genbatch: stopped: [^\n]*\(disk /[^\n]*MB free\)", done.stderr)
    assert genbatch("run", "prompts.txt").returncode == 0
    assert len(images("genbatch-out")) == 100
    assert fake.stats.images <= 101


# Exit codes 130 and 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
def test_the_first_signal_lets_calls_in_flight_finish(
    genbatch: Genbatch, serve: Serve, backend: str, number: signal.Signals
) -> None:
    arrived, latency = arrival(4, lambda call: 0.05)
    fake = serve(latency=latency)
    write_prompts(500)
    with started(["run", "prompts.txt", "--yes", "-k", "2", "--backend", backend]) as process:
        assert arrived.wait(60)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert 4 <= fake.stats.calls < 500
    assert fake.stats.images == fake.stats.calls == len(images("genbatch-out"))
    assert err.endswith(
        f"genbatch: interrupted by {number.name}; finished images are kept, "
        "the same command resumes\n"
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
def test_the_second_signal_cancels_and_the_same_command_resumes(
    genbatch: Genbatch, serve: Serve, backend: str
) -> None:
    arrived, latency = arrival(4, lambda call: 0.0 if call.number in (1, 2, 5, 6) else 3600.0)
    fake = serve(latency=latency)
    write_prompts(4)
    command = ["run", "prompts.txt", "-k", "2", "--backend", backend]
    with started(command) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.stderr
        while "Ctrl-C again cancels" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(images("genbatch-out")) == 2

    again = genbatch(*command)
    assert again.returncode == 0
    assert "4 images in genbatch-out, 0 failed, 2 already there" in again.stdout
    assert fake.stats.calls == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
@pytest.mark.parametrize("way", ["live", "redo", "batch", "batch,live"])
def test_a_stop_saves_every_image_that_was_paid(
    genbatch: Genbatch, serve: Serve, way: str, backend: str, number: signal.Signals
) -> None:
    under_way = threading.Event()
    slow = Fault(drip=(200, 0.02))  # it is paid for when its answer begins

    def live(call: Call) -> Fault | None:
        if call.key:
            return None
        if call.number == (14 if way == "redo" else 3):
            under_way.set()
        return slow

    def download(call: ControlCall) -> Fault | None:
        if way == "batch" and call.action == "download":
            under_way.set()
            return slow
        return None

    half = JobFault(state="EXPIRED", after=0.5) if way == "batch,live" else None
    fake = serve(faults=live, job_faults=[half], control_faults=download)
    write_prompts(12)
    out = str(Path("out").absolute())
    command = ["run", str(Path("prompts.txt").absolute()), "-o", out, "-k", "2"]
    if way == "redo":
        assert genbatch(*command).returncode == 0
        command = ["redo", out, "0-11", "-k", "2"]
    else:
        command += ["--via", way]
    # Looks at jobs more often than the command does.
    quickly = ["--cli", *command, "--backend", backend]
    with start_module("benchmarks.crash", *quickly, cwd=ROOT) as process:
        assert under_way.wait(60)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert f"interrupted by {number.name}" in err
    if way != "batch":  # the job of which keeps its results at the service
        assert fake.stats.images == len(images(out)) < 24
    if way != "redo":
        with start_module("benchmarks.crash", *quickly, cwd=ROOT) as again:
            _, err = again.communicate(timeout=60)
        assert again.returncode == 0, err
        assert fake.stats.images == len(images(out)) == 12
    assert genbatch("verify", out).returncode == 0


@pytest.mark.parametrize("module", ["genbatch._core", "anyio", "typer", "genbatch.cli._options"])
def test_ctrl_c_while_modules_are_imported_is_quiet(module: str) -> None:
    script = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_module("genbatch", run_name="__main__")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "genbatch: interrupted\n")


# Streams that close, errors


@pytest.mark.parametrize("with_stderr", [False, True])
def test_output_that_nobody_reads_does_not_stop_a_run(serve: Serve, with_stderr: bool) -> None:
    serve(faults=[blocked()])
    write_prompts(30)
    read, written = os.pipe()
    os.close(read)
    stderr = written if with_stderr else subprocess.PIPE
    with started(["run", "prompts.txt"], stdout=written, stderr=stderr) as process:
        os.close(written)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(images("genbatch-out")) == 29
    assert "Error" not in (err or "").replace("BlockedError", "")


def test_closed_standard_streams_do_not_stop_a_run(serve: Serve) -> None:
    serve(faults=[blocked()])
    write_prompts(3)
    command = " ".join([*COMMAND, "run", "prompts.txt", "0<&-", "1>&-", "2>&-"])
    assert subprocess.run(command, shell=True, check=False).returncode == 1
    assert len(images("genbatch-out")) == 2


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 3), (errno.EMFILE, 3), (errno.EAGAIN, 3), (errno.EROFS, 2), (errno.EACCES, 2)],
)
def test_a_folder_that_may_do_later_is_no_mistake(number: int, code: int) -> None:
    error = StoreError("cannot save")
    error.__cause__ = OSError(number, "why")
    assert _explain(error) == ("cannot save", code)


def test_what_is_told_of_a_group_is_its_error() -> None:
    assert _explain(ExceptionGroup("", [ExceptionGroup("", [StoreError("full")])])) == ("full", 3)
    assert _explain(BaseExceptionGroup("", [KeyboardInterrupt()])) == ("interrupted", 130)
    assert _explain(KeyError("x"))[0] == "internal error: KeyError: 'x' (--debug shows where)"
