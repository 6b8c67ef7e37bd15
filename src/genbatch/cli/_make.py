"""The commands that make images: run, demo and redo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ._console import QuietConsole, plain
from ._folder import add_gallery
from ._inputs import (
    STDIN,
    Prompts,
    nothing_in,
    parted,
    preview,
    read_inputs,
    read_to_end,
    recipe_of,
)
from ._logfile import log_to
from ._options import IMAGES, Folder, Options, command, option
from ._run import Work, client_for, make_images, make_more_takes, parse_indices, run_batch

_LATENCY = 0.25  # seconds of a call under --demo
_SLOWER = 0.5  # of the demo, for its bar to be seen

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
        help="Prompt files: .txt with one prompt per line; .jsonl, .csv or .tsv with a field named "
        "prompt. Use - for standard input.",
        show_default=False,
    ),
]
Indices = Annotated[
    list[str],
    typer.Argument(
        metavar="PROMPT", help="Prompt numbers shown by export: 17 42-45.", show_default=False
    ),
]
# Of a new take: it is made like the first one, whatever the environment sets for runs.
NewPrompt = Annotated[str | None, option(IMAGES, "Use a different prompt text.", "TEXT")]
NewModel = Annotated[str | None, option(IMAGES, "Use a different model.", "MODEL")]
NewAspectRatio = Annotated[str | None, option(IMAGES, "Use a different aspect ratio.", "W:H")]
NewImageSize = Annotated[str | None, option(IMAGES, "Use a different image size.", "SIZE")]
Seed = Annotated[int | None, option(IMAGES, "Use a different random seed.", "N")]
# Of the demo, which the environment does not change either.
DemoOutput = Annotated[Path, option(None, "Folder for the images.", "DIR", "--output", "-o")]
DemoMaxConcurrent = Annotated[
    int, option(None, "Maximum calls in flight.", "N", "--max-concurrent", "-k", min=1)
]


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
    - `head prompts.txt | genbatch run - --demo --json`
    - `genbatch run shots.jsonl more.csv --sample 20`
    - `genbatch run names.csv --template "{name}, in {style}" --matrix style=ink,oil`
    - `genbatch run --template "A {animal} in snow" --matrix animal=fox,owl`
    """
    if options.demo and options.base_url:
        raise typer.BadParameter("--demo has its own server: leave out --base-url")
    names, axes = parted(prompts or [], options.matrix or [])
    batch = read_inputs(names, recipe_of(options, axes), options)
    messages = QuietConsole(stderr=options.as_json)
    if why := nothing_in(names, batch, options.limit):
        messages.say(f"Nothing to do: {why}.")
        return 0
    if options.dry_run:
        plan = preview(read_to_end(batch), options)
        out = QuietConsole()
        out.data(plan.row) if options.as_json else out.say(plan.line)
        return 0

    def is_wanted() -> bool:
        if _is_confirmed(batch, options, can_ask=STDIN not in names):
            return True
        messages.say("Nothing was made.")
        return False

    return _make(partial(make_images, batch), options, context.obj.debug, is_wanted)


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
    *("gallery", "max_concurrent", "pace", "budget", "max_images", "price", "timeout", "deadline"),
    *("patience", "quiet", "as_json", "log_file", "demo", "base_url", "backend"),
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
    }
    given = {name: value for name, value in changes.items() if value is not None}
    work = partial(make_more_takes, parse_indices(prompts), given)
    return _make(work, replace(options, output=folder), context.obj.debug)


def _make(
    work: Work, options: Options, debug: bool, is_wanted: Callable[[], bool] = lambda: True
) -> int:
    """Make images by the fake or by the service, if a look at the cost does not prevent it."""
    with log_to(options.log_file, everything=debug) if options.log_file else nullcontext():
        client = None if options.demo else client_for(options)
        if client is not None and not is_wanted():
            return 0
        code = run_batch(work, options, client, _LATENCY)
    if options.gallery:
        add_gallery(options.output)
    return code


def _is_confirmed(prompts: Prompts, options: Options, *, can_ask: bool) -> bool:
    """Show what a run will cost, and ask before an expensive one if someone can answer."""
    plan = preview(prompts, options)
    can_ask = can_ask and sys.stdin is not None and sys.stdin.isatty()
    asks = plan.is_expensive and options.budget is None and not options.yes and can_ask
    if asks or not options.quiet:
        QuietConsole(stderr=True).say(plan.line)
    return not asks or typer.confirm("Continue?", err=True)
