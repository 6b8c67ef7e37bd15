"""The commands that make images: run, demo and redo, with what they read.

Prompts come from files, from a template and a grid, or from standard input.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from genbatch import ImageRequest, Prompt, Rejected, inputs
from genbatch._bucket import bucket_path, local_folder

from ._config_file import set_by_files
from ._console import QuietConsole, can_ask, plain
from ._fetch import FetchedImages
from ._folder import add_gallery
from ._logfile import log_to
from ._look import show, wants_the_rest
from ._options import (
    IMAGES,
    FolderOrFirst,
    Options,
    as_ratio,
    as_size,
    command,
    default_folder,
    option,
    parse_config,
    refuse_bucket,
)
from ._preview import FEW_IMAGES, Preview, preview, preview_takes
from ._questions import Read, settle
from ._result import Result, report
from ._run import (
    NoKey,
    Prompts,
    Work,
    check_folder,
    client_for,
    make_images,
    run,
    run_batch,
)
from ._services import Clients, Services, meanings, models_in, moved_models
from ._takes import TakesWanted, indices_of, make_more_takes
from ._understood import understood
from ._words import as_typed

STDIN = "-"
_LATENCY = 0.25  # seconds per call under --demo
_SLOWER = 0.5  # the same for the demo command, slow enough to watch the bar

_NEXT = """
Next: look at the images in {folder}, then make your own:
  1. write your prompts to prompts.txt, one per line
  2. export GEMINI_API_KEY=...
  3. genbatch run prompts.txt"""

_NUMBERS = re.compile(r"\d+(-\d+)?")
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
    list[str] | None,
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

    The API key is read from GEMINI_API_KEY or GOOGLE_API_KEY, that of OpenAI's models from
    OPENAI_API_KEY. Run the same command again to resume: images that already exist are neither
    regenerated nor paid for again.

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
    options, clients = clients_of(in_bucket(options), _is_given("model", context))
    services = clients.services
    names, axes = parted(prompts or [], options.matrix or [])
    if options.look and STDIN in names:
        raise ValueError("--look needs files: standard input is read only once")
    if options.shard and STDIN in names:
        raise ValueError("--shard needs files: standard input is read only once")
    messages = QuietConsole(stderr=options.as_json)

    moved = moved_models(options.output, services)
    options = replace(options, model=moved.get(options.model, options.model))
    read, is_asked = _reader(names, axes, services, moved), can_ask() and STDIN not in names
    if (settled := settle(read, options, names, can_ask=is_asked)) is None:
        messages.say("Nothing was made.")
        return 0
    batch, options, doubts = settled
    if options.shard and not isinstance(batch, inputs.StandardInput):
        whole, batch = batch, inputs.Shard.parse(options.shard).of(batch)
        note = f"Shard {options.shard}: {len(batch):,} of {len(whole):,} prompts"
        doubts.notes[note] = None
        names = [*names, f"shard {options.shard}"]
    doubts.notes.update(dict.fromkeys(set_by_files(context)))
    if why := nothing_in(names, batch, options.limit):
        messages.say(f"Nothing to do: {why}.")
        return 0
    models = {model or options.model for model in models_in(batch)} or {options.model}
    if options.via != "live" and not clients.are_only_gemini(models):
        raise ValueError(f"--via {options.via}: only Gemini's models have batch jobs")
    if options.dry_run:
        return _show_plan(_announced(read_to_end(batch), options, services, doubts), options)
    plan = partial(_announced, batch, options, services, doubts)
    work = partial(make_images, batch, models=meanings(models, services))
    paid = _Paid(work, models, plan)
    return _make(paid, options, clients, context.obj.debug, is_asked=STDIN not in names)


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
    code = report(run_batch(partial(make_images, prompts), of_demo, None, _SLOWER), of_demo)
    if code == 0:
        QuietConsole().say(_NEXT.format(folder=plain(output)))
    return code


@command(
    *("service", "thinking", "system", "image", "config", "variants"),
    *("gallery", "max_concurrent", "pace", "budget", "max_images", "price", "prices", "timeout"),
    *("dry_run", "yes", "look", "no_look"),
    *("deadline", "patience", "quiet", "as_json", "log_file", "demo", "base_url", "backend"),
)
def redo_command(
    *,
    context: typer.Context,
    first: FolderOrFirst,
    prompts: Indices = None,
    prompt: NewPrompt = None,
    model: NewModel = None,
    aspect_ratio: NewAspectRatio = None,
    image_size: NewImageSize = None,
    seed: Seed = None,
    options: Options,
) -> int:
    """Generate another take of the given prompts; choose between takes with pick.

    Prompts are named by number, id or file. Settings that are not given here are those of the
    first take. The take that is shown now stays the one that is shown.

    Examples:

    - `genbatch redo out 17 42-45`
    - `genbatch redo 17`
    - `genbatch redo out 0017-a-fox-3f2a10.png --variants 3`
    - `genbatch redo out 0-399 --image-size 4K --dry-run`
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
    folder, names = _folder_and_names(first, prompts or [])
    refuse_bucket(folder, "redo")
    options = replace(options, output=folder, image_size=image_size)
    options, clients = clients_of(options, has_model=True)
    check_folder(folder, options.namespace)
    if model is not None:
        changes["model"] = moved_models(folder, clients.services).get(model, model)
    wanted = TakesWanted(
        folder,
        indices_of(names, folder, options.namespace),
        {name: value for name, value in changes.items() if value is not None},
        options.variants,
        options.namespace,
    )
    requests = [take.request for take in wanted.plan(clients.services)]
    plan = partial(preview_takes, requests, options, clients.services)
    if options.dry_run:
        return _show_plan(plan(), options)
    models = {f"{request.service}/{request.model}" for request in requests}
    paid = _Paid(partial(make_more_takes, wanted), models, plan)
    return _make(paid, options, clients, context.obj.debug)


