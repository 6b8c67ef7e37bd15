"""The commands that make images: run, demo and redo, with what they read and a preview of a run.

Prompts come from files, from a template and a grid, or from standard input.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from genbatch import ImageRequest, Prompt, Rejected, estimate, inputs
from genbatch._store import export
from genbatch._throttle import parse_interval
from genbatch.gemini import default_size, job_share

from ._console import QuietConsole, clock, plain
from ._fetch import FetchedImages
from ._folder import add_gallery
from ._logfile import log_to
from ._options import IMAGES, Folder, Options, as_ratio, as_size, command, option, parse_config
from ._questions import Read, can_ask, settle
from ._run import (
    Prompts,
    Work,
    client_for,
    make_images,
    make_more_takes,
    parse_indices,
    run_batch,
)
from ._services import Clients, Services
from ._understood import understood

_EXPENSIVE = 10.0  # US dollars above which to ask first
_FEW = 10  # images that are not worth waiting for a job
_MANY = 20_000  # prompts: so many are not read again for the length of each
_MEGABYTES = {"2K": 6, "4K": 20}  # of an image, roughly; others are of 1K
_OF_1K = 2

STDIN = "-"
_LATENCY = 0.25  # seconds per call under --demo
_SLOWER = 0.5  # the same for the demo command, slow enough to watch the bar

_NEXT = """
Next: look at the images in {folder}, then make your own:
  1. write your prompts to prompts.txt, one per line
  2. export GEMINI_API_KEY=...
  3. genbatch run prompts.txt"""

_PROMPTS = Path(__file__).with_name("demo.txt")

PromptArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPTS",
        help="Prompt files: .txt with one prompt per line; .jsonl, .json, .csv, .tsv, .xlsx, "
        ".parquet or .arrow with a field named prompt; .md with lists; a directory of .txt files. "
        "Use - for standard input.",
        show_default=False,
    ),
]
Indices = Annotated[
    list[str],
    typer.Argument(
        metavar="PROMPT", help="Prompt numbers shown by export: 17 42-45.", show_default=False
    ),
]
# For a new take, which repeats the settings of the first one whatever the environment says.
NewPrompt = Annotated[str | None, option(IMAGES, "Use a different prompt text.", "TEXT")]
NewModel = Annotated[str | None, option(IMAGES, "Use a different model.", "MODEL")]
NewAspectRatio = Annotated[
    str | None, option(IMAGES, "Use a different aspect ratio.", "W:H", callback=as_ratio)
]
NewImageSize = Annotated[
    str | None, option(IMAGES, "Use a different image size.", "SIZE", callback=as_size)
]
Seed = Annotated[int | None, option(IMAGES, "Use a different random seed.", "N")]
# For the demo, which ignores the environment as well.
DemoOutput = Annotated[Path, option(None, "Folder for the images.", "DIR", "--output", "-o")]
DemoMaxConcurrent = Annotated[
    int, option(None, "At most N calls in flight.", "N", "--max-concurrent", "-k", min=1)
]


# The commands


@command()
def run_command(context: typer.Context, options: Options, prompts: PromptArguments = None) -> int:
    """Generate an image for every prompt in the given files.

    The API key is read from GEMINI_API_KEY or GOOGLE_API_KEY. Run the same command again to
    resume: images that already exist are neither regenerated nor paid for again.

    Examples:

    - `genbatch run prompts.txt`
    - `genbatch run prompts.csv -o foxes -k 50 --model pro --aspect-ratio 16:9`
    - `genbatch run prompts.txt --budget 5 --pace 10/min`
    - `genbatch run prompts.txt --dry-run`
    - `genbatch run prompts.txt --via batch`
    - `genbatch run prompts.txt -n 4 --seed 7 --image style.png --system "Draw in ink."`
    - `head prompts.txt | genbatch run - --demo --json`
    - `genbatch run shots.jsonl more.csv --sample 20`
    - `genbatch run names.csv --template "{name}, in {style}" --matrix style=ink,oil`
    - `genbatch run --template "A {animal} in snow" --matrix animal=fox,owl`
    """
    if options.demo and options.base_url:
        raise typer.BadParameter("--demo has its own server: leave out --base-url")
    options, clients = clients_of(options, _is_given("model", context))
    services = clients.services
    names, axes = parted(prompts or [], options.matrix or [])
    messages = QuietConsole(stderr=options.as_json)

    read, is_asked = _reader(names, axes, services), can_ask() and STDIN not in names
    if (settled := settle(read, options, names, can_ask=is_asked)) is None:
        messages.say("Nothing was made.")
        return 0
    batch, options, doubts = settled
    if why := nothing_in(names, batch, options.limit):
        messages.say(f"Nothing to do: {why}.")
        return 0
    if options.dry_run:
        return _show_plan(_announced(read_to_end(batch), options, services, doubts), options)

    def is_wanted() -> bool:
        plan = _announced(batch, options, services, doubts)
        if _is_confirmed(plan, options, can_ask=STDIN not in names):
            return True
        messages.say("Nothing was made.")
        return False

    models = {model or options.model for model in _models_in(batch)} or {options.model}
    work = partial(make_images, batch)
    return _make(work, options, clients, models, context.obj.debug, is_wanted)


@command("backend")
def demo_command(
    *,
    output: DemoOutput = Path("genbatch-demo"),
    max_concurrent: DemoMaxConcurrent = 5,
    options: Options,
) -> int:
    """Generate 20 images with a built-in fake service: no key, no cost.

    The images are placeholders; everything else, including the HTTP calls, is real.

    Examples:

    - `genbatch demo`
    - `genbatch demo -k 20 -o /tmp/demo`
    """
    of_demo = Options(output=output, max_concurrent=max_concurrent, backend=options.backend)
    prompts = _PROMPTS.read_text(encoding="utf-8").splitlines()
    code = run_batch(partial(make_images, prompts), of_demo, None, _SLOWER)
    if code == 0:
        QuietConsole().say(_NEXT.format(folder=plain(output)))
    return code


@command(
    *("service", "thinking", "system", "image", "config"),
    *("gallery", "max_concurrent", "pace", "budget", "max_images", "price", "prices", "timeout"),
    *("deadline", "patience", "quiet", "as_json", "log_file", "demo", "base_url", "backend"),
)
def redo_command(
    *,
    context: typer.Context,
    folder: Folder,
    prompts: Indices,
    prompt: NewPrompt = None,
    model: NewModel = None,
    aspect_ratio: NewAspectRatio = None,
    image_size: NewImageSize = None,
    seed: Seed = None,
    options: Options,
) -> int:
    """Generate another take of the given prompts; choose between takes with pick.

    Settings that are not given here are those of the first take.

    Examples:

    - `genbatch redo out 17 42-45`
    - `genbatch redo out 17 --prompt "a corgi, seen from above" --model pro`
    """
    changes = {
        "text": prompt,
        "model": model,
        "aspect_ratio": aspect_ratio,
        "image_size": image_size,
        "seed": seed,
        "thinking": options.thinking,
        "system_instruction": options.system,
        "images": options.of_rows(None).get("images"),
        "generation_config": parse_config(options.config or ()),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    indices = parse_indices(prompts)
    options, clients = clients_of(replace(options, output=folder), has_model=True)
    models = {model} if model else _models_of(folder, indices, options.namespace)
    work = partial(make_more_takes, indices, given)
    return _make(work, options, clients, models, context.obj.debug)


def _is_given(name: str, context: typer.Context) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def clients_of(options: Options, has_model: bool) -> tuple[Options, Clients]:
    """Return the clients that options name, and the options, with the model of the first of them.

    Args:
        options: Of a run.
        has_model: Whether the user has named a model.
    """
    if options.service and options.demo:
        raise typer.BadParameter("--demo has its own service: leave out --service")
    clients = Clients(options.service or ())
    if options.service and not has_model:
        options = replace(options, model=clients.services.default_model)
    return options, clients


def _models_in(prompts: Prompts) -> set[str | None]:
    """Return the models that prompts name, None among them where one names none."""
    if isinstance(prompts, inputs.PromptFiles):
        return {model for (model, _, _), count in prompts.asked.items() if count}
    return {None}


def _models_of(folder: Path, indices: Sequence[int], namespace: str) -> set[str]:
    """Return the models that made prompts of a folder."""
    wanted = set(indices)
    rows = (row for row in export(folder) if row["namespace"] == namespace)
    return {row["model"] for row in rows if row["index"] in wanted and row["model"]}


def _make(
    work: Work,
    options: Options,
    clients: Clients,
    models: set[str],
    debug: bool,
    is_wanted: Callable[[], bool] = lambda: True,
) -> int:
    """Make images with the fake or the real services, unless the user declines the cost."""
    with log_to(options.log_file, everything=debug) if options.log_file else nullcontext():
        client = None if options.demo else client_for(options, clients, models)
        if client is not None and not is_wanted():
            return 0
        code = run_batch(work, options, client, _LATENCY)
    if options.gallery:
        add_gallery(options.output)
    return code


def _announced(
    prompts: Prompts, options: Options, services: Services, doubts: inputs.Doubts
) -> Preview:
    """Return what a run will do and cost, and what was understood of its inputs."""
    plan = preview(prompts, options, services)
    row = json.loads(plan.row or "{}")
    if any(doubts):
        row["doubts"] = [asdict(each) for each in doubts]
    details = tuple(understood(prompts, options, services, doubts))
    return replace(plan, details=details, row=json.dumps(row))


def _show_plan(plan: Preview, options: Options) -> int:
    """Print what a command would do; return the exit code."""
    out = QuietConsole()
    if options.as_json:
        out.data(plan.row)
        return 0
    for line in filter(None, (plan.line, plan.reserved, plan.space, *plan.details)):
        out.say(line)
    return 0


def _is_confirmed(plan: Preview, options: Options, *, can_ask: bool) -> bool:
    """Show what a run will cost, and ask before an expensive one if someone can answer."""
    can_ask = can_ask and sys.stdin is not None and sys.stdin.isatty()
    asks = plan.is_expensive and options.budget is None and not options.yes and can_ask
    told = (plan.line, plan.space, *plan.details) if asks or not options.quiet else ()
    for line in filter(None, told):
        QuietConsole(stderr=True).say(line)
    return not asks or typer.confirm("Continue?", err=True)


# What a run reads


def parted(names: Sequence[str], matrix: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the names of files from the axes: ``--matrix a=1,2 b=3`` has two axes.

    Args:
        names: The arguments.
        matrix: The value of each ``--matrix``.
    """
    is_axis = re.compile(r"\w+=").match
    axes = [name for name in names if matrix and is_axis(name) and not Path(name).exists()]
    return [name for name in names if name not in axes], [*matrix, *axes]


