"""The command that puts the folders of several machines together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genbatch._bucket import bucket_path, download_bucket, is_download_of
from genbatch._store import merge

from ._console import QuietConsole, count, plain
from ._options import command, option, refuse_bucket

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR",
        help="Folders of earlier runs, or buckets: s3://bucket/foxes.",
        show_default=False,
    ),
]
To = Annotated[Path, option(None, "Folder to merge them into, created if missing.", "DIR")]


@command()
def merge_command(folders: Folders, to: To) -> int:
    """Merge folders, such as those of run --shard 1/2 and 2/2, into one.

    Nothing is paid and nothing is overwritten, and the folders keep what they have. Repeat it to
    add what they have got since. A bucket becomes a folder for gallery, view, redo and pick.

    Examples:

    - `genbatch merge a b --to all`
    - `genbatch merge s3://bucket/foxes --to foxes`
    """
    refuse_bucket(to, "merge --to")
    buckets = [bucket for each in folders if (bucket := bucket_path(each)) is not None]
    notes = QuietConsole(stderr=True)
    with notes.status("Merging") as line:

        def show(done: int, of: int) -> None:
            line.update(f"Merging: {done:,} of {of:,} prompts")

        local = [each for each in folders if bucket_path(each) is None]
        parts = [merge(local, to, show)] if local else []
        parts += [download_bucket(str(bucket), to, show) for bucket in buckets]
    prompts = sum(part.prompts for part in parts)
    copied = sum(part.images for part in parts)
    known = sum(part.known for part in parts)
    names = ", ".join(plain(each) for each in folders)
    QuietConsole().say(
        f"{plain(to)}: {count(prompts, 'prompt')} of {names}; "
        f"{count(copied, 'image')} copied, {known:,} there already"
    )
    for name in parts[0].pins:
        notes.say(f"{plain(name)} is not the same model in all of them: the first one counts.")
    return 0


def copied_here(folder: Path) -> Path:
    """Return a folder, or where one is a bucket, a folder with what that has now.

    It is in the working directory, named after the end of the URL.

    Raises:
        ValueError: If there is something else of that name.
        StoreError: If the bucket cannot be read, or the folder cannot be written.
    """
    if (bucket := bucket_path(folder)) is None:
        return folder
    here, notes = Path(bucket.name), QuietConsole(stderr=True)
    if here.exists() and not is_download_of(str(bucket), here):
        raise ValueError(
            f"{here} is here already, and not a copy of {bucket}: make one elsewhere by "
            f"genbatch merge {bucket} --to DIR, and name that"
        )
    with notes.status(f"Copying {bucket} to {here}"):
        copied = download_bucket(str(bucket), here)
    notes.say(f"{bucket} is in {here}: {count(copied.images, 'image')} copied")
    return here
