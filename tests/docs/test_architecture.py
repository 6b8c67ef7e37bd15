"""The page of the architecture lists the modules that a prompt runs through, as they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.pages import DOCS, ROOT

pytestmark = pytest.mark.slow

MOST = 57


def test_the_modules_of_one_prompt_are_listed_and_few() -> None:
    command = [sys.executable, "-m", "benchmarks.modules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *printed, _ = done.stdout.splitlines()
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("```text\n")
    listed = rest.partition("```")[0].replace("\n", " ").split(" · ")
    assert {f"genbatch.{name.strip()}" for name in listed} == set(printed)
    assert len(printed) <= MOST
