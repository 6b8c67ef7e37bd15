"""An hour in one process, against a service that goes wrong; see benchmarks/soak.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

ROOT = Path(__file__).parents[2]


def test_every_outcome_is_right_and_neither_descriptors_nor_memory_grow() -> None:
    seconds = os.environ.get("GENBATCH_SOAK_SECONDS", "3600")
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", seconds]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
