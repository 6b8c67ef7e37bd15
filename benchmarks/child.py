"""Measures that need a process of their own: each prints one JSON object.

Run as ``python -m benchmarks.child MEASURE ARGUMENTS``; see fresh.py for who asks.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

# Nothing of the harness is imported up here: the imports measure has to see a bare interpreter. And
# nothing of a contender before that contender runs: every object more makes the garbage collector
# slower, most of all for who has a task for each prompt.

HEAVY = ("google.genai", "httpx", "sqlite3", "rich", "typer", "PIL", "trio", "pydantic")


def peak_kib() -> int:
    """Return the peak resident memory of this process, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also has the peak of the parent that forked us
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def overhead(name: str, backend: str, work: str, n: str, k: str, rounds: str) -> dict[str, Any]:
    """Time a contender and what it is compared with, in turn; return also the packages loaded."""
    from .backends import BASELINES, workload
    from .entrants import named
    from .measures import interleave

    contender = named(name)
    baseline = named(contender.baseline or BASELINES[backend])
    generate = workload(work, backend)
    # What never sleeps is timed by the processor: other programs' load is not in it.
    clock = perf_counter if work == "sleep" else process_time
    pair = dict.fromkeys([contender, baseline])  # one, if it is the baseline itself
    seconds = interleave(pair, backend, int(rounds), generate, int(n), int(k), clock)
    packages = {module.partition(".")[0] for module in sys.modules} - sys.stdlib_module_names
    return {
        "seconds": [round(value, 6) for value in seconds[contender.name]],
        "baseline": [round(value, 6) for value in seconds[baseline.name]],
        "packages": sorted(packages - {"__main__", "benchmarks"}),
    }


def memory(name: str, backend: str, n: str) -> dict[str, Any]:
    """Run n prompts with one checkpoint each; return the peak of memory and the time."""
    from .backends import run, workload
    from .entrants import named
    from .measures import timed, warm_up

    contender = warm_up(named(name), backend)
    generate = workload("checkpoint", backend)
    seconds = run(backend, timed, contender, generate, int(n), 50, perf_counter)
    return {"peak_kib": peak_kib(), "seconds": round(seconds, 4)}


def first(name: str, backend: str, n: str) -> dict[str, Any]:
    """Return when the first outcome of n calls of 1 ms arrived, and do not wait for the rest."""
    from .backends import run, workload
    from .contenders import each
    from .entrants import named
    from .measures import warm_up

    contender = warm_up(named(name), backend)

    async def main() -> None:
        generate = workload("sleep", backend)
        began = perf_counter()
        async with contender.open(generate, range(int(n)), 5) as results:
            async for _ in each(results):
                print(json.dumps({"milliseconds": round((perf_counter() - began) * 1e3, 3)}))
                sys.stdout.flush()
                os._exit(0)  # some would run all the others first

    run(backend, main)
    return {}


def deadline(name: str, backend: str) -> dict[str, Any]:
    """Return how long a 0.05 s deadline takes over an endless source of calls that never yield."""
    import anyio

    from .backends import run, workload
    from .contenders import drain
    from .entrants import named
    from .measures import warm_up

    contender = warm_up(named(name), backend)

    async def main() -> float:
        began = perf_counter()
        with anyio.move_on_after(0.05):
            endless: Any = itertools.count()
            async with contender.open(workload("noop", backend), endless, 5) as results:
                await drain(results)
        return perf_counter() - began

    return {"seconds": round(run(backend, main), 5)}


def genbatch_import() -> dict[str, Any]:
    """Time importing genbatch; return also what it loads, and its own imports of anyio."""
    began = perf_counter()
    import genbatch

    seconds = perf_counter() - began
    loaded = [name for name in HEAVY if name in sys.modules]
    folder = Path(genbatch.__file__).parent
    files = [
        module.__file__
        for name, module in sys.modules.items()
        if name.startswith("genbatch") and module.__file__
    ]
    modules = sorted(Path(file) for file in files if Path(file).is_relative_to(folder))
    imports = sorted({line for path in modules for line in _anyio_imports(path)})
    return {"seconds": seconds, "heavy": loaded, "anyio": imports}


def _anyio_imports(path: Path) -> list[str]:
    """Return the import statements at the top level of a module that name anyio."""
    return [
        ast.unparse(node)
        for node in ast.parse(path.read_text()).body
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "anyio")
        or (isinstance(node, ast.Import) and node.names[0].name.split(".")[0] == "anyio")
    ]


def anyio_import(statements: str) -> dict[str, Any]:
    """Time the statements, which import from anyio."""
    code = compile(statements, "imports", "exec")
    began = perf_counter()
    exec(code, {})
    return {"seconds": perf_counter() - began}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "overhead": overhead,
    "memory": memory,
    "first": first,
    "deadline": deadline,
    "genbatch_import": genbatch_import,
    "anyio_import": anyio_import,
}

if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