def recipe_of(
    options: Options, matrix: Sequence[str], services: Services, remote: FetchedImages
) -> inputs.Recipe:
    """Return how rows become prompts.

    Args:
        options: The options of the run; the settings of its images are checked.
        matrix: Axes of a grid, such as ``style=ink,oil``.
        services: Those of the run.
        remote: Fetches input images.

    Raises:
        ValueError: If one is malformed, or column and template are both given.
        Rejected: If the model of the options is known to have been shut down.
    """
    column, template = options.column, options.template
    if column is not None and template is not None:
        raise ValueError("--column and --template exclude each other: give one of them")

    defaults = ImageRequest("any text", **options.settings)

    def check(model: str | None, aspect_ratio: str | None, image_size: str | None) -> None:
        prompt = Prompt("any text", model=model, aspect_ratio=aspect_ratio, image_size=image_size)
        try:
            services.resolve(defaults.with_prompt(prompt), prompt)
        except Rejected:
            if model is None:
                raise  # that of a row is the row's own failure

    # Before any row is blamed for a mistake in the options.
    _, parsed, grid, settings, *_ = _together(
        lambda: check(None, None, None),
        lambda: None if template is None else inputs.Template.parse(template),
        lambda: inputs.Grid.parse(matrix),
        lambda: options.of_rows(remote),
        lambda: options.reading,
        lambda: inputs.check_encoding(options.encoding),
    )
    return inputs.Recipe(
        column="prompt" if column is None else inputs.canonical(column),
        template=parsed,
        grid=grid,
        check=check,
        settings=settings,
        remote=remote,
        expand=options.expand_seed if options.expand else None,
    )


