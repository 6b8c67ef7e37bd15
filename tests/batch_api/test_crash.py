"""Runs by jobs that are killed at random moments; see benchmarks/job_crash.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_killed_runs_lose_nothing_and_pay_nothing_twice() -> None:
    command = [sys.executable, "-m", "benchmarks.job_crash", "--kills", "30", "--seed", "7"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^30 kills, .* twice/lost/problems = 0/0/0$", done.stdout, re.M)
