"""The commands that make images: run, demo and redo."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from genbatch import Throttle
from genbatch._store import DEFAULT_TEMPLATE
from genbatch.inputs import Selection

from . import _options as options
from ._checks import kinds_to_retry
from ._console import QuietConsole, plain
from ._demo import DEMO, PROMPTS
from ._gallery import add_gallery
from ._inputs import STDIN, nothing_in, parted, read_inputs, read_to_end, recipe_of
from ._launch import Throttles, Work, client_of, run_demo, run_real
from ._logfile import log_to
from ._plan import foresee
from ._result import Options
from ._run import run_batch
from ._summary import report
from ._takes import parse_indices, run_takes

_NEXT = """
Next: look at the images in {folder}, then make your own:
  1. write your prompts to prompts.txt, one a line
  2. export GEMINI_API_KEY=...
  3. genbatch run prompts.txt"""

_OR_DEMO = ", or try --demo without one"

# Of the demo: not what the environment says of runs.
DemoOutput = Annotated[
    Path, options.option(None, "--output", "-o", metavar="DIR", help="Folder for the images.")
]
DemoMaxConcurrent = Annotated[
    int,
    options.option(None, "--max-concurrent", "-k", min=1, metavar="N", help="Most calls at once."),
]


def run_command(
    context: typer.Context,
    prompts: options.Prompts = None,
    column: options.Column = None,
    template: options.Template = None,
    matrix: options.Matrix = None,
    encoding: options.Encoding = "utf-8",
    limit: options.Limit = None,
    sample: options.Sample = None,
    sample_seed: options.SampleSeed = 0,
    model: options.Model = "flash",
    aspect_ratio: options.AspectRatio = None,
    image_size: options.ImageSize = None,
    output: options.Output = Path("genbatch-out"),
    name: options.Name = DEFAULT_TEMPLATE,
    fresh: options.Fresh = False,
    gallery: options.Gallery = False,
    via: options.Via = "live",
    max_concurrent: options.MaxConcurrent = 20,
    pace: options.Pace = None,
    budget: options.Budget = None,
    max_images: options.MaxImages = None,
    price: options.Price = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    timeout: options.Timeout = 120.0,
    deadline: options.Deadline = None,
    patience: options.Patience = 1800.0,
    redo_missing: options.RedoMissing = False,
    retry_failed: options.RetryFailed = None,
    quiet: options.Quiet = False,
    as_json: options.AsRows = False,
    log_file: options.LogFile = None,
    demo: options.Demo = False,
    base_url: options.BaseUrl = None,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Make an image of every prompt in files.

    The key is read from GEMINI_API_KEY or GOOGLE_API_KEY. Run the same command again to resume:
    images that are there already are not made, or paid for, twice.

    Examples:

    - `genbatch run prompts.txt`
    - `genbatch run prompts.csv -o foxes -k 50 --model pro --aspect-ratio 16:9`
    - `genbatch run prompts.txt --budget 5 --pace 10/min`
    - `genbatch run prompts.txt --dry-run`
    - `genbatch run prompts.txt --via batch`
    - `head prompts.txt | genbatch run - --demo --json`
    - `genbatch run shots.jsonl more.csv --sample 20`
    - `genbatch run names.csv --template "{name}, in {style}" --matrix style=ink,oil`
    - `genbatch run --template "A {animal} in snow" --matrix animal=fox,owl`
    """
    if demo and base_url:
        raise typer.BadParameter("--demo brings its own server; leave out --base-url")
    asked = Options(
        output,
        max_concurrent,
        model,
        aspect_ratio,
        image_size,
        namespace=DEMO if demo else "",
        budget=budget,
        max_images=max_images,
        price=price,
        deadline=deadline,
        fresh=fresh,
        name=name,
        redo_missing=redo_missing,
        retry_failed=kinds_to_retry(retry_failed),
        quiet=quiet,
        as_json=as_json,
        via=via,
    )
    talk = QuietConsole(stderr=as_json)
    names, axes = parted(prompts or [], matrix or [])
    recipe = recipe_of(asked, column, template, axes)
    batch = read_inputs(names, recipe, encoding, Selection(limit, sample, sample_seed))
    if why := nothing_in(names, batch, limit):
        talk.say(f"Nothing to do: {why}.")
        return 0
    plan = foresee(read_to_end(batch) if dry_run else batch, asked, pace)
    if dry_run:
        if as_json:
            QuietConsole().data(plan.row)
        else:
            QuietConsole().say(plan.line)
        return 0
    work = partial(run_batch, batch)
    throttle = partial(_throttle, pace, patience)
    with log_to(log_file, everything=context.obj.debug):
        if demo:
            code = _run_demo(work, asked, 0.25, backend, throttle)
        else:
            client = client_of(base_url, timeout, throttle, _OR_DEMO)
            asks = plan.is_expensive and budget is None and not yes and _is_somebody_there(names)
            if asks or not quiet:
                QuietConsole(stderr=True).say(plan.line)
            if asks and not typer.confirm("Go on?", err=True):
                talk.say("Nothing was made.")
                return 0
            code = report(run_real(client, work, asked, backend), asked)
    if gallery:
        add_gallery(output)
    return code