def _together(*steps: Callable[[], Any]) -> list[Any]:
    """Return what the steps return.

    Raises:
        ValueError: With what is wrong in all of them.
    """
    done, mistakes = [], []
    for step in steps:
        try:
            done.append(step())
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("; and ".join(mistakes))
    return done


def _reader(names: Sequence[str], axes: Sequence[str], services: Services) -> Read:
    """Return what reads inputs, and fetches the images that they name."""

    def read(
        options: Options, mended: Mapping[str, Collection[str]], doubts: inputs.Doubts
    ) -> Prompts:
        remote = FetchedImages(options.output)
        recipe = recipe_of(options, axes, services, remote)
        recipe = replace(recipe, reading=replace(options.reading, answers=mended))
        prompts = read_inputs(names, recipe, options, doubts)
        if remote.fetch_all(options.backend):  # what failed is an error of the rows that name it
            return read_inputs(names, recipe, options, inputs.Doubts())
        return prompts

    return read


def read_inputs(
    names: Sequence[str], recipe: inputs.Recipe, options: Options, doubts: inputs.Doubts
) -> Prompts:
    """Return the prompts of files, all checked, or of standard input, which is not read yet.

    Args:
        names: File names, or ``-`` alone; if empty, the template and the grid make the prompts.
        recipe: How rows become prompts.
        options: Their layout, encoding and selection.
        doubts: As for inputs.read_prompts.

    Raises:
        ValueError: If there is nothing to read, or the input is malformed.
        OSError: If a file cannot be read.
    """
    encoding = options.encoding
    selection = inputs.Selection(options.limit, options.sample, options.sample_seed)
    if not names and (recipe.template is None or not recipe.grid.axes):
        raise ValueError("no PROMPTS: name a file, or give --template and --matrix")
    layout = options.layout

    def note(line: str) -> None:
        if not options.quiet:
            QuietConsole(stderr=True).say(plain(line))

    if STDIN not in names:
        return inputs.read_prompts(
            names,
            recipe,
            encoding=encoding,
            layout=layout,
            selection=selection,
            note=note,
            doubts=doubts,
        )
    if len(names) > 1:
        raise ValueError("- must be the only input: standard input and files do not mix")
    if sys.stdin is None:
        raise ValueError("stdin is closed: pipe prompts into it or name a file")
    source = inputs.StandardInput(
        sys.stdin.fileno(),
        recipe,
        inputs.check_encoding(encoding),
        selection,
        layout,
        note,
        doubts,
    )
    if source.is_terminal:
        QuietConsole(stderr=True).say("Type one prompt per line; Ctrl-D on an empty line ends.")
    return source


