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

PACKAGE = Path(genbatch.__file__).parent
# A module may import from the lines above its own, and from its own.
LAYERS = [
    ["_errors"],
    ["_core"],
    ["_prompt"],
    ["_image"],
    ["_logs"],
    ["_pace", "_windows", "_limits", "_throttle", "_budget", "_stops"],
    ["_inputs"],
    ["gemini"],
    ["_store"],
    ["_completion"],
    ["_images", "_takes", "_estimate"],
    ["_jobs"],
    ["batch_api"],
    ["_objects"],
    ["_fleet"],
    ["ray"],
    ["gallery"],
    ["testing"],
    ["__init__"],
    ["cli", "__main__"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the module or subpackage directly below genbatch that path belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top != "genbatch" or own == "__init__":
            continue
        other = rest.partition(".")[0]
        if other not in LAYER_OF:
            other = "__init__"  # a public name, which only the top may take from there
        assert LAYER_OF[other] <= LAYER_OF[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_backend(path: Path) -> None:
    assert {"asyncio", "trio", "sniffio"}.isdisjoint(name.split(".")[0] for name in imports(path))


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
