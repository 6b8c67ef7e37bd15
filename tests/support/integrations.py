"""What the tests of integrations need: packages of others, and the plugin as pytest finds it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.pages import ROOT

needs_packages = pytest.mark.skipif(
    os.environ.get("GENBATCH_TEST_INTEGRATIONS") != "1",
    reason="installs packages from PyPI: set GENBATCH_TEST_INTEGRATIONS=1",
)


def install(folder: Path, *arguments: str) -> None:
    """Install packages into a folder that is to be in PYTHONPATH."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *arguments]
    subprocess.run(command, check=True)


def register_plugin(folder: Path) -> None:
    """Register pytest's plugin in a folder of PYTHONPATH, as installing this tree would."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, module),) = project["entry-points"]["pytest11"].items()
    about = folder / "genbatch-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: genbatch\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
