"""The command that puts the folders of several machines together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genbatch._store import merge

from ._console import QuietConsole, count, plain
from ._options import command, option

Folders = Annotated[
    list[Path],
    typer.Argument(metavar="DIR", help="Folders of earlier runs.", show_default=False),
]
To = Annotated[Path, option(None, "Folder to merge them into, created if missing.", "DIR")]


@command()
def merge_command(folders: Folders, to: To) -> int:
    """Merge folders, such as those of run --shard 1/2 and 2/2, into one.

    Nothing is paid and nothing is overwritten, and the folders keep what they have. Repeat it to
    add what they have got since.

    Examples:

    - `genbatch merge a b --to all`
    """
    notes = QuietConsole(stderr=True)
    with notes.status("Merging") as line:
        merged = merge(folders, to, lambda n, of: line.update(f"Merging: {n:,} of {of:,} prompts"))
    names = ", ".join(plain(each) for each in folders)
    images, known = count(merged.images, "image"), f"{merged.known:,} there already"
    QuietConsole().say(
        f"{plain(to)}: {count(merged.prompts, 'prompt')} of {names}; {images} copied, {known}"
    )
    for name in merged.pins:
        notes.say(f"{plain(name)} is not the same model in all of them: the first one counts.")
    return 0
