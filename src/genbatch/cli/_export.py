"""The commands that take something out of a folder: export and copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from genbatch import StoreError
from genbatch._bucket import bucket_path, bucket_rows
from genbatch.exports import (
    NAME_FIELDS,
    Conversion,
    Copied,
    Copying,
    Filter,
    KeptRows,
    copy_images,
    flat_rows,
    kind_of_sheet,
    parse_where,
    rows_of,
    write_csv,
    write_json_lines,
    write_parquet,
    write_sheets,
)

from ._console import QuietConsole, count, plain, to_json
from ._folder import Everything
from ._merge import copied_here
from ._options import OUT, OutputFolder, command, option

T = TypeVar("T")

_MOST_PROBLEMS = 10  # lines
_CHOSEN, _CONVERTED, _WRITTEN = "What is copied", "Conversion", "Names and files"

AsCsv = Annotated[bool, option(None, "Print CSV instead of JSON Lines.", "", "--csv")]
ParquetFile = Annotated[
    Path | None, option(None, "Write the rows to FILE as Parquet instead.", "FILE", "--parquet")
]
Target = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder for the copies.", show_default=False)
]
Kept = Annotated[bool, option(_CHOSEN, "Only images that were kept.")]
MinRating = Annotated[
    int | None, option(_CHOSEN, "Only images with N stars or more.", "N", min=1, max=5)
]
Where = Annotated[
    list[str] | None,
    option(
        _CHOSEN,
        "Only images whose prompt has this value in a field, such as category=animals; repeatable: "
        "another field must fit too, another value of the same field may.",
        "FIELD=VALUE",
    ),
]
AllTakes = Annotated[
    bool, option(_CHOSEN, "All takes, also those of removed prompts.", "", "--all")
]
Format = Annotated[
    Literal["webp", "jpeg", "png"] | None,
    option(_CONVERTED, "Convert images; if not given, copies are the files as they are.", None),
]
Quality = Annotated[
    int | None,
    option(_CONVERTED, "Quality of JPEG and WebP; 90 if not given.", "N", min=1, max=100),
]
MaxSize = Annotated[
    int | None,
    option(_CONVERTED, "Reduce images whose longer side has more pixels.", "PIXELS", min=16),
]
NoMetadata = Annotated[
    bool, option(_CONVERTED, "Do not write prompt and settings into converted images.")
]
Name = Annotated[
    str | None,
    option(
        _WRITTEN,
        f"Template for file names, built from {', '.join(f'{{{each}}}' for each in NAME_FIELDS)}; "
        "the names of the folder if not given.",
        "TEMPLATE",
    ),
]
Sidecar = Annotated[
    Literal["json", "txt"] | None,
    option(_WRITTEN, "Write a file beside each image: its row, or its prompt alone.", None),
]
Sheet = Annotated[
    Path | None,
    option(_WRITTEN, "Write a contact sheet to FILE: .png, .jpg or .webp.", "FILE"),
]
LayoutOf = Annotated[
    Literal["files", "imagefolder", "parquet"],
    option(_WRITTEN, "files, or a data set that Hugging Face's datasets read.", None),
]


@command()
def export_command(
    folder: OutputFolder = OUT,
    as_csv: AsCsv = False,
    parquet: ParquetFile = None,
    everything: Everything = False,
) -> int:
    """Print one row per prompt with its file, cost, error and more.

    Examples:

    - `genbatch export out > images.jsonl`
    - `genbatch export out --csv > images.csv`
    - `genbatch export out --parquet images.parquet`
    """
    if as_csv and parquet is not None:
        raise ValueError("--csv and --parquet: give one of them")
    bucket = bucket_path(folder)
    rows = rows_of(folder, all=everything) if bucket is None else bucket_rows(str(bucket))
    out = QuietConsole()
    if parquet is not None:
        flat = flat_rows(rows)
        _with_extras(write_parquet, flat, parquet)
        out.say(f"{count(len(flat), 'row')} in {plain(parquet)}")
    elif as_csv:
        flat = flat_rows(rows)
        with out.writing() as stream:
            write_csv(flat, stream)
    else:
        kept = KeptRows(rows)
        with out.writing() as stream:
            write_json_lines(kept, stream, to_json(out.encoding))
    return 0


@command()
def copy_command(
    folder: OutputFolder,
    target: Target,
    *,
    kept: Kept = False,
    min_rating: MinRating = None,
    where: Where = None,
    all_takes: AllTakes = False,
    format: Format = None,
    quality: Quality = None,
    max_size: MaxSize = None,
    no_metadata: NoMetadata = False,
    name: Name = None,
    sidecar: Sidecar = None,
    sheet: Sheet = None,
    layout: LayoutOf = "files",
) -> int:
    """Copy images to another folder: those you want, as they are or converted.

    The same command again copies what is new, and goes on where it was interrupted. Files that it
    did not write are left as they are.

    Examples:

    - `genbatch copy out best --kept`
    - `genbatch copy out web --min-rating 4 --format webp --max-size 2048 --sidecar json`
    - `genbatch copy out dataset --where category=animals --layout imagefolder`
    """
    folder = copied_here(folder)
    if sheet is not None:
        kind_of_sheet(sheet)
    how = Copying(
        directory=folder,
        out=target,
        conversion=Conversion(format, quality, max_size, told=not no_metadata),
        template=name,
        sidecar=sidecar,
        layout=None if layout == "files" else layout,
    )
    wanted = Filter(kept, min_rating, parse_where(where or ()), all_takes)
    return _with_extras(_copy, KeptRows(wanted.rows(folder)), how, sheet)


def _copy(rows: KeptRows, how: Copying, sheet: Path | None) -> int:
    out, notes = QuietConsole(), QuietConsole(stderr=True)
    if not len(rows):
        out.say(f"Nothing to copy: no image in {plain(how.directory)} fits.")
        return 0
    try:
        with notes.status("Copying") as line:

            def drawn(number: int, of: int) -> None:
                line.update(f"Contact sheet: {number:,} of {of:,}")

            done = copy_images(rows, how, lambda n, of: line.update(f"Copying: {n:,} of {of:,}"))
            sheets = [] if sheet is None else write_sheets(rows, how.directory, sheet, drawn)
    except KeyboardInterrupt:
        notes.error("interrupted: what was copied is complete, the same command goes on")
        return 130
    except StoreError as error:
        raise StoreError(f"{error}; the same command goes on") from error.__cause__
    _tell(done, how, out, notes)
    for path in sheets:
        out.say(f"contact sheet in {plain(path)}")
    return 1 if done.failed else 0


def _with_extras(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that may need packages of an extra."""
    try:
        return function(*arguments)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error


def _tell(done: Copied, how: Copying, out: QuietConsole, notes: QuietConsole) -> None:
    parts = [f"{count(done.copied, 'image')} copied to {plain(how.out)}, {done.bytes / 1e6:.1f} MB"]
    if done.there:
        parts.append(f"{done.there:,} already there")
    if done.removed:
        parts.append(f"{count(done.removed, 'file')} removed that no longer fit")
    if done.failed:
        parts.append(f"{done.failed:,} left out")
    out.say(", ".join(parts))
    for problem in done.problems[:_MOST_PROBLEMS]:
        notes.say(plain(problem))
    if done.failed > _MOST_PROBLEMS:
        notes.say(f"and {done.failed - _MOST_PROBLEMS:,} more")
