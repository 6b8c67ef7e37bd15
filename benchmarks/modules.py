"""Modules of genbatch whose code runs for one prompt: ``python -m benchmarks.modules``.

``genbatch run p.txt --demo -q`` runs twice in one process, and the second run is profiled, so that
code that only runs while a module is imported does not count. The fake service, genbatch.testing,
does not count either. The modules are printed in the order of their first call.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

import genbatch
from genbatch.cli import main

_SOURCE = Path(genbatch.__file__).parent
_COMMAND = ["genbatch", "run", "p.txt", "--demo", "-q", "-o"]


def modules_of_a_run() -> list[str]:
    """Return the modules that run in the second of two runs, in the order of their first call."""
    found: dict[str, None] = {}

    def called(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found[frame.f_code.co_filename] = None

    before, arguments = Path.cwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("p.txt").write_text("a red fox\n", encoding="utf-8")
            _run("first")
            threading.setprofile(called)  # of the threads that write files
            sys.setprofile(called)
            try:
                _run("second")
            finally:
                sys.setprofile(None)
                threading.setprofile(None)
        finally:
            sys.argv = arguments
            os.chdir(before)
    return [name for name in map(_module, found) if name]


def _run(folder: str) -> None:
    sys.argv = [*_COMMAND, folder]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


def _module(file: str) -> str:
    """Return the name of a module of genbatch, empty for others and for genbatch.testing."""
    path = Path(file)
    if not path.is_relative_to(_SOURCE):
        return ""
    parts = path.relative_to(_SOURCE.parent).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    return "" if name.startswith("genbatch.testing") else name


if __name__ == "__main__":
    names = modules_of_a_run()
    print("\n".join(names))
    print(f"{len(names)} modules")
