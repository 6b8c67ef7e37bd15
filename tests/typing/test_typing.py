from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CONSUMER = Path(__file__).with_name("api.py")


def check(directory: Path, *command: str) -> None:
    """Run away from the project's own configuration, as a consumer would."""
    result = subprocess.run(
        [sys.executable, "-m", *command, str(CONSUMER)],
        cwd=directory,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_consumer_passes_mypy_strict(tmp_path: Path) -> None:
    check(tmp_path, "mypy", "--strict", "--cache-dir", str(tmp_path))


def test_a_consumer_passes_pyright(tmp_path: Path) -> None:
    check(tmp_path, "pyright", "--pythonpath", sys.executable, "--level", "warning", "--warnings")
