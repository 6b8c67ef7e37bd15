"""The wheel and the sdist: what is in them, and the wheel's types where there is no source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONSUMER = ROOT / "tests/typing/api.py"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> ZipFile:
    return ZipFile(next(built.glob("*.whl")))


def files_under(folder: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_package_and_nothing_else(wheel: ZipFile) -> None:
    names = wheel.namelist()
    own = {name for name in names if ".dist-info/" not in name}
    assert own == {name.removeprefix("src/") for name in files_under("src")}
    assert "genbatch/py.typed" in own
    about = {name.partition(".dist-info/")[2] for name in names} - {""}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert b"[pytest11]\ngenbatch = genbatch.pytest_plugin\n" in wheel.read(entry_points)


def test_a_bare_installation_needs_no_more_than_it_says(wheel: ZipFile) -> None:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA")))
    lines = metadata.decode().splitlines()
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    names = {line.partition(">")[0] for line in needed if "extra ==" not in line}
    assert names == {
        "anyio", "google-genai", "h11", "httpcore", "httpx", "pybase64", "pydantic-core"
    }  # fmt: skip
    assert "Requires-Python: >=3.11" in lines


def test_the_sdist_has_what_tests_and_docs_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"README.md", "LICENSE", "pyproject.toml", "docs/conf.py", "benchmarks/__main__.py"}
    assert files_under("src") | files_under("tests") | needed <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {*(name.partition("/")[0] for name in needed), "src", "tests", "PKG-INFO"} | {
        ".gitignore"
    }


def test_the_types_of_the_wheel_are_seen_where_there_is_no_source_tree(
    wheel: ZipFile, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    paths = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    wheel.extractall(site)
    # The dependencies, but not what their own .pth files name: a checkout may be among it.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    where = run(python, "-c", "import genbatch; print(genbatch.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    command = ["-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    run(python, *command, CONSUMER, cwd=tmp_path)
