"""Mutation test of the core: change one thing at a time and see a test fail.

    python -m benchmarks.mutants [--jobs 2]
    python -m benchmarks.mutants --only SUBSTRING | --sample N | --survivors | --list

Mutants come from the syntax tree, and a few, the NAMED ones, are the mistakes that this design is
most easily spoilt by. Each is tested in a temporary copy, tests that are fast first, until one
fails; a hang counts as one. Docstrings, annotations, imports and texts are left alone. A named
mutant that no longer fits the source is an error. A survivor is explained by its row in
docs/mutants.md, or it is a gap in the tests. The results of all mutants, not those of a selection,
are written to benchmarks/results/mutants.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from .mutations import Mutant, generated, named

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src", "genbatch", "_core")
CORE = [
    "_outcome.py",
    "_progress.py",
    "_parking.py",
    "_limiter.py",
    "_calls.py",
    "_waiting.py",
    "_source.py",
    "_workers.py",
    "_stream.py",
]
TESTS = [  # the fastest first
    "tests/core/test_outcome.py",
    "tests/core/test_progress.py",
    "tests/core/test_sources.py",
    "tests/core/test_readers.py",
    "tests/core/test_contexts.py",
    "tests/core/test_limiter.py",
    "tests/core/test_cancellation.py",
    "tests/core/test_draining.py",
    "tests/core/test_stream_edges.py",
    "tests/core/test_stream.py",
    "tests/core/test_stream_hazards.py",
    "tests/core/test_scenarios_of_others.py",
    "tests/core/test_scenarios_of_anyio_streams.py",
    "tests/core/test_scenarios_of_anyio_limiters.py",
    "tests/core/test_scenarios_of_anyio_task_groups.py",
    "tests/core/test_deadlines.py",
    "tests/property/test_promises.py",
]
EXPLANATIONS = ROOT / "docs" / "mutants.md"
RESULTS = ROOT / "benchmarks" / "results"
TIMEOUT = 240  # seconds that a mutant may take; each test has TEST_TIMEOUT
TEST_TIMEOUT = 20
MEMORY = 4 << 30  # bytes: a mutant may pull from an endless source for ever
# The same examples for every mutant; a failure need not be made smaller. On asyncio anyio's
# wait_all_tasks_blocked polls every 0.1 s, which is most of the time that these tests take; most
# of the rest is the import of google.genai, which the core does without.
PLUGIN = """
import asyncio
import sys
from pathlib import Path
from types import ModuleType

for name in ("google", "google.genai"):
    sys.modules[name] = ModuleType(name)

import genbatch
from anyio._backends import _asyncio
from hypothesis import Phase, settings

assert Path(genbatch.__file__).is_relative_to(Path.cwd()), genbatch.__file__
settings.register_profile("mutants", derandomize=True, database=None,
                          phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutants")
_asyncio.sleep = lambda delay: asyncio.sleep(0.001 if delay == 0.1 else delay)
"""


def run_tests(directory: Path) -> str | None:
    """Return how the tests of a copy failed, None if they passed."""
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "mutants_plugin"]
    options += ["-o", f"timeout={TEST_TIMEOUT}", "-o", "timeout_method=thread"]
    tests = [test for test in TESTS if (directory / test).exists()]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    environment = os.environ | {
        "PYTHONPATH": f"{directory / 'src'}{os.pathsep}{directory}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = subprocess.Popen(
        ["bash", "-c", f'ulimit -v {MEMORY >> 10}; exec "$@"', "-", *command],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "hangs"
    if process.returncode == 0:
        return None
    if process.returncode in {4, 5}:
        raise RuntimeError(f"pytest could not run:\n{output}")
    if "+ Timeout +" in output:
        return "hangs"
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"exit code {process.returncode}"


def prepare(directory: Path) -> Path:
    """Copy what the tests need; later changes to the checkout do not disturb a run."""
    directory.mkdir()
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "mutants_plugin.py").write_text(PLUGIN)
    return directory


def run_all(mutants: Sequence[Mutant], copies: Sequence[Path]) -> dict[Mutant, str | None]:
    """Test each mutant in one of the copies and return how it was killed."""
    free: SimpleQueue[Path] = SimpleQueue()
    for directory in copies:
        free.put(directory)

    def test(mutant: Mutant) -> str | None:
        directory = free.get()
        path = directory / PACKAGE / mutant.file
        original = path.read_text()
        try:
            path.write_text(mutant.text)
            killer = run_tests(directory)
        finally:
            path.write_text(original)
            free.put(directory)
        print("killed  " if killer else "SURVIVED", mutant.name, "|", killer or "", flush=True)
        return killer

    with ThreadPoolExecutor(len(copies)) as pool:
        return dict(zip(mutants, pool.map(test, mutants), strict=True))


def explanations() -> dict[str, str]:
    """Return the reasons in docs/mutants.md by the mutant's name."""
    text = EXPLANATIONS.read_text() if EXPLANATIONS.exists() else ""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("` ").replace("\\|", "|"): row[1].strip() for row in rows}


