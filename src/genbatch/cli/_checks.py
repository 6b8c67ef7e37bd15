"""What is checked while options are read, before anything happens."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable

import typer

from genbatch._store import FINAL, check_template
from genbatch._throttle import parse_interval

from ._console import QuietConsole


def set_debug(context: typer.Context, value: bool) -> bool:
    """Note that tracebacks are wanted, wherever on the line that is said."""
    context.obj.debug = context.obj.debug or value
    return value


def print_version(value: bool) -> None:
    """Print the version and end."""
    if not value:
        return
    try:
        version = importlib.metadata.version("genbatch")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed)"
    QuietConsole().say(f"genbatch {version}")
    raise typer.Exit


def check_backend(backend: str) -> str:
    """Refuse an event loop that is not installed."""
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        install = f"python -m pip install 'genbatch[{backend}]'"
        raise typer.BadParameter(f"{backend} is not installed; run {install}")
    return backend


def check_pace(pace: str | None) -> str | None:
    """Refuse what is no pace."""
    if pace is not None:
        _check(parse_interval, pace)
    return pace


def check_seconds(seconds: float | None) -> float | None:
    """Refuse a time in which nothing can happen."""
    if seconds is not None and not seconds > 0:
        raise typer.BadParameter("must be more than 0 seconds")
    return seconds


def check_name(template: str) -> str:
    """Refuse what names no files."""
    _check(check_template, template)
    return template


def check_kinds(kinds: str | None) -> str | None:
    """Refuse kinds of failures that are always asked for again, or that there are not."""
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


def check_host(host: str) -> str:
    """Refuse to serve others than this machine."""
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise typer.BadParameter("the fake serves this machine only: 127.0.0.1")
    return host


def _check(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
