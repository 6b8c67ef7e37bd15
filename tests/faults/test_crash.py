"""Runs that are killed at random moments, in processes of their own; see benchmarks/crash.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ways", ["run library", "batch library-batch mixed"])
def test_killed_runs_lose_nothing_double_nothing_and_mix_nothing_up(ways: str) -> None:
    hunt = f"-m benchmarks.crash --kills 15 --each 5 --seed 7 --ways {ways}"
    done = subprocess.run(
        [sys.executable, *hunt.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^15 kills .* lost/doubled/wrong/problems = 0/0/0/0$", done.stdout, re.M)
