"""The options that commands share, and what is checked while they are read."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

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
Limit = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Only the first N prompts.", show_default=False),
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
