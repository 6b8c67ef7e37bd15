"""The commands about looking and choosing: view and keep."""

from __future__ import annotations

from contextlib import suppress
from typing import IO, Annotated

import anyio
import typer

from genbatch._store import choice_lines, choices, choose, export, parse_choices

from ._console import QuietConsole, count, plain
from ._merge import copied_here
from ._options import OUT, Options, OutputFolder, command, option, refuse_bucket
from ._watch import announce, redo_options, serving_page, until_stopped

Port = Annotated[
    int, option(None, "Port of the page; 0 takes any free one.", "N", min=0, max=65535)
]
NoOpen = Annotated[bool, option(None, "Do not open the page in a browser.", "", "--no-open")]
From = Annotated[
    typer.FileText | None,
    option(None, "Read choices from FILE; - is standard input.", "FILE", "--from"),
]


@command("service", "budget", "max_images", "price", "pace", "base_url")
def view_command(
    *,
    folder: OutputFolder = OUT,
    port: Port = 0,
    no_open: NoOpen = False,
    options: Options,
) -> int:
    """Look at the images on a local page, choose among them, and ask for further takes.

    A run that goes on in the folder is followed and can be steered. The page is served to this
    machine only, and to whoever has its whole address. Options about services and costs are for
    the further takes; without --budget, that of the last run holds.

    Examples:

    - `genbatch view out`
    - `genbatch view out --port 8000 --no-open`
    """
    folder = copied_here(folder)
    choices(folder)  # a folder without a run is named at once
    out = QuietConsole()
    budget = [] if options.budget is None else [f"--budget={options.budget}"]
    with serving_page(folder, port, None, [*budget, *redo_options(options)]) as server:
        announce(server, out.say, can_open=not no_open)
        out.say("Ctrl-C ends it; what was chosen is saved.")
        with suppress(KeyboardInterrupt):
            anyio.run(until_stopped)
        if server.redos.is_making():
            out.say("Waiting for the calls in flight. Ctrl-C leaves them to end by themselves.")
    return 0


@command()
def keep_command(folder: OutputFolder = OUT, source: From = None) -> int:
    """Save choices that were copied from a page, or print those of a folder in the same form.

    A line is a verdict, stars and a file: keep 4 0017-a-fox.png, or reject - 0018-an-owl.png.

    Examples:

    - `genbatch keep out --from choices.txt`
    - `genbatch keep out > choices.txt`
    """
    refuse_bucket(folder, "keep")
    out = QuietConsole()
    if source is None:
        with out.writing() as stream:
            stream.writelines(f"{line}\n" for line in choice_lines(choices(folder)))
        return 0
    files = {row["file"] for row in export(folder, all=True) if row["file"]}
    chosen = parse_choices(_lines_of(source), files)
    choose(folder, chosen)
    kept = sum(choice.verdict == "keep" for choice in chosen.values())
    rejected = sum(choice.verdict == "reject" for choice in chosen.values())
    saved = f"{count(len(chosen), 'choice')} saved in {plain(folder)}"
    out.say(f"{saved}: {kept} kept, {rejected} rejected")
    return 0


def _lines_of(source: IO[str]) -> list[str]:
    try:
        return source.read().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError("--from is not text in UTF-8: copy the choices anew") from error
