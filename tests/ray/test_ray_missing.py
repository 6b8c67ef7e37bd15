"""Without Ray, everything but genbatch.ray is there, and that says what to install."""

from __future__ import annotations

import subprocess
import sys


def test_without_ray_the_import_says_what_to_install() -> None:
    script = "import sys; sys.modules['ray'] = None; from genbatch.ray import generate"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "ImportError: genbatch.ray needs Ray: pip install 'genbatch[ray]'" in ran.stderr


def test_genbatch_loads_neither_ray_nor_what_it_needs() -> None:
    heavy = "{'ray', 'pyarrow', 'numpy', 'fsspec'}"
    script = f"import sys, genbatch, genbatch.ray; print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
