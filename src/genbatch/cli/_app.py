"""The commands; each returns its exit code."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from genbatch import Unauthorized
from genbatch._inputs import read_prompts

from . import _options as options
from ._demo import PROMPTS
from ._display import QuietConsole, plain
from ._launch import run_demo, run_real, serve
from ._run import Options, Prompts, RunClient
from ._summary import report

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
    - `head prompts.txt | genbatch run - --demo`
    """
    if demo and base_url:
        raise typer.BadParameter("--demo brings its own server; leave out --base-url")
    batch = _read(prompts, limit)
    if not len(batch):
        where = f"no prompts in {plain(prompts)}" if limit != 0 else "--limit 0"
        QuietConsole().say(f"Nothing to do: {where}.")
        return 0
    asked = Options(output, max_concurrent, model, aspect_ratio, image_size)
    if not demo:
        return report(run_real(_client(base_url), batch, asked, backend), asked)
    result, server = run_demo(batch, asked, 0.25, backend)
    return report(result, asked, server)


def _read(prompts: str, limit: int | None) -> Prompts:
    if prompts == "-" and sys.stdin and sys.stdin.isatty():
        QuietConsole(stderr=True).say("Type a prompt a line; Ctrl-D on an empty line ends.")
    return read_prompts(prompts, limit=limit)


def _client(base_url: str | None) -> RunClient:
    try:
        return RunClient(base_url=base_url)
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
    result, server = run_demo(PROMPTS, asked, 0.5, backend)
    code = report(result, asked, server)
    if code == 0:
        QuietConsole().say(_NEXT.format(folder=plain(output)))
    return code


@app.command("serve-fake")
def serve_command(
    host: options.Host = "127.0.0.1",
    port: options.Port = 8765,
    latency: options.Latency = 0.25,
    backend: options.Backend = "asyncio",
    debug: options.Debug = False,
) -> int:
    """Serve a fake of the Gemini API on this machine, until Ctrl-C.

    Examples:

    - `genbatch serve-fake --latency 2`
    - `genbatch serve-fake --port 9000`
    """
    serve(host, port, latency, backend)
    return 0
