"""Mutation test of the core: change one thing at a time and see a test fail.

    python -m benchmarks.mutants [--jobs 2]
    python -m benchmarks.mutants --only SUBSTRING | --sample N | --survivors | --list

Mutants come from the syntax tree, and a few, the NAMED ones, are the mistakes that this design is
most easily spoilt by. Each is tested in a temporary copy, tests that are fast first, until one
fails; a hang counts as one. Docstrings, annotations, imports and texts are left alone. A named
mutant that no longer fits the source is an error. A survivor is explained by its row in
docs/mutants.md, or it is a gap in the tests. The results of all mutants, or of a random sample, are
written to benchmarks/results/mutants.md; Ctrl-C ends a run early, with what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from .mutations import Mutant, generated, named

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src", "genbatch", "_core")
CORE = [
    "_outcome.py",
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
    "tests/core/test_scenarios_of_aiostream.py",
    "tests/core/test_scenarios_of_streamable.py",
    "tests/core/test_deadlines.py",
    "tests/property/test_promises.py",
]
EXPLANATIONS = ROOT / "docs" / "mutants.md"
RESULTS = ROOT / "benchmarks" / "results"
TIMEOUT = 240  # seconds that a mutant may take; each test has TEST_TIMEOUT
TEST_TIMEOUT = 30
MEMORY = 4 << 30  # bytes: a mutant may pull from an endless source for ever
# Imported once: a mutant is tested in a fork. Not genbatch, which each fork has to import mutated.
PRELOADED = ("anyio.pytest_plugin", "blockbuster", "httpx", "hypothesis", "trio", "uvloop")


def preload() -> None:
    """Import what all tests need, and arrange what makes them quicker."""
    for name in ("google", "google.genai"):  # half of a second, and the core does without
        sys.modules[name] = ModuleType(name)
    for name in PRELOADED:
        import_module(name)
    from anyio._backends import _asyncio
    from hypothesis import Phase, settings

    # The same examples for every mutant; a failure need not be made smaller.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
    settings.load_profile("mutants")
    # On asyncio anyio's wait_all_tasks_blocked polls every 0.1 s, most of what the tests take.
    _asyncio.sleep = lambda delay: asyncio.sleep(0.001 if delay == 0.1 else delay)


def run_tests(directory: Path) -> str | None:
    """Return how the tests of a copy failed, None if they passed."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            _test_in_child(directory, output.fileno())
        deadline = time.monotonic() + TIMEOUT
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "hangs"
            time.sleep(0.02)
        output.seek(0)
        text = output.read()
    if "+ Timeout +" in text:
        return "hangs"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    if code in {4, 5}:
        raise RuntimeError(f"pytest could not run:\n{text}")
    lines = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else f"exit code {code}"


def _test_in_child(directory: Path, output: int) -> NoReturn:
    """Run the tests, file by file: none is collected that is not needed."""
    os.setsid()
    # A job in the background ignores it, and tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(directory)
    sys.path[:0] = [str(directory / "src")]
    os.environ["PYTHONPATH"] = str(directory / "src")
    code = 1
    try:
        import genbatch

        assert Path(genbatch.__file__).is_relative_to(directory), genbatch.__file__
        options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", f"--rootdir={directory}"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # preloaded plugins
        options += ["-o", f"timeout={TEST_TIMEOUT}", "-o", "timeout_method=thread"]
        for test in TESTS:
            code = pytest.main([*options, test])
            if code:
                break
    except BaseException as exc:  # noqa: BLE001 - a mutant may make the import fail in any way
        code = 1
        print("ERROR import", type(exc).__name__, flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code)


def prepare(directory: Path) -> Path:
    """Copy what the tests need; later changes to the checkout do not disturb a run."""
    directory.mkdir()
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def warm_up(copies: Sequence[Path]) -> None:
    """See the tests of each copy pass, and keep them compiled, but not the core."""
    preload()
    for directory in copies:
        if (failure := run_tests(directory)) is not None:
            sys.exit(f"the tests must pass before anything is changed: {failure}")
        for cache in (directory / "src").rglob("__pycache__"):
            shutil.rmtree(cache)
    sys.dont_write_bytecode = True


def run_all(mutants: Sequence[Mutant], copies: Sequence[Path]) -> dict[Mutant, str | None]:
    """Test each mutant in one of the copies and return how it was killed; until Ctrl-C."""
    queue: SimpleQueue[Path] = get_context("fork").SimpleQueue()
    for directory in copies:
        queue.put(directory)
    results = {}
    with get_context("fork").Pool(len(copies), _begin, (queue,)) as pool:
        try:
            for mutant, killer in zip(mutants, pool.imap(_test, mutants), strict=True):
                fate = "killed  " if killer else "SURVIVED"
                print(fate, mutant.name, "|", killer or "", flush=True)
                results[mutant] = killer
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would lose the results
    return results


_copy: Path  # of the process that tests


def _begin(queue: SimpleQueue[Path]) -> None:
    global _copy
    _copy = queue.get()


def _test(mutant: Mutant) -> str | None:
    path = _copy / PACKAGE / mutant.file
    original = path.read_text()
    try:
        path.write_text(mutant.text)
        return run_tests(_copy)
    finally:
        path.write_text(original)


def explanations() -> dict[str, str]:
    """Return the reasons in docs/mutants.md by the mutant's name."""
    text = EXPLANATIONS.read_text() if EXPLANATIONS.exists() else ""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("` ").replace("\\|", "|"): row[1].strip() for row in rows}


def summary(results: dict[Mutant, str | None], reasons: dict[str, str], every: int) -> str:
    """Return the results in Markdown; every is how many mutants there are."""
    survivors = [mutant for mutant, killer in results.items() if killer is None]
    explained = sum(mutant.name in reasons for mutant in survivors)
    killed = len(results) - len(survivors)
    lines = [
        "# Mutation test of the core",
        "",
        f"{killed} of {len(results)} mutants killed: **{100 * killed / len(results):.1f} %**. "
        f"{'' if len(results) == every else f'They are a random sample of the {every:,}. '}"
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


def last_survivors() -> set[str]:
    """Return the names of those that survived the last published run."""
    table = (RESULTS / "mutants.md").read_text().partition("| survivor |")[2]
    return {
        line.strip("| ").split(" | ")[0].strip("` ").replace("\\|", "|")
        for line in table.splitlines()
        if line.startswith("| `")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation test of the core.")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tested at once")
    parser.add_argument("--only", default="", help="only mutants with this in their name")
    parser.add_argument(
        "--survivors", action="store_true", help="only those that survived the last whole run"
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
            mutants = [mutant for mutant in mutants if mutant.name in last_survivors()]
        # At random, so that what Ctrl-C leaves is a random sample too.
        most = len(mutants) if arguments.sample is None else min(arguments.sample, len(mutants))
        mutants = random.Random(0).sample(mutants, most)
        if arguments.list:
            print(*[f"{mutant.name}  (line {mutant.line})" for mutant in mutants], sep="\n")
            return 0
        if not mutants:
            sys.exit("no such mutant")
        warm_up(copies)
        results = run_all(mutants, copies)
    text = summary(results, explanations(), len(every))
    print(text)
    if not (arguments.only or arguments.survivors):
        (RESULTS / "mutants.md").write_text(text)
    return int("**unexplained**" in text or "**nothing**" in text)


if __name__ == "__main__":
    sys.exit(main())
