"""``genbatch.toml``: defaults of options, by the names that they have as variables.

1. The command line wins over the environment, that over the file in the working directory, and that
   over the user's own, ``~/.config/genbatch/genbatch.toml``.
2. The file in the working directory may be somebody else's, as in a cloned repository: it says how
   images are made, and never who is asked, what may be spent, what is shown of that, whether a paid
   answer is waited for, or which files elsewhere are written.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import typer

from genbatch._bucket import bucket_path

from ._console import plain
from ._options import ENVIRONMENT, Options
from ._services import Services

NAME = "genbatch.toml"
_HARMLESS = (
    *("encoding", "model", "aspect_ratio", "image_size", "output", "name", "gallery"),
    *("max_concurrent", "pace", "patience", "backend"),
)
_LARGEST = 65_536  # bytes


def use_config_files() -> dict[str, Path]:
    """Set the variables that are not set to what the files say, and return where each is from.

    Raises:
        ValueError: If a file is malformed, or sets what it may not.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not home.is_absolute():  # or a working directory could have it
        home = Path("~/.config").expanduser()
    origins: dict[str, Path] = {}
    for path, is_own in ((Path(NAME), False), (home / "genbatch" / NAME, True)):
        for name, value in _read(path):
            _check(path, name, value, is_own=is_own)
            variable = f"{ENVIRONMENT}{name.upper()}"
            if not os.environ.get(variable, "").strip():
                os.environ[variable] = str(int(value) if isinstance(value, bool) else value)
                origins[variable] = path
    return origins


def set_by_files(context: typer.Context) -> Iterator[str]:
    """Yield, for each file of settings, what it has set in this command."""
    origins = context.obj.origins
    for path in dict.fromkeys(origins.values()):
        names = [
            name
            for name in map(str, context.params)
            if origins.get(f"{ENVIRONMENT}{name.upper()}") == path
            and (source := context.get_parameter_source(name)) is not None
            and source.name == "ENVIRONMENT"
        ]
        if names:
            yield plain(f"Set by {path}: {', '.join(names)}")


def _read(path: Path) -> Iterator[tuple[str, object]]:
    if not path.is_file():  # neither is a pipe, which would block
        return
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"{path} is larger than {_LARGEST:,} bytes: it is no file of settings")
        found = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        place = re.search(r"at line \d+, column \d+", str(error))
        where = f", {place[0]}" if place else ""
        raise ValueError(f'{path} is not valid TOML{where}: write model = "pro"') from error
    yield from found.items()


def _check(path: Path, name: str, value: object, *, is_own: bool) -> None:
    """Refuse a setting that there is not, or that a file in the working directory may not have."""
    # Known by their variables: what has none is for the command line, and a key for neither.
    known = {each.name for each in fields(Options) if each.metadata["option"](each.name).envvar}
    if name not in known:
        settable = sorted(map(repr, known if is_own else _HARMLESS))
        raise ValueError(f"{path}: {name!r:.50} cannot be set here: {', '.join(settable)} can")
    if not is_own and name not in _HARMLESS:
        raise ValueError(
            f"{path}: {name} cannot be set by a file in the working directory, which may be "
            f"somebody else's: use the option, {ENVIRONMENT}{name.upper()}, or "
            f"~/.config/genbatch/{NAME}"
        )
    if not isinstance(value, str | int | float) or "\0" in str(value):
        raise ValueError(f"{path}: {name} must be a text, a number, true or false")
    if is_own:
        return
    model = str(value).strip()
    if name == "model" and ("/" in model or Services().of(model) != "gemini"):
        raise ValueError(
            f"{path}: model cannot choose another service here: use --model {value!s:.50}"
        )
    folder = Path(str(value))
    is_below = folder.resolve().is_relative_to(Path().resolve())
    if name == "output" and (bucket_path(folder) or ":" in str(folder) or not is_below):
        raise ValueError(f"{path}: output must be a folder below this one: use -o {value!s:.50}")