def summary(results: dict[Mutant, str | None], reasons: dict[str, str]) -> str:
    """Return the results in Markdown."""
    survivors = [mutant for mutant, killer in results.items() if killer is None]
    explained = sum(mutant.name in reasons for mutant in survivors)
    killed = len(results) - len(survivors)
    lines = [
        "# Mutation test of the core",
        "",
        f"{killed} of {len(results)} mutants killed: **{100 * killed / len(results):.1f} %**. "
        f"Of the {len(survivors)} survivors, {explained} are explained.",
        "",
        "| file | mutants | killed |",
        "|---|---:|---:|",
    ]
    for file in CORE:
        ours = [killer for mutant, killer in results.items() if mutant.file == file]
        lines.append(f"| `{file}` | {len(ours)} | {len(ours) - ours.count(None)} |")
    lines += ["", "| named mutant | killed by |", "|---|---|"]
    for mutant, killer in results.items():
        if mutant.named:
            lines.append(f"| {mutant.change} | {killer or '**nothing**'} |")
    lines += ["", "| survivor | why it is equivalent |", "|---|---|"]
    for mutant in survivors:
        name = mutant.name.replace("|", "\\|")
        lines.append(f"| `{name}` | {reasons.get(mutant.name, '**unexplained**')} |")
    return "\n".join(lines) + "\n"


def write(results: dict[Mutant, str | None], text: str, reasons: dict[str, str]) -> None:
    killed = {mutant.name: killer for mutant, killer in results.items() if killer}
    survivors = {
        mutant.name: reasons.get(mutant.name) for mutant in results if mutant.name not in killed
    }
    data = {
        "mutants": len(results),
        "killed": len(killed),
        "score": round(100 * len(killed) / len(results), 1),
        "survivors": survivors,
        "killed_by": killed,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mutants.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (RESULTS / "mutants.md").write_text(text)


def last_results() -> dict[str, str | None]:
    """Return how each mutant of the last whole run was killed."""
    data = json.loads((RESULTS / "mutants.json").read_text())
    return {**data["killed_by"], **dict.fromkeys(data["survivors"])}


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation test of the core.")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tested at once")
    parser.add_argument("--only", default="", help="only mutants with this in their name")
    parser.add_argument(
        "--survivors", action="store_true", help="only those of the last results, which are updated"
    )
    parser.add_argument("--sample", type=int, help="only so many, drawn at random")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        copies = [prepare(Path(temporary, str(number))) for number in range(arguments.jobs)]
        sources = {file: (copies[0] / PACKAGE / file).read_text() for file in CORE}
        every = list(named(sources))  # an error where one no longer fits
        for file, source in sources.items():
            every += generated(file, source)
        mutants = [mutant for mutant in every if arguments.only in mutant.name]
        if arguments.survivors:
            last = last_results()
            mutants = [mutant for mutant in mutants if last.get(mutant.name, "") is None]
        if arguments.sample is not None:
            mutants = random.Random(0).sample(mutants, min(arguments.sample, len(mutants)))
        if arguments.list:
            print(*[f"{mutant.name}  (line {mutant.line})" for mutant in mutants], sep="\n")
            return 0
        if not mutants:
            sys.exit("no such mutant")
        if (failure := run_tests(copies[0])) is not None:
            sys.exit(f"the tests must pass before anything is changed: {failure}")
        results = run_all(mutants, copies)
    if arguments.survivors and last.keys() == {mutant.name for mutant in every}:
        results = {mutant: results.get(mutant, last[mutant.name]) for mutant in every}
    reasons = explanations()
    text = summary(results, reasons)
    print(text)
    if len(results) == len(every):
        write(results, text, reasons)
    return int("**unexplained**" in text or "**nothing**" in text)


if __name__ == "__main__":
    sys.exit(main())
