"""Every task of the project: ``nox -f .ci/noxfile.py --list`` shows them, ``-s NAME`` runs one.

They use the packages of the environment that nox itself runs in: install with
``python -m pip install -e '.[test,docs]'`` first.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[1]

nox.options.default_venv_backend = "none"
nox.options.sessions = [
    "lint",
    "types",
    "tests",
    "slow",
    "browser",
    "ray",
    "clients",
    "integrations",
    "docs",
]


def _run(session: nox.Session, *command: str) -> None:
    session.chdir(ROOT)
    session.run(*command, *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, layers and package doors."""
    session.chdir(ROOT)
    for command in ("ruff check", "ruff format --check", "lint-imports --no-cache"):
        session.run(*command.split(), external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    _run(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the README's test command."""
    _run(session, "python", "-m", "pytest", "-n", "auto")


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take long: packaging, examples, tutorials, long runs, kills, disks."""
    _run(session, "python", "-m", "pytest", "-n", "auto", "-m", "slow", "--durations=25")


@nox.session
def browser(session: nox.Session) -> None:
    """Run the tests in Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        session.skip("chromium or chromedriver is missing")
    _run(session, "python", "-m", "pytest", "-m", "browser")


@nox.session
def ray(session: nox.Session) -> None:
    """Run the tests on a Ray cluster."""
    if os.environ.get("GENBATCH_TEST_RAY") != "1":
        session.skip("GENBATCH_TEST_RAY is not 1")
    session.chdir(ROOT)
    session.run("python", "-m", "pip", "install", "--quiet", "-e", ".[ray]", external=True)
    _run(session, "python", "-m", "pytest", "tests/ray/test_cluster.py")


@nox.session
def clients(session: nox.Session) -> None:
    """Try the fake service with clients from npm and PyPI, and with curl."""
    if os.environ.get("GENBATCH_TEST_CLIENTS") != "1":
        session.skip("GENBATCH_TEST_CLIENTS is not 1")
    _run(session, "python", "-m", "pytest", "-rP", "tests/testing/test_foreign_clients.py")


@nox.session
def integrations(session: nox.Session) -> None:
    """Run the apps, workers and test projects that need other packages from PyPI, and Redis."""
    if os.environ.get("GENBATCH_TEST_INTEGRATIONS") != "1":
        session.skip("GENBATCH_TEST_INTEGRATIONS is not 1")
    files = (
        "tests/bucket",
        "tests/browser/test_bucket.py",
        "tests/docs/test_events.py",
        "tests/docs/test_arq.py",
        "tests/docs/test_django.py",
        "tests/testing/test_pytest_plugin.py",
    )
    _run(session, "python", "-m", "pytest", "-m", "slow or not slow", *files)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    site = session.create_tmp()
    command = ["sphinx-build", "-W", "--keep-going", "-n", "-q", "-b", "html", "docs", site]
    _run(session, *command)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Measure the coverage of the tests, branches too."""
    session.chdir(ROOT)
    session.run(
        "coverage",
        "run",
        "-m",
        "pytest",
        "-n",
        "auto",
        "-m",
        "not browser and not soak",
        external=True,
    )
    session.run("coverage", "combine", "--quiet", external=True)
    session.run("coverage", "report", external=True)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Hunt for lost or doubled outcomes."""
    _run(session, "python", "-m", "benchmarks.fuzz", "--prompts", "1000000")


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break the core one thing at a time."""
    _run(session, "python", "-m", "benchmarks.mutants")


@nox.session(default=False)
def kills(session: nox.Session) -> None:
    """Kill runs of the library and the command line, and count what that cost."""
    _run(session, "python", "-m", "benchmarks.crash", "--kills", "300")


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Make images for an hour from a service that goes wrong; nothing may be lost or grow."""
    _run(session, "python", "-m", "pytest", "-m", "soak")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Compare with other ways, and weigh an image on its way."""
    session.chdir(ROOT)
    session.run("python", "-m", "benchmarks", external=True)
    session.run("python", "-m", "benchmarks.wire", external=True)
