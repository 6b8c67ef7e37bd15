"""What a run reads, and a preview of what it will do and cost.

Prompts come from files, from a template and a grid, or from standard input.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import anyio

from genbatch import ImageRequest, Prompt, estimate
from genbatch._throttle import parse_interval
from genbatch.gemini import JOB_SHARE, default_size, model_id, price, resolve
from genbatch.inputs import (
    Grid,
    PromptFiles,
    Recipe,
    Selection,
    StandardInput,
    Template,
    canonical,
    check_encoding,
    read_prompts,
)

from ._console import QuietConsole, clock, plain
from ._options import Options

Prompts: TypeAlias = PromptFiles | StandardInput | Sequence[str | Prompt]

_EXPENSIVE = 10.0  # US dollars above which to ask first
_FEW = 10  # images that are not worth waiting for a job

STDIN = "-"


def parted(names: Sequence[str], matrix: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the names of files from the axes: ``--matrix a=1,2 b=3`` has two axes.

    Args:
        names: The arguments.
        matrix: The value of each ``--matrix``.
    """
    is_axis = re.compile(r"\w+=").match
    axes = [name for name in names if matrix and is_axis(name) and not Path(name).exists()]
    return [name for name in names if name not in axes], [*matrix, *axes]


def recipe_of(options: Options, matrix: Sequence[str]) -> Recipe:
    """Return how rows become prompts.

    Args:
        options: The options of the run; the settings of its images are checked.
        matrix: Axes of a grid, such as ``style=ink,oil``.

    Raises:
        ValueError: If one is malformed, or column and template are both given.
    """
    column, template = options.column, options.template
    if column is not None and template is not None:
        raise ValueError("--column and --template exclude each other: give one of them")

    def check(model: str | None, aspect_ratio: str | None, image_size: str | None) -> None:
        resolve(
            ImageRequest(
                "any text",
                model=model or options.model,
                aspect_ratio=aspect_ratio or options.aspect_ratio,
                image_size=image_size or options.image_size,
            )
        )

    check(None, None, None)  # before any row is blamed for a mistake in the options
    return Recipe(
        column="prompt" if column is None else canonical(column),
        template=None if template is None else Template.parse(template),
        grid=Grid.parse(matrix),
        check=check,
    )


def read_inputs(names: Sequence[str], recipe: Recipe, options: Options) -> Prompts:
    """Return the prompts of files, all checked, or of standard input, which is not read yet.

    Args:
        names: File names, or ``-`` alone; if empty, the template and the grid make the prompts.
        recipe: How rows become prompts.
        options: Their encoding and selection.

    Raises:
        ValueError: If there is nothing to read, or the input is malformed.
        OSError: If a file cannot be read.
    """
    encoding = options.encoding
    selection = Selection(options.limit, options.sample, options.sample_seed)
    if not names and (recipe.template is None or not recipe.grid.axes):
        raise ValueError("no PROMPTS: name a file, or give --template and --matrix")
    if STDIN not in names:
        return read_prompts(names, recipe, encoding=encoding, selection=selection)
    if len(names) > 1:
        raise ValueError("- must be the only input: standard input and files do not mix")
    if sys.stdin is None:
        raise ValueError("stdin is closed: pipe prompts into it or name a file")
    source = StandardInput(sys.stdin.fileno(), recipe, check_encoding(encoding), selection)
    if source.is_terminal:
        QuietConsole(stderr=True).say("Type one prompt per line; Ctrl-D on an empty line ends.")
    return source


def nothing_in(names: Sequence[str], prompts: Prompts, limit: int | None) -> str | None:
    """Return why there is nothing to do, None if there may be something."""
    if limit == 0:
        return "--limit 0"
    if isinstance(prompts, StandardInput) or len(prompts):
        return None
    return f"no prompts in {plain(', '.join(names))}"


def read_to_end(prompts: Prompts) -> Prompts:
    """Return prompts that can be counted, after reading standard input to its end."""
    if not isinstance(prompts, StandardInput):
        return prompts

    async def all_of() -> list[Prompt]:
        return [prompt async for prompt in prompts]

    return anyio.run(all_of)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run is about to do and cost.

    Attributes:
        line: The plan on one line, for the user.
        row: The same as JSON.
        is_expensive: Whether to ask first.
    """

    line: str
    row: str
    is_expensive: bool


def preview(prompts: Prompts, options: Options) -> Preview:
    """Return what a run will do and cost, without a call; this may read all prompts."""
    pace = options.pace
    if isinstance(prompts, StandardInput):
        return _preview_each(options)
    plan = estimate(
        prompts,
        save_dir=options.output,
        rate=None if pace is None else 1 / parse_interval(pace),
        **options.of_images,
    )
    parts = [f"{plan.prompts:,} prompts", f"{plan.done:,} done", f"{plan.calls:,} to make"]
    parts.append(_models(prompts, options))
    parts.append("price unknown" if plan.cost is None else _both_prices(plan.cost, plan.calls))
    if plan.seconds is not None and pace is not None:
        parts.append(f"about {clock(plan.seconds)} at {pace}")
    by_batch = None if plan.cost is None else JOB_SHARE * plan.cost
    known = {"calls": plan.calls, "batch_cost": by_batch, "model": model_id(options.model)}
    row = json.dumps({**asdict(plan), **known})
    cost = plan.cost if options.via == "live" else by_batch
    return Preview(" · ".join(parts), row, cost is not None and cost > _EXPENSIVE)


def _preview_each(options: Options) -> Preview:
    """Return the price of each prompt, if their number is not known yet."""
    each = price(options.model, options.image_size) if options.price is None else options.price
    parts = ["prompts as they arrive", _name(options)]
    parts.append("price unknown" if each is None else f"about ${each:,.3f} each")
    if options.pace is not None:
        parts.append(f"at {options.pace}")
    return Preview(" · ".join(parts), "", False)


def _both_prices(cost: float, calls: int) -> str:
    """Return the cost of live calls, and of jobs if there is enough to make."""
    about = f"about {_dollars(cost)}"
    return about if calls < _FEW else f"{about}, by batch {_dollars(JOB_SHARE * cost)}"


def _dollars(cost: float) -> str:
    return f"${cost:,.0f}" if cost >= 100 else f"${cost:,.2f}"


def _models(prompts: PromptFiles | Sequence[str | Prompt], options: Options) -> str:
    if isinstance(prompts, PromptFiles):
        own = {model for (model, _, _), count in prompts.asked.items() if model and count}
    else:
        own = {each.model for each in prompts if isinstance(each, Prompt) and each.model}
    is_mixed = own - {options.model, model_id(options.model)}
    return f"{_name(options)} and per-prompt models" if is_mixed else _name(options)


def _name(options: Options) -> str:
    """Return the model and image size of prompts that name none themselves."""
    model = model_id(options.model)
    name = model if model == options.model else f"{options.model} = {model}"
    size = options.image_size or default_size(model)
    return f"{name} {size}" if size else name
