"""From arguments to an exit code: every exception becomes one line on stderr.

Exit codes: 0 all done; 1 some prompts failed; 2 usage or bad input; 3 stopped early;
128 + number of the signal that interrupted the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import typer

from genbatch import GenbatchError

from ._app import app
from ._console import QuietConsole, plain
from ._options import Session


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    session = Session()
    try:
        code = app(
            [_with_value(each) for each in arguments],
            prog_name="genbatch",
            standalone_mode=False,
            obj=session,
        )
    # Everything, because the user is owed a line; trio's KeyboardInterrupt comes in a group.
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001
        if session.debug:
            traceback.print_exception(error)
        message, code = _explain(error)
        QuietConsole(stderr=True).error(plain(message, 1000))
    return int(code or 0)


def _with_value(argument: str) -> str:
    """Return an option whose value may be left out with the value it has then."""
    return "--retry-failed=all" if argument == "--retry-failed" else argument


def _explain(error: BaseException) -> tuple[str, int]:
    """Return what to tell the user about error, and the exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # Typer's own errors have no public base class in every version.
    if format_message := getattr(error, "format_message", None):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "genbatch"
        message = format_message().rstrip(".") + _origin(error)
        stop = "" if message.endswith("?") else "."
        return f"{message}{stop} See '{command} --help'.", 2
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted", 130
        case ValueError():
            return str(error), 2
        case OSError(filename=str(name), strerror=str(reason)):
            return f"{name}: {reason[:1].lower()}{reason[1:]}", 2
        case GenbatchError() | OSError():
            return str(error), 3
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", 3


def _origin(error: BaseException) -> str:
    """Return where a bad value comes from, if it is not on the line."""
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or option is None or not option.envvar:
        return ""
    source = context.get_parameter_source(option.name)
    is_set = source is not None and source.name == "ENVIRONMENT"
    return f" (from the environment: {option.envvar})" if is_set else ""
