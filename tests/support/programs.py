"""Running the examples as their readers do: as programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def environment(**settings: str) -> dict[str, str]:
    """Return this environment without keys, with settings."""
    left = {"GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "OPENAI_BASE_URL"}
    inherited = {name: value for name, value in os.environ.items() if name not in left}
    return inherited | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(EXAMPLES)} | settings


@contextmanager
def program(folder: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a folder, and end it with the block."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return the line that has a text in it."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        if text in line:
            return line
        lines.append(line)
    raise AssertionError("".join(lines))
