"""The options of the commands that make images, how commands share them, and their checks.

Environment variables set defaults for what a user may want to keep the same in every run, never for
what would pay a second time. The API key is not an option: other users could see it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer
from pydantic_core import from_json

from genbatch._bucket import bucket_path
from genbatch._money import load_prices
from genbatch._store import DEFAULT_TEMPLATE, FINAL, check_template
from genbatch._throttle import parse_interval
from genbatch._values import is_reference, sniff_input_type
from genbatch.inputs import (
    MOST_IMAGES,
    SKIPPABLE,
    Layout,
    Reading,
    RemoteImages,
    Shard,
    located_image,
    parse_aspect_ratio,
    parse_image_size,
    parse_map,
)

from ._console import QuietConsole

T = TypeVar("T")

_KEYWORD = inspect.Parameter.KEYWORD_ONLY

PROMPTS = "Prompts"
IMAGES = "Images"
FILES = "Files"
AGAIN = "Rerunning"
LIMITS = "Limits and cost"
SHOWN = "Output"

ENVIRONMENT = "GENBATCH_"
OUT = Path("genbatch-out")
DEMO = "demo"  # the demo's own namespace, or a real run would take placeholders for its images


# Checks


def _set_debug(context: typer.Context, value: bool) -> bool:
    """Turn tracebacks on, whether --debug comes before or after the command."""
    context.obj.debug = context.obj.debug or value
    return value


def _print_version(value: bool) -> None:
    if not value:
        return
    try:
        version = importlib.metadata.version("genbatch")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed)"
    QuietConsole().say(f"genbatch {version}")
    raise typer.Exit


def _check_backend(backend: str) -> str:
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        install = f"python -m pip install 'genbatch[{backend}]'"
        raise typer.BadParameter(f"{backend} is not installed; run {install}")
    return backend


def _check_seconds(seconds: float | None) -> float | None:
    if seconds is not None and not seconds > 0:
        raise typer.BadParameter("must be more than 0 seconds")
    return seconds


def _use_prices(path: Path | None) -> Path | None:
    """Make a file of prices the one that this process reads."""
    if path is not None:
        try:
            load_prices(path)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        os.environ["GENBATCH_PRICES"] = str(path)
    return path


def _check_images(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name.lower().startswith("https://") or (is_reference(name) and not Path(name).exists()):
            continue
        try:
            with open(name, "rb") as file:
                head = file.read(64)
        except OSError as error:
            raise typer.BadParameter(f"{name}: {(error.strerror or '').lower()}") from error
        if sniff_input_type(head) is None:
            raise typer.BadParameter(f"{name} is not a PNG, JPEG, WebP, HEIC or HEIF image")
    return names


def parse_config(pairs: Iterable[str]) -> dict[str, Any] | None:
    """Return the fields of pairs such as ``topP=0.9``, None if there are none.

    A value that is not JSON is a text.

    Raises:
        ValueError: If a pair is malformed, or a field given twice.
    """
    config: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--config: {pair!r:.50} is not like topP=0.9")
        if name.strip() in config:
            raise ValueError(f"--config {name.strip()}: is given twice")
        try:
            config[name.strip()] = from_json(value, allow_inf_nan=False)
        except ValueError:
            config[name.strip()] = value
    return config or None


def kinds_of(texts: Iterable[str] | None) -> frozenset[str]:
    """Return the names in values such as ``comments,headings``."""
    return frozenset(each.strip() for text in texts or () for each in text.split(",") if each)


def _check_skip(texts: list[str] | None) -> list[str] | None:
    for unknown in sorted(kinds_of(texts) - set(SKIPPABLE)):
        raise typer.BadParameter(f"{unknown!r} is not one of {', '.join(SKIPPABLE)}")
    return texts


def _parsed_by(parse: Callable[[str], object]) -> Callable[[T], T]:
    """Return a check that refuses a text that parse refuses."""

    def check(text: T) -> T:
        try:
            if isinstance(text, str):
                parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return text

    return check


def _normalized_by(parse: Callable[[str], T]) -> Callable[[str | None], T | None]:
    """Return a check that puts what parse returns in the place of a text."""

    def normalize(text: str | None) -> T | None:
        try:
            return None if text is None else parse(text.strip())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return normalize


as_ratio = _normalized_by(parse_aspect_ratio)
as_size = _normalized_by(parse_image_size)


def kinds_to_retry(kinds: str | None) -> bool | list[str]:
    """Return the value of --retry-failed as a Store takes it.

    Raises:
        ValueError: If it names a kind that is not a permanent failure.
    """
    if kinds is None or kinds == "all":
        return kinds == "all"
    by_name = {kind.lower(): kind for kind in FINAL}
    asked = [kind.strip() for kind in kinds.split(",")]
    if unknown := [kind for kind in asked if kind.lower() not in by_name]:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(FINAL)}, all")
    return [by_name[kind.lower()] for kind in asked]


# Options and commands


def option(
    panel: str | None,
    text: str,
    metavar: str | None = "",
    *names: str,
    env: bool = False,
    **settings: Any,
) -> Callable[[str], Any]:
    """Declare an option whose name and variable follow from the parameter that it annotates.

    Args:
        panel: Its panel of the help, None for the general one.
        text: Its help.
        metavar: Placeholder for its value; empty for a flag, None for a choice.
        names: Its names, unless they follow from the parameter.
        env: Whether an environment variable can set its default.
        settings: Passed to typer.
    """

    def named(parameter: str) -> Any:
        return typer.Option(
            *(names or (f"--{parameter.replace('_', '-')}",)),
            rich_help_panel=panel,
            help=text,
            metavar=metavar,
            envvar=f"{ENVIRONMENT}{parameter.upper()}" if env else None,
            show_envvar=False,
            **settings,
        )

    return named


def _field(default: T, *declaration: Any, **settings: Any) -> T:
    """Declare a field of Options; as option."""
    declared: T = field(default=default, metadata={"option": option(*declaration, **settings)})
    return declared


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of run; redo and demo have some of them."""

    column: str | None = _field(None, PROMPTS, "Name of the field that holds the prompt.", "NAME")
    template: str | None = _field(
        None, PROMPTS, 'Build prompts from fields, such as "a {animal} in {style}".', "TEXT"
    )
    # Every default is immutable, which the linter cannot see where it does not know the type.
    matrix: list[str] | None = _field(  # noqa: RUF009
        None,
        PROMPTS,
        "Make a prompt for every combination of these values: a=1,2 b=3,4.",
        "NAME=A,B",
    )
    expand: bool = _field(
        False, PROMPTS, "Choose one of each {a|b} in prompts, instead of leaving them as they are."
    )
    expand_seed: int = _field(0, PROMPTS, "Random seed for --expand.", "N")
    format: (
        Literal["txt", "jsonl", "json", "csv", "tsv", "md", "xlsx", "parquet", "arrow"] | None
    ) = _field(None, PROMPTS, "Format of the input files, whatever their names and contents.", None)
    separator: str | None = _field(
        None,
        PROMPTS,
        "Line between prompts of several lines, such as ---, or '' for blank lines; "
        "the character between the columns of a table.",
        "TEXT",
    )
    comments: bool = _field(False, PROMPTS, "Skip lines of text files that begin with #.")
    no_header: bool = _field(
        False, PROMPTS, "The first row of a table is data; --column 1 is its first column."
    )
    sheet: str | None = _field(
        None, PROMPTS, "Sheet of a workbook, by name or number; the first if not given.", "NAME"
    )
    path: str | None = _field(
        None, PROMPTS, "Where the list of prompts is in a JSON object: data.items.", "NAMES"
    )
    md: Literal["lists", "blocks"] = _field(
        "lists", PROMPTS, "Prompts of Markdown: list items and tables, or fenced blocks.", None
    )
    encoding: str = _field(
        "utf-8", PROMPTS, "Encoding of the input files, such as cp1252.", "NAME", env=True
    )
    columns: list[str] | None = _field(  # noqa: RUF009
        None,
        PROMPTS,
        "Read a column as a setting, such as images=refs or ratio=aspect_ratio: the side that is "
        "the name of a setting, or prompt, is the setting; repeatable.",
        "SETTING=COLUMN",
        "--map",
    )
    skip: list[str] | None = _field(  # noqa: RUF009
        None,
        PROMPTS,
        f"Leave out what looks like {', '.join(SKIPPABLE)}; of numbering, only the numbers.",
        "KINDS",
        callback=_check_skip,
    )
    literal: list[str] | None = _field(  # noqa: RUF009
        None,
        PROMPTS,
        "Take lines of these kinds, or columns, as they are, and do not ask; all takes everything.",
        "KINDS",
    )
    limit: int | None = _field(None, PROMPTS, "Use only the first N prompts.", "N", min=0)
    sample: int | None = _field(None, PROMPTS, "Use only N prompts, chosen at random.", "N", min=1)
    sample_seed: int = _field(0, PROMPTS, "Random seed for --sample.", "N")
    shard: str | None = _field(
        None,
        PROMPTS,
        "Use only this part of the prompts, as one of several machines: 1/2 and 2/2, each with a "
        "folder of its own, for genbatch merge.",
        "K/N",
        callback=_parsed_by(Shard.parse),
    )

    model: str = _field(
        "flash",
        IMAGES,
        "flash, pro, lite, or a full model id; genbatch models compares them.",
        "MODEL",
        env=True,
        callback=_normalized_by(str.strip),
    )
    service: list[str] | None = _field(  # noqa: RUF009
        None,
        IMAGES,
        "Your own image client: a function that returns it; repeatable.",
        "MODULE:FUNCTION",
    )
    aspect_ratio: str | None = _field(
        None, IMAGES, "Aspect ratio, such as 16:9.", "W:H", env=True, callback=as_ratio
    )
    image_size: str | None = _field(
        None, IMAGES, "1K, 2K or 4K.", "SIZE", env=True, callback=as_size
    )
    thinking: str | None = _field(
        None,
        IMAGES,
        "Thinking level, such as high; not every model supports it.",
        "LEVEL",
        callback=_normalized_by(lambda level: level.strip().lower() or None),
    )
    seed: int | None = _field(
        None,
        IMAGES,
        "Random seed; further images of a prompt take the next ones.",
        "N",
        min=-(2**31),
        max=2**31 - 1,
    )
    system: str | None = _field(None, IMAGES, "System instruction, sent with each prompt.", "TEXT")
    variants: int = _field(
        1, IMAGES, "Make N images of each prompt.", "N", "--variants", "-n", min=1, max=MOST_IMAGES
    )
    image: list[str] | None = _field(  # noqa: RUF009
        None,
        IMAGES,
        "Input image for all prompts: a file, an https URL, or one that Gemini has, such as "
        "files/abc-123 or gs://bucket/fox.png; repeatable.",
        "IMAGE",
        callback=_check_images,
    )
    config: list[str] | None = _field(  # noqa: RUF009
        None,
        IMAGES,
        "Further field of the request, such as topP=0.9; values may be JSON; repeatable.",
        "KEY=VALUE",
    )

    output: Path = _field(  # noqa: RUF009
        OUT, FILES, "Folder for the images.", "DIR", "--output", "-o", env=True
    )
    name: str = _field(
        DEFAULT_TEMPLATE,
        FILES,
        "Template for file names, built from {index}, {slug}, {id}, {name}, {source}, {model}, "
        "{seed}, {n} and {key}, such as {model}/{index:05d}_{slug}.",
        "TEMPLATE",
        env=True,
        callback=_parsed_by(check_template),
    )
    fresh: bool = _field(False, FILES, "Fail if the output folder is not empty.")
    gallery: bool = _field(False, FILES, "Write a gallery page, index.html, at the end.", env=True)

    via: Literal["live", "batch", "batch,live"] = _field(
        "live",
        LIMITS,
        "live: immediate calls; batch: Gemini Batch API, half price, results within 24 hours; "
        "batch,live: batch first, then live calls for what the jobs failed to make.",
        "WAY",
    )
    max_concurrent: int = _field(
        20, LIMITS, "At most N calls in flight.", "N", "--max-concurrent", "-k", env=True, min=1
    )
    pace: str | None = _field(
        None,
        LIMITS,
        "Maximum rate of starting calls, evenly spaced, such as 5/min.",
        "N/min",
        env=True,
        callback=_parsed_by(parse_interval),
    )
    budget: float | None = _field(
        None, LIMITS, "Spending limit in US dollars.", "USD", env=True, min=0.0
    )
    max_images: int | None = _field(None, LIMITS, "Pay for at most N images.", "N", env=True, min=0)
    price: float | None = _field(
        None,
        LIMITS,
        "Price per image in US dollars, overriding the built-in price table.",
        "USD",
        env=True,
        min=0.0,
    )
    prices: Path | None = _field(  # noqa: RUF009
        None,
        LIMITS,
        "JSON file of newer token prices, replacing those of the same models.",
        "FILE",
        env=True,
        callback=_use_prices,
    )
    dry_run: bool = _field(
        False, LIMITS, "Show what the run would do and cost without making any calls."
    )
    yes: bool = _field(False, LIMITS, "Skip the cost confirmation.", "", "--yes", "-y")
    look: int | None = _field(
        None, LIMITS, "Make N images, show them, and ask before the rest.", "N", min=1
    )
    no_look: bool = _field(
        False, LIMITS, "Start all calls at once; else the first one of a new model goes first."
    )
    timeout: float | None = _field(
        None,
        LIMITS,
        "Timeout of each attempt; if not given, 120 seconds, and 300 for 4K and pro.",
        "SECONDS",
        env=True,
        callback=_check_seconds,
    )
    deadline: float | None = _field(
        None, LIMITS, "Time limit for the whole run.", "SECONDS", env=True, callback=_check_seconds
    )
    patience: float = _field(
        1800.0,
        LIMITS,
        "Give up after being rate limited this long without a success.",
        "SECONDS",
        env=True,
        min=0.0,
    )

    redo_missing: bool = _field(
        False, AGAIN, "Regenerate, and pay again for, images whose files are missing."
    )
    retry_failed: str | None = _field(
        None,
        AGAIN,
        "Retry prompts that failed permanently: all, or only Blocked, NoImage, Rejected or "
        "DamagedImage.",
        "[=KIND]",
        callback=_parsed_by(kinds_to_retry),
    )

    quiet: bool = _field(
        False,
        SHOWN,
        "Print only failures and the reason if the run ends early.",
        "",
        "--quiet",
        "-q",
        env=True,
    )
    as_json: bool = _field(
        False, SHOWN, "Write a JSON line per prompt to stdout; messages go to stderr.", "", "--json"
    )
    view: bool = _field(False, SHOWN, "Watch the run on a local page, opened in a browser.")
    log_file: Path | None = _field(  # noqa: RUF009
        None,
        SHOWN,
        "Append a log of the calls to FILE: text, or JSON Lines if it ends in .jsonl.",
        "FILE",
        env=True,
    )

    demo: bool = _field(False, None, "Use a built-in fake service: no key, no cost.")
    base_url: str | None = _field(None, None, "Server to use instead of the service's own.", "URL")
    backend: Literal["asyncio", "trio", "uvloop"] = _field(
        "asyncio", None, "Event loop to run on.", None, env=True, callback=_check_backend
    )

    @property
    def reading(self) -> Reading:
        """What they say of the rows of inputs.

        Raises:
            ValueError: If --map is malformed.
        """
        columns = parse_map(self.columns or ())
        literal = kinds_of(self.literal) | ({"choices"} if self.expand else set())
        return Reading(columns, kinds_of(self.skip), literal)

    @property
    def namespace(self) -> str:
        """The namespace of the images: those of a demo are never taken for real ones."""
        return DEMO if self.demo else ""

    @property
    def of_images(self) -> dict[str, Any]:
        """The options that estimate and generate_images take under the same names."""
        names = ("namespace", "price")
        return {**self.settings, **{name: getattr(self, name) for name in names}}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all prompts have in common, as ImageSettings names them.

        Raises:
            ValueError: If --config is malformed.
        """
        names = ("model", "aspect_ratio", "image_size", "thinking")
        return {
            **{name: getattr(self, name) for name in names},
            "system_instruction": self.system if (self.system or "").strip() else None,
            "generation_config": parse_config(self.config or ()),
        }

    @property
    def layout(self) -> Layout:
        """How the input files are to be read."""
        return Layout(
            format=self.format,
            separator=self.separator,
            comments=self.comments,
            header=not self.no_header,
            sheet=self.sheet,
            path=self.path,
            markdown=self.md,
        )

    def of_rows(self, remote: RemoteImages | None) -> dict[str, Any]:
        """Return the settings that a row of the input may have too, by their names there."""
        images = tuple(located_image(each, Path(), remote) for each in self.image or ())
        given = {"images": images or None, "seed": self.seed, "n": self.variants}
        return {name: value for name, value in given.items() if value is not None}


Version = Annotated[
    bool,
    option(
        None, "Show the version.", "", "--version", "-V", callback=_print_version, is_eager=True
    ),
]
Debug = Annotated[bool, option(None, "Show error tracebacks.", callback=_set_debug, is_eager=True)]
OutputFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        envvar=f"{ENVIRONMENT}OUTPUT",
        show_envvar=False,
        help="Folder of an earlier run.",
    ),
]
FolderOrFirst = Annotated[
    str,
    typer.Argument(
        metavar="[DIR]",
        help="Folder of an earlier run; may be left out, as for status.",
        show_default=False,
    ),
]
OfDemo = Annotated[bool, option(None, "The folder was made with --demo.")]


def refuse_bucket(folder: Path, what: str) -> None:
    """Refuse what needs a folder on this machine."""
    if (bucket := bucket_path(folder)) is not None:
        here = f"genbatch merge {bucket} --to {bucket.name}"
        raise ValueError(f"{what} needs a local folder, and {bucket} is a bucket: {here} copies it")


def default_folder() -> Path:
    """Return the folder of a command that names none."""
    return Path(os.environ.get(f"{ENVIRONMENT}OUTPUT") or OUT)


def command(*names: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function a command, whose signature typer reads.

    Options are named after their parameters, and --debug is added. A parameter of type Options is
    replaced by its fields.

    Args:
        names: The fields that the command has, all if none is given.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        parameters: list[inspect.Parameter] = []
        shared: list[str] = []
        for each in inspect.signature(function, eval_str=True).parameters.values():
            if each.annotation is Options:
                shared = list(names) or [each.name for each in fields(Options)]
                parameters.extend(_shared(shared))
            else:
                parameters.append(_own(each))
        parameters.append(
            _own(inspect.Parameter("debug", _KEYWORD, default=False, annotation=Debug))
        )

        @wraps(function)
        def run(**given: Any) -> int:
            del given["debug"]  # its callback has noted it
            if shared:
                given["options"] = Options(**{name: given.pop(name) for name in shared})
            return function(**given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _shared(names: Collection[str]) -> Iterator[inspect.Parameter]:
    """Yield the parameters of fields of Options."""
    hints: Any = get_type_hints(Options)
    for each in fields(Options):
        if each.name in names:
            hint: Any = Annotated[hints[each.name], each.metadata["option"]]
            yield _own(
                inspect.Parameter(each.name, _KEYWORD, default=each.default, annotation=hint)
            )


def _own(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter with its option declared, if it is not declared yet."""
    hint = parameter.annotation
    declared = getattr(hint, "__metadata__", (None,))[0]
    if inspect.isfunction(declared):
        hint = Annotated[hint.__origin__, declared(parameter.name)]
    return parameter.replace(kind=_KEYWORD, annotation=hint)
