"""The commands, and the way from arguments to an exit code.

Every exception becomes one line on stderr. Exit codes: 0 all done; 1 some prompts failed; 2 usage,
bad input or the wrong folder; 3 stopped early; 128 + number of the signal that interrupted the run.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from types import SimpleNamespace

import typer

from genbatch import GenbatchError, StoreError
from genbatch.inputs import InputError

from . import _export, _folder, _make, _merge, _service, _steer, _view
from ._config_file import use_config_files
from ._console import QuietConsole, plain
from ._options import Version, command
from ._words import as_typed, in_our_words

ENVIRONMENT = """Environment variables set defaults: GENBATCH_MAX_CONCURRENT sets
--max-concurrent, and likewise for --encoding, --model, --aspect-ratio, --image-size, --output,
--name, --gallery, --pace, --budget, --max-images, --price, --prices, --timeout, --deadline,
--patience, --quiet, --log-file and --backend; so does a file genbatch.toml, behind them. Options
on the command line take precedence."""

# Of a folder that cannot be written to, is none, has no run, or has one under --fresh: the same
# command does not resume, unlike after a full disk or beside another run.
_WRONG_FOLDER = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
    *(errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)

app = typer.Typer(
    name="genbatch",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@command()
def root(context: typer.Context, version: Version = False) -> int:
    """Prompts in, images out: a file of prompts becomes a folder of images.

    Examples:

    - `genbatch demo` (start here: no key, no cost)
    - `genbatch run prompts.txt`
    - `genbatch run prompts.csv --demo --limit 40`
    - `genbatch status`
    - `genbatch redo genbatch-out 17`
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    return 0


_MAKE, _LOOK, _SERVICE = "Generate images", "Inspect a folder", "Service"

app.command("run", rich_help_panel=_MAKE, epilog=ENVIRONMENT)(_make.run_command)
app.command("demo", rich_help_panel=_MAKE)(_make.demo_command)
app.command("status", rich_help_panel=_LOOK)(_folder.status_command)
app.command("export", rich_help_panel=_LOOK)(_export.export_command)
app.command("copy", rich_help_panel=_LOOK)(_export.copy_command)
app.command("verify", rich_help_panel=_LOOK)(_folder.verify_command)
app.command("gallery", rich_help_panel=_LOOK)(_folder.gallery_command)
app.command("view", rich_help_panel=_LOOK)(_view.view_command)
app.command("keep", rich_help_panel=_LOOK)(_view.keep_command)
app.command("redo", rich_help_panel=_MAKE)(_make.redo_command)
app.command("tune", rich_help_panel=_MAKE)(_steer.tune_command)
app.command("pick", rich_help_panel=_LOOK)(_folder.pick_command)
app.command("merge", rich_help_panel=_MAKE)(_merge.merge_command)
app.command("jobs", rich_help_panel=_LOOK)(_folder.jobs_command)
app.command("models", rich_help_panel=_SERVICE)(_service.models_command)
app.command("serve-fake", rich_help_panel=_SERVICE)(_service.serve_command)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    # --debug sets debug, wherever it is given.
    session = SimpleNamespace(debug=False, origins={})
    # The value of --retry-failed may be left out, which typer does not know.
    whole = ["--retry-failed=all" if each == "--retry-failed" else each for each in arguments]
    try:
        session.origins = use_config_files()
        code = app(whole, prog_name="genbatch", standalone_mode=False, obj=session)
    # Everything, because the user is owed a line; trio's KeyboardInterrupt comes in a group.
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001
        if session.debug:
            traceback.print_exception(error)
        message, code = _explain(error)
        # Those of inputs have a line for each bad row.
        first, *more = message.split("\n") if isinstance(error, InputError) else [message]
        QuietConsole(stderr=True).error(plain(first, 1000))
        for line in more:
            QuietConsole(stderr=True).say(plain(line, 1000))
    return int(code or 0)


def _explain(error: BaseException) -> tuple[str, int]:
    """Return what to tell the user about an error, and the exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # Typer's own errors have no public base class in every version.
    if format_message := getattr(error, "format_message", None):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "genbatch"
        message = in_our_words(format_message().rstrip(".")) + _origin(error)
        stop = "" if message.endswith("?") else "."
        return f"{message}{stop} See '{path} --help'.", 2
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted", 130
        case InputError():  # which names columns
            return str(error), 2
        case ValueError():
            return as_typed(str(error)), 2
        case OSError(filename=str(name), strerror=str(reason)):
            return f"{name}: {reason[:1].lower()}{reason[1:]}", 2
        case StoreError(__cause__=OSError(errno=number)) if number in _WRONG_FOLDER:
            return str(error), 2
        case GenbatchError() | OSError():
            return str(error), 3
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", 3


def _origin(error: BaseException) -> str:
    """Return the variable that a bad value comes from, empty if it is on the command line."""
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or option is None or not option.envvar:
        return ""
    source = context.get_parameter_source(option.name)
    is_set = source is not None and source.name == "ENVIRONMENT"
    if is_set and (path := context.obj.origins.get(option.envvar)):
        return f" (from {path}: {option.name})"
    return f" (from the environment: {option.envvar})" if is_set else ""
