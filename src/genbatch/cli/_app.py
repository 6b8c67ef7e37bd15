"""The commands; each returns its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import typer

from genbatch import GeminiClient, Throttle, Unauthorized
from genbatch._inputs import read_prompts
from genbatch._store._names import DEFAULT_TEMPLATE
from genbatch.testing import FakeGemini

from . import _options as options
from ._demo import DEMO, PROMPTS
from ._display import QuietConsole, plain
from ._launch import run, run_demo, run_real, serve
from ._plan import foresee
from ._records import check_folder, print_rows, show_status
from ._run import Options, Prompts, run_batch
from ._summary import report
from ._takes import parse_indices, pick_take, run_takes

_NEXT = """
Next: look at the images in {folder}, then make your own:
  1. write your prompts to prompts.txt, one a line
  2. export GEMINI_API_KEY=...
  3. genbatch run prompts.txt"""

app = typer.Typer(
    name="genbatch",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: options.Version = False, debug: options.Debug = False
) -> None:
    """Prompts in, images out: a file of prompts becomes a folder of images.

    Examples:

    - `genbatch demo` (start here: no key, no cost)
    - `genbatch run prompts.txt`
    - `genbatch run prompts.csv --demo --limit 40`
    - `genbatch status out`
    - `genbatch serve-fake`
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("run")
def run_command(
    prompts: options.Prompts,
    output: options.Output = Path("genbatch-out"),
    max_concurrent: options.MaxConcurrent = 20,
    model: options.Model = "flash",
    aspect_ratio: options.AspectRatio = None,
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    budget: options.Budget = None,
    max_images: options.MaxImages = None,
    price: options.Price = None,
    pace: options.Pace = None,
    timeout: options.Timeout = 120.0,
    deadline: options.Deadline = None,
    patience: options.Patience = 1800.0,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    fresh: options.Fresh = False,
    name: options.Name = DEFAULT_TEMPLATE,
    redo_missing: options.RedoMissing = False,
    retry_failed: options.RetryFailed = None,
    backend: options.Backend = "asyncio",
    base_url: options.BaseUrl = None,
    demo: options.Demo = False,
    debug: options.Debug = False,
) -> int:
    """Make an image of every prompt in a file.

    The key is read from GEMINI_API_KEY or GOOGLE_API_KEY. Run the same command again to resume:
    images that are there already are not made, or paid for, twice.

    Examples:

    - `genbatch run prompts.txt`
    - `genbatch run prompts.csv -o foxes -k 50 --model pro --aspect-ratio 16:9`
    - `genbatch run prompts.txt --budget 5 --pace 10/min`
    - `genbatch run prompts.txt --dry-run`
    - `head prompts.txt | genbatch run - --demo`
    """
    if demo and base_url:
        raise typer.BadParameter("--demo brings its own server; leave out --base-url")
    batch = _read(prompts, limit)
    if not len(batch):
        where = f"no prompts in {plain(prompts)}" if limit != 0 else "--limit 0"
        QuietConsole().say(f"Nothing to do: {where}.")
        return 0
    asked = Options(
        output,
        max_concurrent,
        model,
        aspect_ratio,
        image_size,
        budget=budget,
        max_images=max_images,
        price=price,
        deadline=deadline,
        fresh=fresh,
        name=name,
        redo_missing=redo_missing,
        retry_failed=options.kinds_to_retry(retry_failed),
    )
    plan = foresee(batch, asked, pace)
    if dry_run:
        QuietConsole().say(plan.line)
        return 0
    work = partial(run_batch, batch)
    if demo:
        result, server = run_demo(work, asked, 0.25, backend)
        return report(result, asked, server)
    client = _client(base_url, timeout, partial(_throttle, pace, patience))
    QuietConsole(stderr=True).say(plan.line)
    if plan.is_expensive and budget is None and not yes and not _confirmed(prompts):
        QuietConsole().say("Nothing was made.")
        return 0
    return report(run_real(client, work, asked, backend), asked)


def _throttle(pace: str | None, patience: float, model: str) -> Throttle:
    return Throttle(pace=pace, patience=patience)


def _confirmed(prompts: str) -> bool:
    """Ask where somebody is there to answer."""
    is_there = prompts != "-" and sys.stdin is not None and sys.stdin.isatty()
    return not is_there or typer.confirm("Go on?", err=True)


