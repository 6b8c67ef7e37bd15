"""What a run reads: files, the prompts of a template and a grid, or standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

from genbatch import Prompt
from genbatch._values import ImageRequest
from genbatch.gemini import resolve
from genbatch.inputs import (
    Grid,
    Recipe,
    Selection,
    StandardInput,
    Template,
    canonical,
    check_encoding,
    read_prompts,
)

from ._console import QuietConsole, plain
from ._result import Options
from ._run import Prompts

STDIN = "-"


def parted(names: Sequence[str], matrix: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of files apart from the axes: ``--matrix a=1,2 b=3`` names two of these.

    Args:
        names: What stands beside the options.
        matrix: What stands right after a ``--matrix``.
    """
    is_axis = re.compile(r"\w+=").match
    axes = [name for name in names if matrix and is_axis(name) and not Path(name).exists()]
    return [name for name in names if name not in axes], [*matrix, *axes]


def recipe_of(
    options: Options, column: str | None, template: str | None, matrix: Sequence[str]
) -> Recipe:
    """Return how rows become prompts.

    Args:
        options: Of the run; what they ask of the model is checked.
        column: The field that is the prompt.
        template: Makes it of others.
        matrix: Axes of a grid, such as ``style=ink,oil``.

    Raises:
        ValueError: If one is malformed, or column and template are both given.
    """
    if column is not None and template is not None:
        raise ValueError("--column and --template both say what the prompt is; leave out one")
    check = partial(_check, options)
    check(None, None, None)  # what is wrong with the run itself is not the fault of a row
    return Recipe(
        column="prompt" if column is None else canonical(column),
        template=None if template is None else Template.parse(template),
        grid=Grid.parse(matrix),
        check=check,
    )


def _check(
    options: Options, model: str | None, aspect_ratio: str | None, image_size: str | None
) -> None:
    resolve(
        ImageRequest(
            "any text",
            model=model or options.model,
            aspect_ratio=aspect_ratio or options.aspect_ratio,
            image_size=image_size or options.image_size,
        )
    )


def read_inputs(
    names: Sequence[str], recipe: Recipe, encoding: str, selection: Selection
) -> Prompts:
    """Return the prompts of files, all checked, or of standard input, which is not read yet.

    Args:
        names: Of files, or ``-`` alone. Without one, the template and the grid make the prompts.
        recipe: How rows become prompts.
        encoding: Of text.
        selection: Which prompts are wanted.

    Raises:
        ValueError: If there is nothing to read, or it is not what it should be.
        OSError: If a file cannot be read.
    """
    if not names and (recipe.template is None or not recipe.grid.axes):
        raise ValueError("no PROMPTS: name a file, or give --template and --matrix")
    if STDIN not in names:
        return read_prompts(names, recipe, encoding=encoding, selection=selection)
    if len(names) > 1:
        raise ValueError("- stands alone: standard input does not go together with files")
    if sys.stdin is None:
        raise ValueError("stdin: is closed; pipe prompts into it or name a file")
    source = StandardInput(sys.stdin.fileno(), recipe, check_encoding(encoding), selection)
    if source.is_terminal:
        QuietConsole(stderr=True).say("Type a prompt a line; Ctrl-D on an empty line ends.")
    return source


def nothing_in(names: Sequence[str], prompts: Prompts, limit: int | None) -> str | None:
    """Return why there is nothing to do, None if there is, or may be."""
    if limit == 0:
        return "--limit 0"
    if isinstance(prompts, StandardInput) or len(prompts):
        return None
    return f"no prompts in {plain(', '.join(names))}"


def read_to_end(prompts: Prompts) -> Prompts:
    """Return prompts that can be counted: standard input is read to its end."""
    if not isinstance(prompts, StandardInput):
        return prompts

    async def all_of() -> list[Prompt]:
        return [prompt async for prompt in prompts]

    return anyio.run(all_of)
