"""The options of the commands that make images; those of the others stand beside them.

The environment sets defaults for what somebody may want to be the same in every run, and never for
what asks for a payment again. A key is no option at all: others could see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import _checks as checks

PROMPTS = "Prompts"
IMAGES = "Images"
FILES = "Files"
AGAIN = "Running again"
LIMITS = "Limits and money"
SHOWN = "What is shown"

ENVIRONMENT = "GENBATCH_"


@dataclass(slots=True)
class Session:
    """What the options say about the command line itself."""

    debug: bool = False


def option(panel: str | None, *names: str, env: str | None = None, **settings: Any) -> Any:
    """Return an option of a panel of the help.

    Args:
        panel: Its title, None for that of the rest.
        names: Where it is not named as its parameter.
        env: What of the environment sets its default, after GENBATCH_.
        settings: Of typer.
    """
    variable = None if env is None else ENVIRONMENT + env
    return typer.Option(
        *names, rich_help_panel=panel, envvar=variable, show_envvar=False, **settings
    )


def flag(panel: str | None, name: str, *names: str, env: str | None = None, **settings: Any) -> Any:
    """Return an option without a value; as option."""
    return option(panel, name, *names, env=env, metavar="", **settings)


Debug = Annotated[
    bool,
    flag(
        None,
        "--debug",
        callback=checks.set_debug,
        is_eager=True,
        help="Show tracebacks of errors.",
    ),
]
Version = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=checks.print_version,
        is_eager=True,
        metavar="",
        help="Show the version.",
    ),
]

Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPTS",
        help="Files: .txt with a prompt a line, .jsonl, .csv or .tsv with a field named prompt; "
        "or - for standard input.",
        show_default=False,
    ),
]
Column = Annotated[
    str | None, option(PROMPTS, metavar="NAME", help="The field that is the prompt.")
]
Template = Annotated[
    str | None,
    option(PROMPTS, metavar="TEXT", help='Makes prompts of fields: "a {animal} in {style}".'),
]
Matrix = Annotated[
    list[str] | None,
    option(
        PROMPTS,
        metavar="NAME=A,B",
        help="Each of these values with each of the other lists: a=1,2 b=3,4.",
    ),
]
Encoding = Annotated[
    str, option(PROMPTS, env="ENCODING", metavar="NAME", help="Of the files, such as cp1252.")
]
Limit = Annotated[int | None, option(PROMPTS, min=0, metavar="N", help="Only the first N prompts.")]
Sample = Annotated[
    int | None,
    option(PROMPTS, min=1, metavar="N", help="Only N prompts of them, chosen at random."),
]
SampleSeed = Annotated[int, option(PROMPTS, metavar="N", help="Another one, another choice.")]

Model = Annotated[
    str,
    option(
        IMAGES,
        env="MODEL",
        metavar="MODEL",
        help="flash, pro, lite, or a full id; genbatch models tells them apart.",
    ),
]
AspectRatio = Annotated[
    str | None, option(IMAGES, env="ASPECT_RATIO", metavar="W:H", help="Such as 16:9.")
]
ImageSize = Annotated[
    str | None, option(IMAGES, env="IMAGE_SIZE", metavar="SIZE", help="1K, 2K or 4K.")
]
# Of a further take, which is asked for as the first was unless the line says otherwise.
NewPrompt = Annotated[str | None, option(IMAGES, "--prompt", metavar="TEXT", help="Another text.")]
NewModel = Annotated[str | None, option(IMAGES, "--model", metavar="MODEL", help="Another model.")]
NewAspectRatio = Annotated[
    str | None, option(IMAGES, "--aspect-ratio", metavar="W:H", help="Another shape.")
]
NewImageSize = Annotated[
    str | None, option(IMAGES, "--image-size", metavar="SIZE", help="Another size.")
]
Seed = Annotated[int | None, option(IMAGES, metavar="N", help="Another seed.")]

Output = Annotated[
    Path,
    option(FILES, "--output", "-o", env="OUTPUT", metavar="DIR", help="Folder for the images."),
]
Name = Annotated[
    str,
    option(
        FILES,
        env="NAME",
        callback=checks.check_name,
        metavar="TEMPLATE",
        help="How files are named: of {index}, {slug}, {id} and {key}, such as {index:05d}_{slug}.",
    ),
]
Fresh = Annotated[bool, flag(FILES, "--fresh", help="Refuse a folder that is not empty.")]
Gallery = Annotated[
    bool,
    flag(
        FILES,
        "--gallery",
        env="GALLERY",
        help="Write index.html at the end, to look at the images with.",
    ),
]

RedoMissing = Annotated[
    bool, flag(AGAIN, "--redo-missing", help="Make, and pay, images again whose files are gone.")
]
RetryFailed = Annotated[
    str | None,
    option(
        AGAIN,
        callback=checks.check_kinds,
        metavar="[=KIND]",
        help="Ask again for what was refused for good: all of it, Blocked, NoImage or Rejected.",
    ),
]

Via = Annotated[
    Literal["live", "batch", "batch,live"],
    option(
        LIMITS,
        metavar="WAY",
        help="batch: half the price, in jobs of up to 24 hours; batch,live makes live what jobs "
        "could not.",
    ),
]
MaxConcurrent = Annotated[
    int,
    option(
        LIMITS,
        "--max-concurrent",
        "-k",
        env="MAX_CONCURRENT",
        min=1,
        metavar="N",
        help="Most calls at once.",
    ),
]
Pace = Annotated[
    str | None,
    option(
        LIMITS,
        env="PACE",
        callback=checks.check_pace,
        metavar="N/min",
        help="Start no faster, such as 5/min, evenly spaced.",
    ),
]
Budget = Annotated[
    float | None,
    option(
        LIMITS, env="BUDGET", min=0.0, metavar="USD", help="Never pay for more, by expected price."
    ),
]
MaxImages = Annotated[
    int | None,
    option(LIMITS, env="MAX_IMAGES", min=0, metavar="N", help="Never pay for more images."),
]
Price = Annotated[
    float | None,
    option(
        LIMITS, env="PRICE", min=0.0, metavar="USD", help="Of an image, instead of the table's."
    ),
]
Timeout = Annotated[
    float,
    option(
        LIMITS,
        env="TIMEOUT",
        callback=checks.check_seconds,
        metavar="SECONDS",
        help="For each attempt.",
    ),
]
Deadline = Annotated[
    float | None,
    option(
        LIMITS,
        env="DEADLINE",
        callback=checks.check_seconds,
        metavar="SECONDS",
        help="For the whole run.",
    ),
]
Patience = Annotated[
    float,
    option(
        LIMITS,
        env="PATIENCE",
        min=0.0,
        metavar="SECONDS",
        help="How long a rate limit may last without a success.",
    ),
]
DryRun = Annotated[
    bool, flag(LIMITS, "--dry-run", help="Say what it would do and cost, and make no call.")
]
Yes = Annotated[bool, flag(LIMITS, "--yes", "-y", help="Do not ask before an expensive run.")]

BaseUrl = Annotated[str | None, option(None, metavar="URL", help="Another server than Google's.")]
Demo = Annotated[
    bool, flag(None, "--demo", help="Use a built-in fake of the service: no key, no cost.")
]
OfDemo = Annotated[
    bool,
    flag(None, "--demo", help="Of a folder that --demo made: the images are fakes again."),
]
Backend = Annotated[
    Literal["asyncio", "trio", "uvloop"],
    option(None, env="BACKEND", callback=checks.check_backend, help="Event loop."),
]

Quiet = Annotated[
    bool, flag(SHOWN, "--quiet", "-q", env="QUIET", help="Only what failed, and why it ended.")
]
AsRows = Annotated[
    bool,
    flag(SHOWN, "--json", help="A line of JSON for each prompt on stdout, all talk on stderr."),
]
LogFile = Annotated[
    Path | None,
    option(
        SHOWN,
        env="LOG_FILE",
        metavar="FILE",
        help="Add the log of the calls to it: lines of text, of JSON to a .jsonl.",
    ),
]

Folder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Folder that images were made in.", show_default=False),
]
Indices = Annotated[
    list[str],
    typer.Argument(
        metavar="PROMPT", help="Numbers as export shows them: 17 42-45.", show_default=False
    ),
]
