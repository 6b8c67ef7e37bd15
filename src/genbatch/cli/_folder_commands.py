"""The commands that look at a folder: status, export, verify, gallery and pick."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from . import _options as options
from ._demo import DEMO
from ._gallery import show_gallery
from ._launch import run
from ._records import check_folder, print_rows, show_status
from ._takes import pick_take

_FOLDER = Path("genbatch-out")

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        envvar=f"{options.ENVIRONMENT}OUTPUT",
        show_envvar=False,
        help="Folder that images were made in.",
    ),
]
Index = Annotated[
    int,
    typer.Argument(
        min=0, metavar="PROMPT", help="Its number as export shows it.", show_default=False
    ),
]
Take = Annotated[int, typer.Argument(min=1, metavar="TAKE", help="From 1.", show_default=False)]
AsJson = Annotated[bool, options.flag(None, "--json", help="As one JSON object.")]
AsCsv = Annotated[bool, options.flag(None, "--csv", help="As CSV instead of JSON Lines.")]
Everything = Annotated[
    bool,
    options.flag(None, "--all", help="Every take, and what is asked for no more."),
]
Open = Annotated[bool, options.flag(None, "--open", help="Open it in the browser.")]


def status_command(
    folder: Folder = _FOLDER, as_json: AsJson = False, debug: options.Debug = False
) -> int:
    """Say how far a folder has come, and what it has cost.

    Examples:

    - `genbatch status`
    - `genbatch status out --json`
    """
    return show_status(folder, as_json)


def export_command(
    folder: Folder = _FOLDER,
    as_csv: AsCsv = False,
    everything: Everything = False,
    debug: options.Debug = False,
) -> int:
    """Print a row for each prompt: its file, cost, error and more.

    Examples:

    - `genbatch export out > images.jsonl`
    - `genbatch export out --csv > images.csv`
    """
    return print_rows(folder, as_csv, everything)


def verify_command(folder: Folder = _FOLDER, debug: options.Debug = False) -> int:
    """Compare every image with what was noted when it was made.

    Examples:

    - `genbatch verify out`
    """
    return check_folder(folder)


def gallery_command(
    folder: Folder = _FOLDER, opened: Open = False, debug: options.Debug = False
) -> int:
    """Write a page with all images, to look at, search and compare.

    It is index.html in the folder itself, and needs no network.

    Examples:

    - `genbatch gallery out --open`
    """
    return show_gallery(folder, opened)


def pick_command(
    folder: options.Folder,
    prompt: Index,
    take: Take,
    demo: options.OfDemo = False,
    debug: options.Debug = False,
) -> int:
    """Choose the take of a prompt that export and gallery show.

    Examples:

    - `genbatch pick out 17 2`
    """
    run(partial(pick_take, folder, prompt, take, DEMO if demo else ""), "asyncio")
    return 0
