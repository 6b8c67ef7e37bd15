"""Imports point down only, and importing the package is light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import genbatch

ROOT = Path(__file__).parents[1]
PACKAGE = Path(genbatch.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute name of each module or public name that path imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == depth:
                module = f"genbatch.{module}" if module else "genbatch"
            elif node.level:
                continue  # inside a subpackage
            if module == "genbatch":
                yield from (f"genbatch.{alias.name}" for alias in node.names)
            else:
                yield module


def test_imports_point_down_and_pass_the_doors() -> None:
    """The contracts are in pyproject.toml."""
    command = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_backend(path: Path) -> None:
    assert {"asyncio", "trio", "sniffio"}.isdisjoint(name.split(".")[0] for name in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_client_of_gemini_imports_google(path: Path) -> None:
    if PACKAGE / "gemini" not in path.parents:
        assert not any(name.split(".")[0] == "google" for name in imports(path))


def loaded_by(module: str, names: list[str]) -> str:
    """Return which of names a fresh interpreter has loaded after importing module."""
    script = f"import sys, {module}; print([name for name in {names} if name in sys.modules])"
    # Coverage, where it is measured, would load modules of its own there.
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    return result.stdout.strip()


def test_importing_genbatch_loads_nothing_heavy() -> None:
    heavy = ["google.genai", "httpx", "httpx2", "sqlite3", "rich", "typer", "PIL", "h11", "logging"]
    assert loaded_by("genbatch", heavy) == "[]"


def test_importing_jobs_loads_nothing_heavy() -> None:
    assert loaded_by("genbatch.batch_api", ["google.genai", "httpx", "rich", "typer"]) == "[]"


def test_importing_the_fake_needs_no_extra() -> None:
    assert loaded_by("genbatch.testing", ["google.genai", "httpx", "rich", "typer", "PIL"]) == "[]"
