"""The directive ``command``: a command of the command line, as its code declares it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.models import ArgumentInfo, OptionInfo

from genbatch.cli._main import app

Row = tuple[str, str, str]

_OPTION = re.compile(r"--[a-z][a-z-]+")


class Command(SphinxDirective):
    """Shows usage, help and options of a command, or of ``genbatch`` itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what the page shows of it."""
        name = self.arguments[0]
        container = nodes.container()
        self.state.nested_parse(StringList(list(markdown_of(name)), name), 0, container)
        return container.children


def functions() -> dict[str, Callable[..., Any]]:
    """Return the function of each command by its name, that of genbatch itself first."""
    commands = {each.name: each.callback for each in app.registered_commands}
    return {"genbatch": app.registered_callback.callback, **commands}


def markdown_of(name: str) -> Iterator[str]:
    """Yield the lines that describe a command."""
    function = functions()[name]
    arguments, options = parameters(function)
    usage = "genbatch [OPTIONS] COMMAND"
    if name != "genbatch":
        usage = " ".join(["genbatch", name, "[OPTIONS]", *(given for given, _, _ in arguments)])
    yield from ("```text", usage, "```", "")
    yield from inspect.cleandoc(function.__doc__ or "").splitlines()
    yield from ("", "| | | default |", "|---|---|---|")
    for given, says, default in (*arguments, *options):
        yield f"| `{given}` | {says} | {default} |"


def parameters(function: Callable[..., Any]) -> tuple[list[Row], list[Row]]:
    """Return arguments and options of a command: how each is given, its help, its default."""
    hints = get_type_hints(function, include_extras=True)
    arguments: list[Row] = []
    options: list[Row] = []
    for each in inspect.signature(function).parameters.values():
        for info in getattr(hints[each.name], "__metadata__", ()):
            if isinstance(info, ArgumentInfo):
                is_needed = each.default is inspect.Parameter.empty
                given = str(info.metavar) if is_needed else f"[{info.metavar}]"
                arguments.append((given, says(info), shown(each.default)))
            elif isinstance(info, OptionInfo):
                given = option(info, each.name, hints[each.name].__origin__)
                options.append((given, says(info), shown(each.default)))
    return arguments, options


def says(info: ArgumentInfo | OptionInfo) -> str:
    """Return the help of a parameter, and the variable that sets its default."""
    text = _OPTION.sub(r"`\g<0>`", info.help or "")
    return f"{text} `{info.envvar}`" if info.envvar else text


def option(info: OptionInfo, name: str, kind: object) -> str:
    """Return how an option is given, such as ``-o, --output DIR``."""
    # typer takes the first of its names for a default, until it builds the command.
    names = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
    names = sorted(names or [f"--{name.replace('_', '-')}"], key=len)
    value = info.metavar or ""
    if get_origin(kind) is Literal:
        value = f"{{{','.join(get_args(kind))}}}"
    joint = "" if value.startswith("[") else " "  # a value that may be left out
    return f"{', '.join(names)}{joint}{value}".strip()


def shown(default: object) -> str:
    """Return a default for its cell, which is empty for what is off or has none."""
    if default is None or default is False or default is inspect.Parameter.empty:
        return ""
    if isinstance(default, Path):
        default = default.as_posix()
    return "on" if default is True else f"`{default}`"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