def demo_command(
    output: DemoOutput = Path("genbatch-demo"),
    max_concurrent: DemoMaxConcurrent = 5,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Make 20 images with a built-in fake service: no key, no cost.

    The images are placeholders; all else is real, the calls over HTTP included.

    Examples:

    - `genbatch demo`
    - `genbatch demo -k 20 -o /tmp/demo`
    """
    asked = Options(output, max_concurrent)
    code = _run_demo(partial(run_batch, PROMPTS), asked, 0.5, backend)
    if code == 0:
        QuietConsole().say(_NEXT.format(folder=plain(output)))
    return code


def redo_command(
    context: typer.Context,
    folder: options.Folder,
    prompts: options.Indices,
    prompt: options.NewPrompt = None,
    model: options.NewModel = None,
    aspect_ratio: options.NewAspectRatio = None,
    image_size: options.NewImageSize = None,
    seed: options.Seed = None,
    gallery: options.Gallery = False,
    max_concurrent: options.MaxConcurrent = 20,
    pace: options.Pace = None,
    budget: options.Budget = None,
    max_images: options.MaxImages = None,
    price: options.Price = None,
    timeout: options.Timeout = 120.0,
    deadline: options.Deadline = None,
    patience: options.Patience = 1800.0,
    quiet: options.Quiet = False,
    as_json: options.AsRows = False,
    log_file: options.LogFile = None,
    demo: options.OfDemo = False,
    base_url: options.BaseUrl = None,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Make another take of prompts; pick chooses between takes.

    What is not given is asked for as before.

    Examples:

    - `genbatch redo out 17 42-45`
    - `genbatch redo out 17 --prompt "a corgi, seen from above" --model pro`
    """
    asked = Options(
        folder,
        max_concurrent,
        budget=budget,
        max_images=max_images,
        price=price,
        deadline=deadline,
        quiet=quiet,
        as_json=as_json,
    )
    changes = {
        "text": prompt,
        "model": model,
        "aspect_ratio": aspect_ratio,
        "image_size": image_size,
        "seed": seed,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    work = partial(run_takes, parse_indices(prompts), given)
    throttle = partial(_throttle, pace, patience)
    with log_to(log_file, everything=context.obj.debug):
        if demo:
            code = _run_demo(work, asked, 0.25, backend, throttle)
        else:
            client = client_of(base_url, timeout, throttle, _OR_DEMO)
            code = report(run_real(client, work, asked, backend), asked)
    if gallery:
        add_gallery(folder)
    return code


def _run_demo(
    work: Work, asked: Options, latency: float, backend: str, throttle: Throttles | None = None
) -> int:
    result, server = run_demo(work, asked, latency, backend, throttle)
    return report(result, asked, server)


def _throttle(pace: str | None, patience: float, model: str) -> Throttle:
    return Throttle(pace=pace, patience=patience)


def _is_somebody_there(names: Sequence[str]) -> bool:
    """Return whether somebody can be asked."""
    return STDIN not in names and sys.stdin is not None and sys.stdin.isatty()
