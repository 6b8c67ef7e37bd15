"""Runs that are killed at random moments, in processes of their own; see benchmarks/crash.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_killed_runs_lose_nothing_and_pay_at_most_what_was_in_flight() -> None:
    command = [sys.executable, "-m", "benchmarks.crash", "--kills", "15", "--seed", "7"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^1[5-9] kills, .* lost/doubled/problems = 0/0/0$", done.stdout, re.M)
