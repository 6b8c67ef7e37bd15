"""The commands, in the order of the help; each returns its exit code."""

from __future__ import annotations

import typer

from . import _options as options
from ._folder_commands import (
    export_command,
    gallery_command,
    pick_command,
    status_command,
    verify_command,
)
from ._job_commands import jobs_command
from ._run_commands import demo_command, redo_command, run_command
from ._service_commands import models_command, serve_command

ENVIRONMENT = """The environment sets defaults, as GENBATCH_MAX_CONCURRENT does for
--max-concurrent; an option wins over it. So can --encoding, --model, --aspect-ratio, --image-size,
--output, --name, --gallery, --pace, --budget, --max-images, --price, --timeout, --deadline,
--patience, --quiet, --log-file and --backend be set."""

app = typer.Typer(
    name="genbatch",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: options.Version = False, debug: options.Debug = False
) -> None:
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


_MAKE, _LOOK, _SERVICE = "Make images", "Look at a folder", "The service"

app.command("run", rich_help_panel=_MAKE, epilog=ENVIRONMENT)(run_command)
app.command("demo", rich_help_panel=_MAKE)(demo_command)
app.command("status", rich_help_panel=_LOOK)(status_command)
app.command("export", rich_help_panel=_LOOK)(export_command)
app.command("verify", rich_help_panel=_LOOK)(verify_command)
app.command("gallery", rich_help_panel=_LOOK)(gallery_command)
app.command("redo", rich_help_panel=_MAKE)(redo_command)
app.command("pick", rich_help_panel=_LOOK)(pick_command)
app.command("jobs", rich_help_panel=_LOOK)(jobs_command)
app.command("models", rich_help_panel=_SERVICE)(models_command)
app.command("serve-fake", rich_help_panel=_SERVICE)(serve_command)
