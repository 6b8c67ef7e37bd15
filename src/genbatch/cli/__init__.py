"""The command line. It needs the extra ``cli``; without it, main says so and exits with 2."""

from __future__ import annotations

import sys
import warnings

TYPE_CHECKING = False  # without typing and contextlib, during whose imports Ctrl-C would be told
if TYPE_CHECKING:
    from typing import NoReturn

_EXTRA = {"PIL", "rich", "starlette", "typer", "uvicorn"}
_MOST_FILES = 10_240  # that macOS lets a process open, where its hard limit says "unlimited"


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    _raise_limit_of_files()
    warnings.showwarning = _warn
    try:
        from ._main import run

        code = run(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        install = "python -m pip install 'genbatch[cli]'"
        code = _say(f"the command line needs the package {error.name}; run {install}", 2)
    except KeyboardInterrupt:  # while modules are imported; later ones do not get here
        code = _say("interrupted", 130)
    sys.exit(code)


def _say(message: str, code: int) -> int:
    if sys.stderr is not None:  # None where the shell closed it; print would turn to stdout
        print(f"genbatch: {message}", file=sys.stderr)
    return code


def _warn(message: Warning | str, *_where: object, **_of: object) -> None:
    """Show a warning, such as of a library, as one line without the code that it comes from."""
    _say(f"warning: {message}", 0)


def _raise_limit_of_files() -> None:
    """Let this process open as many files as it may: each call in flight has a connection."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, max(soft, _MOST_FILES)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            continue
        return
