from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_consumer_passes_mypy_strict(tmp_path: Path) -> None:
    """Run away from the project's own configuration, as a consumer would."""
    consumer = Path(__file__).with_name("api.py")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(consumer)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