def _read(prompts: str, limit: int | None) -> Prompts:
    if prompts == "-" and sys.stdin and sys.stdin.isatty():
        QuietConsole(stderr=True).say("Type a prompt a line; Ctrl-D on an empty line ends.")
    return read_prompts(prompts, limit=limit)


def _client(
    base_url: str | None, timeout: float, throttle: Callable[[str], Throttle]
) -> GeminiClient:
    try:
        return GeminiClient(base_url=base_url, timeout=timeout, throttle=throttle)
    except Unauthorized as error:  # there is none; nothing was refused yet
        missing = "no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY), or try --demo without one"
        raise ValueError(missing) from error


@app.command("demo")
def demo_command(
    output: options.Output = Path("genbatch-demo"),
    max_concurrent: options.MaxConcurrent = 5,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Make 20 images with a built-in fake of the service: no key, no cost.

    The images are placeholders; all else is real, the calls over HTTP included.

    Examples:

    - `genbatch demo`
    - `genbatch demo -k 20 -o /tmp/demo`
    """
    asked = Options(output, max_concurrent)
    result, server = run_demo(partial(run_batch, PROMPTS), asked, 0.5, backend)
    code = report(result, asked, server)
    if code == 0:
        QuietConsole().say(_NEXT.format(folder=plain(output)))
    return code


@app.command("status")
def status_command(
    folder: options.Folder, as_json: options.AsJson = False, debug: options.Debug = False
) -> int:
    """Say how far a folder has come, and what it has cost.

    Examples:

    - `genbatch status out`
    - `genbatch status out --json`
    """
    return show_status(folder, as_json)


@app.command("export")
def export_command(
    folder: options.Folder,
    as_csv: options.AsCsv = False,
    everything: options.Everything = False,
    debug: options.Debug = False,
) -> int:
    """Print a row for each prompt of a folder: its file, cost, error and more.

    Examples:

    - `genbatch export out > images.jsonl`
    - `genbatch export out --csv > images.csv`
    """
    return print_rows(folder, as_csv, everything)


@app.command("verify")
def verify_command(folder: options.Folder, debug: options.Debug = False) -> int:
    """Compare every image of a folder with what was noted when it was made.

    Examples:

    - `genbatch verify out`
    """
    return check_folder(folder)


@app.command("redo")
def redo_command(
    folder: options.Folder,
    prompts: options.Indices,
    prompt: options.NewPrompt = None,
    model: options.NewModel = None,
    aspect_ratio: options.AspectRatio = None,
    image_size: options.ImageSize = None,
    seed: options.Seed = None,
    max_concurrent: options.MaxConcurrent = 20,
    budget: options.Budget = None,
    max_images: options.MaxImages = None,
    price: options.Price = None,
    pace: options.Pace = None,
    timeout: options.Timeout = 120.0,
    deadline: options.Deadline = None,
    patience: options.Patience = 1800.0,
    backend: options.Backend = "asyncio",
    base_url: options.BaseUrl = None,
    demo: options.OfDemo = False,
    debug: options.Debug = False,
) -> int:
    """Make another take of prompts that were run before; pick chooses between takes.

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
    if demo:
        result, server = run_demo(work, asked, 0.25, backend)
        return report(result, asked, server)
    client = _client(base_url, timeout, partial(_throttle, pace, patience))
    return report(run_real(client, work, asked, backend), asked)


@app.command("pick")
def pick_command(
    folder: options.Folder,
    prompt: options.Index,
    take: options.Take,
    demo: options.OfDemo = False,
    debug: options.Debug = False,
) -> int:
    """Choose the take of a prompt that export and gallery show.

    Examples:

    - `genbatch pick out 17 2`
    """
    run(partial(pick_take, folder, prompt, take, DEMO if demo else ""), "asyncio")
    return 0


@app.command("serve-fake")
def serve_command(
    host: options.Host = "127.0.0.1",
    port: options.Port = 8765,
    latency: options.Latency = 0.25,
    quota: options.Quota = None,
    daily: options.Daily = None,
    retry_info: options.RetryInfo = True,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Serve a fake of the Gemini API on this machine, until Ctrl-C.

    Examples:

    - `genbatch serve-fake --latency 2`
    - `genbatch serve-fake --port 9000`
    - `genbatch serve-fake --quota 5/min --daily 100 --no-retry-info`
    """
    fake = FakeGemini(
        latency=latency, quota=quota, daily=daily, retry_info=retry_info, port=port, host=host
    )
    serve(fake, f"{host} port {port}", backend)
    return 0