def in_bucket(options: Options) -> Options:
    """Return options whose output is a URL where it names a bucket.

    Raises:
        ValueError: If one of them needs a folder on this machine.
    """
    if (bucket := bucket_path(options.output)) is None:
        return options
    given = {
        f"--via {options.via}: jobs are kept in a local journal": options.via != "live",
        "--fresh": options.fresh,
        "--redo-missing": options.redo_missing,
        "--look": options.look is not None,
        "--gallery": options.gallery,
    }
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"-o {bucket} is a bucket: leave out {names[0]}")
    return replace(options, output=bucket, no_look=True)


def _folder_and_names(first: str, names: list[str]) -> tuple[Path, list[str]]:
    """Return the folder of redo, and its prompts: without a folder, first is one of them."""
    if Path(first).is_dir() or (names and not _NUMBERS.fullmatch(first)):
        if not names:
            raise ValueError(f"which prompts of {first}? Name them: genbatch redo {first} 17 42-45")
        return Path(first), names
    return default_folder(), [first, *names]


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
    if options.base_url is not None and not options.base_url.strip():  # $VARIABLE, not set
        raise typer.BadParameter("--base-url is blank: leave it out for the service's own server")
    if options.demo and options.base_url:
        raise typer.BadParameter("--demo has its own server: leave out --base-url")
    if options.look and (options.no_look or options.via != "live"):
        other = "--no-look" if options.no_look else f"--via {options.via}"
        raise typer.BadParameter(f"--look and {other} exclude each other: give one of them")
    clients = Clients(
        options.service or (),
        options.base_url,
        partial(run, backend=options.backend),
        is_demo=options.demo,
    )
    if options.service and not has_model:
        options = replace(options, model=clients.services.default_model)
    return options, clients


@dataclass(frozen=True, slots=True)
class _Paid:
    """What a command is about to pay for.

    Attributes:
        work: Makes it.
        models: Those that it calls, as far as is known.
        plan: Returns what it will do and cost; this may read all prompts.
    """

    work: Work
    models: set[str]
    plan: Callable[[], Preview]


