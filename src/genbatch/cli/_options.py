"""The options that commands share, and what is checked while they are read."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from genbatch._pace import parse_interval
from genbatch._store._names import check_template
from genbatch._store._plan import FINAL

from ._display import QuietConsole


@dataclass(slots=True)
class Session:
    """What the options say about the command line itself."""

    debug: bool = False


def _set_debug(context: typer.Context, value: bool) -> bool:
    context.obj.debug = context.obj.debug or value
    return value


def _print_version(value: bool) -> None:
    if not value:
        return
    try:
        version = importlib.metadata.version("genbatch")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed)"
    QuietConsole().say(f"genbatch {version}")
    raise typer.Exit


def _check_backend(backend: str) -> str:
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        install = f"python -m pip install 'genbatch[{backend}]'"
        raise typer.BadParameter(f"{backend} is not installed; run {install}")
    return backend


def _check_pace(pace: str | None) -> str | None:
    if pace is not None:
        try:
            parse_interval(pace)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return pace


def _check_seconds(seconds: float | None) -> float | None:
    if seconds is not None and not seconds > 0:
        raise typer.BadParameter("must be more than 0 seconds")
    return seconds


def _check_name(template: str) -> str:
    try:
        return check_template(template)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _check_kinds(kinds: str | None) -> str | None:
    if kinds is not None and kinds != "all":
        known = {kind.lower() for kind in FINAL}
        if unknown := [kind for kind in kinds.split(",") if kind.strip().lower() not in known]:
            raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(FINAL)}, all")
    return kinds


def kinds_to_retry(kinds: str | None) -> bool | list[str]:
    """Return what --retry-failed asks for, as a Store takes it."""
    if kinds is None or kinds == "all":
        return kinds == "all"
    asked = {kind.strip().lower() for kind in kinds.split(",")}
    return [kind for kind in FINAL if kind.lower() in asked]


def _check_host(host: str) -> str:
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise typer.BadParameter("the fake serves this machine only: 127.0.0.1")
    return host


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_set_debug, is_eager=True, help="Show tracebacks of errors."),
]
Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
]
Prompts = Annotated[
    str,
    typer.Argument(
        metavar="PROMPTS",
        help="A .txt file with a prompt a line, a .csv or .tsv with a column named prompt, "
        "or - for standard input.",
        show_default=False,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the images.")
]
Folder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Folder that images were made in.", show_default=False),
]
Indices = Annotated[
    list[str],
    typer.Argument(
        metavar="PROMPT...", help="Numbers as export shows them: 17 42-45.", show_default=False
    ),
]
Index = Annotated[
    int,
    typer.Argument(
        min=0, metavar="PROMPT", help="Its number as export shows it.", show_default=False
    ),
]
Take = Annotated[int, typer.Argument(min=1, metavar="TAKE", help="From 1.", show_default=False)]
NewPrompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Another text.", show_default=False),
]
NewModel = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Another model.", show_default=False),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Another seed.", show_default=False)]
OfDemo = Annotated[
    bool, typer.Option("--demo", help="Of a folder that --demo made: the images are fakes again.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON object.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="As CSV instead of JSON Lines.")]
Everything = Annotated[
    bool, typer.Option("--all", help="Every take, and what the prompts no longer ask for.")
]
MaxConcurrent = Annotated[
    int, typer.Option("--max-concurrent", "-k", min=1, metavar="N", help="Most calls at once.")
]
Model = Annotated[
    str,
    typer.Option(metavar="MODEL", help="flash, pro, lite, or a full model id."),
]
AspectRatio = Annotated[
    str | None, typer.Option(metavar="W:H", help="Such as 16:9.", show_default=False)
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="1K, 2K or 4K.", show_default=False)
]
Budget = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="USD", help="Never pay for more, by expected price.", show_default=False
    ),
]
MaxImages = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Never pay for more images.", show_default=False),
]
Price = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="USD", help="Of an image, instead of the table's.", show_default=False
    ),
]
Pace = Annotated[
    str | None,
    typer.Option(
        callback=_check_pace,
        metavar="N/min",
        help="Start no faster, such as 5/min, evenly spaced.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float, typer.Option(callback=_check_seconds, metavar="SECONDS", help="For each attempt.")
]
Deadline = Annotated[
    float | None,
    typer.Option(
        callback=_check_seconds, metavar="SECONDS", help="For the whole run.", show_default=False
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        min=0.0, metavar="SECONDS", help="How long a rate limit may last without a success."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would do and cost, and make no call.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before an expensive run.")]
Limit = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Only the first N prompts.", show_default=False),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Refuse a folder that is not empty.")]
Name = Annotated[
    str,
    typer.Option(
        callback=_check_name,
        metavar="TEMPLATE",
        help="How files are named: of {index}, {slug}, {id} and {key}, such as {index:05d}_{slug}.",
    ),
]
RedoMissing = Annotated[
    bool, typer.Option("--redo-missing", help="Make, and pay, images again whose files are gone.")
]
RetryFailed = Annotated[
    str | None,
    typer.Option(
        callback=_check_kinds,
        metavar="[=KIND]",
        help="Ask again for what was refused for good: all of it, Blocked, NoImage or Rejected.",
        show_default=False,
    ),
]
Backend = Annotated[
    Literal["asyncio", "trio", "uvloop"],
    typer.Option(callback=_check_backend, help="Event loop."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Another server than Google's.", show_default=False),
]
Demo = Annotated[
    bool, typer.Option("--demo", help="Use a built-in fake of the service: no key, no cost.")
]
Host = Annotated[str, typer.Option(callback=_check_host, metavar="HOST", help="Loopback only.")]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 for any free one.")]
Latency = Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long a call takes.")]
Quota = Annotated[
    str | None,
    typer.Option(metavar="N/min", help="Calls of a model in any minute.", show_default=False),
]
Daily = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Calls of a model in a day.", show_default=False),
]
RetryInfo = Annotated[
    bool,
    typer.Option(
        "--retry-info/--no-retry-info", help="Tell a call beyond the quota how long to wait."
    ),
]
