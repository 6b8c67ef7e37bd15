"""What the tests' warm process forks is like what the interpreter starts."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from support.warm import PythonProcess, run_module, start_module

PROBE = """
import gc, json, locale, logging, os, random, resource, signal, sys, threading, time, warnings

streams = [sys.stdin, sys.stdout, sys.stderr]
settings = ("encoding", "errors", "line_buffering", "write_through", "newlines", "mode", "name")
print(json.dumps({
    "arguments": sys.argv,
    "folder": [os.getcwd(), sys.path],
    "environment": dict(os.environ),
    "main": [__name__, __package__, __spec__.name, __file__, "__main__" in sys.modules],
    "parent": os.getppid(),
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    "signals": [repr(signal.getsignal(each)) for each in signal.valid_signals()],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "streams": [[getattr(each, name) for name in settings] for each in streams],
    "same": [sys.__stdin__, sys.__stdout__, sys.__stderr__] == streams,
    "threads": [each.name for each in threading.enumerate()],
    "main thread": threading.main_thread().ident == threading.get_ident(),
    "collector": [gc.isenabled(), gc.get_threshold()],
    "locale": locale.setlocale(locale.LC_ALL),
    "timezone": time.tzname,
    "limits": [resource.getrlimit(each) for each in range(10)],
    "loggers": [logging.root.level, len(logging.root.handlers)],
    "warnings": len(sys.warnoptions),
    "flags": repr(sys.flags),
}))
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux do tests fork")

REAL = {"bufsize": -1}  # the default, but not among the options that a fork may have


@pytest.fixture(autouse=True)
def _probe(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "chance.py").write_text("import random; print(random.random())")
    (tmp_path / "waiting.py").write_text("import time; time.sleep(600)")


def probed(**options: Any) -> dict[str, Any]:
    return dict(json.loads(run_module("probe", "a", "b c", input="", **options).stdout))


@pytest.mark.parametrize("is_session", [False, True])
def test_a_fork_is_like_a_start(monkeypatch: pytest.MonkeyPatch, is_session: bool) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    forked, real = (probed(start_new_session=is_session, **each) for each in ({}, REAL))
    assert forked == real
    assert forked["parent"] == os.getpid()
    assert forked["leads"] == [is_session, is_session]


def test_forks_have_chances_of_their_own() -> None:
    assert run_module("chance").stdout != run_module("chance").stdout


@pytest.mark.parametrize("how", [{}, REAL], ids=["fork", "start"])
@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('said')", 1, "said\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import sys; sys.stdout = open('/dev/full', 'w'); print(); sys.exit(3)", 120, "device\n"),
        ("import atexit, sys; atexit.register(print, 'bye', file=sys.stderr)", 0, "bye\n"),
        (
            "import threading, time, sys\n"
            "def late():\n"
            "    threading.main_thread().join()\n"
            "    print('late', file=sys.stderr)\n"
            "threading.Thread(target=late).start()",
            0,
            "late\n",
        ),
    ],
)
def test_it_ends_like_a_start(code: str, status: int, error: str, how: dict[str, Any]) -> None:
    Path("ending.py").write_text(code)
    done = run_module("ending", **how)
    assert done.returncode == status
    assert done.stderr.endswith(error)
    assert bool(done.stderr) == bool(error)


def test_it_may_be_signalled_once_it_is_there() -> None:
    with start_module("waiting", start_new_session=True) as process:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("name", ["PYTHONUNBUFFERED", "LC_ALL", "FORCE_COLOR", "TYPER_USE_RICH"])
def test_what_is_read_at_the_start_is_read_at_a_start(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def is_forked() -> bool:
        with PythonProcess(["-m", "waiting"]) as process:
            process.kill()
        return process.is_fork

    assert is_forked()
    monkeypatch.setenv(name, "1")
    assert not is_forked()