def nothing_in(names: Sequence[str], prompts: Prompts, limit: int | None) -> str | None:
    """Return why there is nothing to do, None if there may be something."""
    if limit == 0:
        return "--limit 0"
    if isinstance(prompts, inputs.StandardInput) or len(prompts):
        return None
    return f"no prompts in {plain(', '.join(names))}"


def read_to_end(prompts: Prompts) -> Prompts:
    """Return prompts that can be counted, after reading standard input to its end."""
    if not isinstance(prompts, inputs.StandardInput):
        return prompts

    async def all_of() -> list[Prompt]:
        return [prompt async for prompt in prompts]

    return anyio.run(all_of)


# What it will do and cost


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run is about to do and cost.

    Attributes:
        line: The plan on one line, for the user.
        reserved: What a budget must have room for, and what that is made of, for the user.
        space: A warning if the disk may be too small for the images, else empty.
        row: Both as JSON.
        is_expensive: Whether to ask first.
        details: What was understood, on a line each.
    """

    line: str
    reserved: str
    space: str
    row: str
    is_expensive: bool
    details: tuple[str, ...] = ()


def preview(prompts: Prompts, options: Options, services: Services) -> Preview:
    """Return what a run will do and cost, without a call; this may read all prompts."""
    pace = options.pace
    if isinstance(prompts, inputs.StandardInput):
        return _preview_each(options, services)
    plan = estimate(
        prompts,
        client=services,
        save_dir=options.output,
        rate=None if pace is None else 1 / parse_interval(pace),
        reserve=options.dry_run or len(prompts) <= _MANY,
        **options.of_images,
    )
    parts = [f"{plan.prompts:,} prompts", f"{plan.done:,} done", f"{plan.calls:,} to make"]
    parts.append(_models(prompts, options, services))
    model = _defaults(options, services).model
    in_jobs = job_share(model)
    by_batch = None if plan.cost is None else in_jobs * plan.cost
    parts.append("price unknown" if plan.cost is None else _prices(plan.cost, by_batch, plan.calls))
    if plan.seconds is not None and pace is not None:
        parts.append(f"about {clock(plan.seconds)} at {pace}")
    share = 1 if options.via == "live" else in_jobs
    most = None if plan.reserved is None or not options.dry_run else share * plan.reserved
    known = {"calls": plan.calls, "batch_cost": by_batch, "model": model, "reserved": most}
    row = json.dumps({**asdict(plan), **known})
    cost = plan.cost if options.via == "live" else by_batch
    is_expensive = cost is not None and cost > _EXPENSIVE
    space = _space(plan.calls, options)
    return Preview(" · ".join(parts), _reserved(most, options), space, row, is_expensive)


def _space(calls: int, options: Options) -> str:
    """Return a warning if the images of calls may not fit on the disk, else an empty text."""
    expected = 1e6 * calls * _MEGABYTES.get(options.image_size or "", _OF_1K)
    folder = options.output.absolute()
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    if expected <= free:
        return ""
    sizes = f"about {expected / 1e6:,.0f} MB of images, {free / 1e6:,.0f} MB free"
    return f"Warning: the disk of {plain(options.output)} may be too small: {sizes}."


def _reserved(most: float | None, options: Options) -> str:
    """Return what is reserved for all calls, empty where that is unknown."""
    if not most:
        return ""
    if options.price is not None:
        return f"reserved: {_dollars(most)}, at the price given"
    what = "each prompt by its length, its input images, the longest thoughts and one image"
    return f"reserved: at most {_dollars(most)}, for {what}"


def _preview_each(options: Options, services: Services) -> Preview:
    """Return the price per prompt, for prompts whose number is not known yet."""
    each = options.price
    if each is None:
        each = services.expected_price(_defaults(options, services))
    parts = ["prompts as they arrive", _name(options, services)]
    parts.append("price unknown" if each is None else f"about ${each:,.3f} each")
    if options.pace is not None:
        parts.append(f"at {options.pace}")
    return Preview(" · ".join(parts), "", "", "", False)


def _prices(cost: float, by_batch: float | None, calls: int) -> str:
    """Return the cost of live calls, and of jobs if there is enough to make."""
    about = f"about {_dollars(cost)}"
    return about if calls < _FEW or by_batch is None else f"{about}, by batch {_dollars(by_batch)}"


def _dollars(cost: float) -> str:
    return f"${cost:,.0f}" if cost >= 100 else f"${cost:,.2f}"


def _models(
    prompts: inputs.PromptFiles | Sequence[str | Prompt], options: Options, services: Services
) -> str:
    if isinstance(prompts, inputs.PromptFiles):
        own = _models_in(prompts)
    else:
        own = {each.model for each in prompts if isinstance(each, Prompt)}
    is_mixed = own - {None, options.model, _defaults(options, services).model}
    name = _name(options, services)
    return f"{name} and per-prompt models" if is_mixed else name


def _defaults(options: Options, services: Services) -> ImageRequest:
    """Return the request of prompts that name no settings of their own."""
    return services.resolve(ImageRequest("any text", **options.settings))


def _name(options: Options, services: Services) -> str:
    """Return the model and image size of prompts that do not name their own."""
    model = _defaults(options, services).model
    name = model if model == options.model else f"{options.model} = {model}"
    size = options.image_size or default_size(model)
    return f"{name} {size}" if size else name