def _make(
    paid: _Paid, options: Options, clients: Clients, debug: bool, *, is_asked: bool = True
) -> int:
    """Make images with the fake or the real services, unless the user declines the cost.

    Args:
        paid: What to make.
        options: The options of the command.
        clients: Of the services.
        debug: Whether to log everything.
        is_asked: Whether a question may be put to the user, who else types prompts.
    """
    with log_to(options.log_file, everything=debug) if options.log_file else nullcontext():
        client, looks = None, options.look is not None
        if not options.demo:
            try:
                client, plan = client_for(options, clients, paid.models), paid.plan()
            except NoKey:  # none is needed to show what is all there
                plan = paid.plan()
                if plan.calls != 0 or "in_jobs" in json.loads(plan.row or "{}"):
                    raise
                client = client_for(options, clients, paid.models, "none")
            if not _is_confirmed(plan, options, is_asked=is_asked):
                QuietConsole(stderr=options.as_json).say("Nothing was made.")
                return 0
            is_many = plan.calls is None or plan.calls > FEW_IMAGES
            looks = looks or (is_many and options.via == "live" and not options.no_look)
        result = run_batch(paid.work, options, client, _LATENCY, looks=looks)
        code = report(result, options)
        if options.look is not None:
            code = _after_look(result, code, paid, options, clients)
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
    lines = (*plan.lines, *understood(prompts, options, services, doubts, plan.calls))
    return replace(plan, lines=lines, row=json.dumps(row))


def _after_look(result: Result, code: int, paid: _Paid, options: Options, clients: Clients) -> int:
    """Show what was made, and make the rest if the user wants it; return the exit code."""
    show(result.paths)
    if not result.has_looked:
        return code
    if not wants_the_rest(result.not_made, options):
        return code if can_ask() else 3
    options = replace(options, look=None)
    client = None if options.demo else client_for(options, clients, paid.models)
    return report(run_batch(paid.work, options, client, _LATENCY, looks=True), options)


def _is_confirmed(plan: Preview, options: Options, *, is_asked: bool) -> bool:
    """Show what a command will cost, and ask before an expensive one.

    Raises:
        ValueError: If it is expensive, and nobody can answer.
    """
    asks = _asks(plan, options)
    for line in filter(None, plan.lines if asks or not options.quiet else ()):
        QuietConsole(stderr=True).say(line)
    if asks and not (is_asked and can_ask()):
        raise ValueError(
            f"{plan.price}, and nobody can be asked: add --yes to pay it, or a --budget"
        )
    return not asks or typer.confirm("Continue?", err=True)


def _asks(plan: Preview, options: Options) -> bool:
    return plan.is_expensive and options.budget is None and not options.yes


def _show_plan(plan: Preview, options: Options) -> int:
    """Print what a command would do; return the exit code."""
    out = QuietConsole()
    if options.as_json:
        out.data(json.dumps(json.loads(plan.row) | {"asks": _asks(plan, options)}))
        return 0
    for line in filter(None, (plan.lines[0], plan.reserved, *plan.lines[1:])):
        out.say(line)
    return 0


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

    check = _checker(options, services)
    # Before any row is blamed for a mistake in the options.
    _, parsed, grid, settings, *_ = _together(
        lambda: check(None, None, None, options.seed),
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


def _checker(options: Options, services: Services) -> Callable[..., None]:
    """Return what refuses settings and input images of a row that its model does not take."""
    defaults = ImageRequest("any text", **options.settings)

    def check(
        model: str | None,
        aspect_ratio: str | None,
        image_size: str | None,
        seed: int | None = None,
        images: tuple[bytes | str | Path, ...] = (),
    ) -> None:
        prompt = Prompt(
            "any text",
            model=model,
            aspect_ratio=aspect_ratio,
            image_size=image_size,
            seed=seed,
            images=images,
        )
        try:
            services.resolve(defaults.with_prompt(prompt), prompt)
        except Rejected:
            if model is None:
                raise  # that of a row is the row's own failure

    return check


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
            is_named = isinstance(error, inputs.InputError)
            mistakes.append(str(error) if is_named else as_typed(str(error)))
    if mistakes:
        raise inputs.InputError("; and ".join(mistakes))
    return done


def _reader(
    names: Sequence[str], axes: Sequence[str], services: Services, models: Mapping[str, str]
) -> Read:
    """Return what reads inputs, with models named so, and fetches the images that they name."""

    def read(
        options: Options, mended: Mapping[str, Collection[str]], doubts: inputs.Doubts
    ) -> Prompts:
        remote = FetchedImages(local_folder(options.output))
        recipe = recipe_of(options, axes, services, remote)
        reading = replace(options.reading, answers=mended)
        recipe = replace(recipe, reading=reading, models=models)
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
