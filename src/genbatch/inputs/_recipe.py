"""Recipe: how a row becomes prompts, by settings, a template and a grid of values.

A template puts a field in place of ``{name}`` and a brace in place of ``{{``, and does no more:
nothing that is written in a template or in a field is looked up or evaluated.
"""

from __future__ import annotations

import csv
import math
import os
import re
import string
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeAlias

from pydantic_core import from_json

from genbatch._values import Prompt, is_reference, sniff_input_type

from ._formats import Fields, canonical, found, is_blank, listed, one_line, short
from ._names import Reading

# Settings

MOST_IMAGES = 1000  # of one row: a typing mistake must not cost a fortune

_WHOLE = re.compile(r"(-?[0-9]{1,18})(\.0+|,0)?")  # with what pandas adds where a column has gaps
_RATIO = re.compile(r"0*([0-9]+)\s*:\s*0*([0-9]+)(:00)?")  # or as a time of day
_NO_RATIO = re.compile(r"([0-9]{1,2})\s*[x\u00d7*/_-]\s*([0-9]{1,2})", re.IGNORECASE)
_SIZE = re.compile(r"([0-9]+)\s*k", re.IGNORECASE)
_BLANK = frozenset(["", "nan", "NaN", "<NA>"])  # what pandas writes where nothing is
_DEFAULT = frozenset(["auto", "default"])
_NO_VALUE = re.compile(r"#(N/A|NAME\?|REF!|VALUE!|DIV/0!|NULL!|NUM!|SPILL!|CALC!)|Err:[0-9]{3}")
_SEEDS = range(-(2**31), 2**31)  # what the service takes

Parse: TypeAlias = Callable[[Any], Any]


class RemoteImages(Protocol):
    """Fetches input images that are https URLs."""

    @property
    def pending(self) -> Mapping[Path, str]:
        """The URLs of those that are not there yet, by where they are to be kept."""

    def place(self, url: str) -> Path:
        """Return where an image is kept, or will be.

        Raises:
            ValueError: If it cannot be fetched.
        """

    def fetch(self, path: Path) -> None:
        """Fetch a pending image; this blocks.

        Raises:
            ValueError: If it cannot be fetched.
        """


def parse_settings(
    fields: Mapping[str, Any], folder: Path, remote: RemoteImages | None = None
) -> dict[str, Any]:
    """Return the given settings, as a Prompt takes them, and n.

    Args:
        fields: Values of settings by name, text or what JSON has; a blank one is not given.
        folder: Base of the relative paths of input images.
        remote: Fetches those that are https URLs.

    Raises:
        ValueError: If a value is invalid.
    """
    settings = {}
    for name, value in fields.items():
        given = value.strip() if type(value) is str else value
        if given is None or (type(given) is str and given in _BLANK):
            continue
        try:
            settings[name] = PARSERS[name](_value_of_cell(given))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if "images" in settings:
        names = settings["images"]
        settings["images"] = tuple(located_image(str(name), folder, remote) for name in names)
    return settings


def located_image(name: str, folder: Path, remote: RemoteImages | None) -> str | Path:
    """Return the path of an input image, or the name of one that the service has.

    Raises:
        ValueError: If it is a URL, and not one of https that can be fetched.
    """
    if name.lower().startswith(("https://", "http://")):
        if remote is None:
            raise ValueError(f"images: {short(name)} cannot be fetched here: give a file")
        return remote.place(name)
    path = folder / name
    if is_reference(name):  # unless a file has that name, which its whole path tells from others
        return path.absolute() if path.is_file() else name
    return path


def _value_of_cell(value: Any) -> Any:
    """Return a value that is not the error of a formula.

    Raises:
        ValueError: If it is one.
    """
    if type(value) is str and value[:1] in ("#", "E") and _NO_VALUE.fullmatch(value):
        raise ValueError(f"{value} is an error of the spreadsheet; mend its formula")
    return value


def check_text(value: object) -> str:
    """Return value if it is text.

    Raises:
        ValueError: If it is not text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{found(value)} is not text")
    if "\0" in value:
        raise ValueError("a NUL character is in it; take it out")
    return value


def _text_of(name: str, value: object, what: str) -> str:
    """Return the text of the field of this name.

    Raises:
        ValueError: If it is not text, or blank: a message about that calls it what.
    """
    try:
        text = check_text(_value_of_cell(value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if is_blank(text):
        raise ValueError(f"{what} is blank; fill it in or remove the row")
    return text


def check_images(images: Iterable[bytes | str | Path], pending: Container[Path] = ()) -> None:
    """Check that the input images of a row are images, except those still pending; this blocks.

    Raises:
        ValueError: If one is not a file, cannot be read, or begins like no image.
    """
    for path in images:
        if isinstance(path, bytes) or is_reference(path) or path in pending:
            continue
        shown = one_line(str(path))
        if not os.path.isfile(path):
            raise ValueError(f"images: there is no file {shown}")
        try:
            with open(path, "rb") as file:
                head = file.read(64)
        except OSError:
            raise ValueError(f"images: the file {shown} cannot be read") from None
        if sniff_input_type(head) is None:
            raise ValueError(f"images: {shown} is not a PNG, JPEG, WebP, HEIC or HEIF image")


def check_finite(name: str, value: object) -> None:
    """Refuse a value that contains numbers JSON cannot represent.

    Raises:
        ValueError: If there is one.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{short(name)}: a number is too large")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            check_finite(name, each)


def parse_aspect_ratio(value: Any) -> str | None:
    """Return an aspect ratio as services have it, None for the default.

    Raises:
        ValueError: If it is not text, or written otherwise, such as 16x9.
    """
    return _ratio(check_text(value))


@lru_cache(maxsize=256)
def _ratio(text: str) -> str | None:
    if match := _RATIO.fullmatch(text):
        return f"{match[1]}:{match[2]}"
    if match := _NO_RATIO.fullmatch(text):
        raise ValueError(f"{found(text)} is no aspect ratio: did you mean {match[1]}:{match[2]}?")
    return None if text.lower() in _DEFAULT else text


def parse_image_size(value: Any) -> str | None:
    """Return an image size as services have it, such as 2K for 2k, None for the default.

    Raises:
        ValueError: If it is not text.
    """
    return _size(check_text(value))


@lru_cache(maxsize=256)
def _size(text: str) -> str | None:
    if match := _SIZE.fullmatch(text):
        return f"{match[1]}K"
    return None if text.lower() in _DEFAULT else text


def _text_or_number(value: Any) -> str:
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else check_text(value)


def _whole(value: Any) -> int:
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value)):
        return int(match[1])
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError(f"{found(value)} is not a whole number")
    return value


def _seed(value: Any) -> int:
    if (seed := _whole(value)) not in _SEEDS:
        raise ValueError(f"{found(seed)} has more than 32 bits")
    return seed


def _n(value: Any) -> int:
    if not 1 <= (n := _whole(value)) <= MOST_IMAGES:
        raise ValueError(f"{found(n)} is not 1 to {MOST_IMAGES:,}")
    return n


def joined(*values: Any) -> list[str]:
    """Return the input images of several columns.

    Raises:
        ValueError: If a value is not a path, nor a list of them.
    """
    given = (each.strip() if type(each) is str else each for each in values)
    return [name for each in given if each not in (None, "") for name in _names_of(each)]


def _images(value: Any) -> tuple[str, ...]:
    return tuple(_names_of(value))


def _names_of(value: Any) -> list[str]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = from_json(value)
        except ValueError:
            raise ValueError(f"{found(value)} is not a JSON list") from None
    if isinstance(value, str):
        value = [path.strip() for path in value.split(";") if path.strip()]
    if not isinstance(value, list):
        raise ValueError(f"{found(value)} is not a path, nor a list of them")
    return [check_text(name) for name in value]


PARSERS: dict[str, Parse] = {
    "id": _text_or_number,
    "filename": _text_or_number,
    "model": check_text,
    "aspect_ratio": parse_aspect_ratio,
    "image_size": parse_image_size,
    "images": _images,
    "n": _n,
    "seed": _seed,
}


# Templates and grids

Point: TypeAlias = Mapping[str, str]  # a combination of the values of a grid, by axis

_NO_POINT: Sequence[Point] = ({},)  # the one of a grid without axes
_NOT_PLAIN = frozenset(".[]{}!:")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with placeholders for fields.

    Attributes:
        parts: Pairs of literal text and the name of the field after it, None if there is none.
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse the text of a template.

        Raises:
            ValueError: If it is malformed, has no field, or formats or looks into one.
        """
        try:
            parsed = list(string.Formatter().parse(_argument(text)))
        except ValueError as error:
            raise ValueError(f"--template: {error}; write {{{{ or }}}} for a brace") from None
        for _, name, spec, conversion in parsed:
            if name is not None and (spec or conversion or not _is_plain(name)):
                plain = "a field is a plain name, without . [ ] ! or :"
                raise ValueError(f"--template: {{{short(name)}}}: {plain}")
        parts = tuple((before, name and canonical(name.strip())) for before, name, _, _ in parsed)
        if all(name is None for _, name in parts):
            raise ValueError("--template: it contains no {field}")
        return cls(parts)

    @property
    def names(self) -> list[str]:
        """The fields that it uses."""
        return [name for _, name in self.parts if name is not None]

    def fill(self, fields: Mapping[str, object]) -> str:
        """Return the text with the values of fields.

        Raises:
            ValueError: If one is blank, or neither text nor a number.
        """
        return "".join(
            before + ("" if name is None else _value(name, fields[name]))
            for before, name in self.parts
        )


def _is_plain(name: str) -> bool:
    return bool(name.strip()) and _NOT_PLAIN.isdisjoint(name)


def _value(name: str, value: object) -> str:
    if type(value) in (int, float):
        return str(value)
    return _text_of(name, value, f"the field {name}")


@dataclass(frozen=True, slots=True)
class Grid:
    """Lists of values and their full product; without an axis there is one point.

    Attributes:
        axes: Names, and their values in order: each as a Prompt has it, if it is a setting.
    """

    axes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, axes: Iterable[str]) -> Grid:
        """Return the grid of axes such as ``style=ink,"oil, thick"``.

        Raises:
            ValueError: If one is malformed, or there twice.
        """
        parsed: dict[str, Mapping[str, Any]] = {}
        for axis in axes:
            given, equals, values = _argument(axis).partition("=")
            name = canonical(given.strip())
            if not equals or not _is_plain(name):
                raise ValueError(f"--matrix: {short(axis)} is not like style=ink,oil")
            if name in parsed:
                raise ValueError(f"--matrix {name}: is given twice; put all its values in one list")
            try:
                parsed[name] = _values(name, values)
            except ValueError as error:
                raise ValueError(f"--matrix {name}: {error}") from None
        if "images" in parsed:
            parsed["images"] = {
                value: tuple(located_image(name, Path(), None) for name in names)
                for value, names in parsed["images"].items()
            }
        for images in parsed.get("images", {}).values():
            check_images(images)
        return cls(parsed)

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(map(len, self.axes.values()))

    def points(self) -> Iterator[Point]:
        """Yield the points, the last axis changing fastest."""
        return self.part(self.axes) if self.axes else iter(_NO_POINT)

    def part(self, names: Iterable[str]) -> Iterator[Point]:
        """Yield the points of a grid that has no other axes than these."""
        axes = [name for name in names if name in self.axes]
        for values in product(*(self.axes[name] for name in axes)):
            yield dict(zip(axes, values, strict=True))

    def settings(self, point: Point) -> dict[str, Any]:
        """Return those values of a point that are settings, as a Prompt has them."""
        return {name: self.axes[name][point[name]] for name in point if name in PARSERS}


def _values(name: str, text: str) -> dict[str, object]:
    try:
        (values,) = csv.reader([text], skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise ValueError(f"{str(error).partition(' - ')[0]}; check the quotes") from None
    values = [value.strip() for value in values]
    if not values or not all(values):
        raise ValueError("a value is blank")
    if len(set(values)) < len(values):
        raise ValueError(f"a value is repeated: {found(text)}")
    if name not in PARSERS:
        return dict.fromkeys(values)
    return {value: PARSERS[name](value) for value in values}


def _argument(text: str) -> str:
    """Return an argument of the command line, whose bytes may not be text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("an argument is not text in the encoding of this machine") from None
    return text


# Recipes

_NAMES = frozenset({"id", "filename"})
_COUNTED = ("model", "aspect_ratio", "image_size", "n")  # what an axis may change in an estimate

# The model, aspect_ratio and image_size of a prompt, None where it leaves them to the run.
Asked: TypeAlias = tuple[str | None, str | None, str | None]


def _anything(*asked: object) -> None:
    """Check nothing."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How rows become prompts.

    Attributes:
        column: The field that is the prompt, where there is no template.
        template: Makes the prompt of the fields of a row.
        grid: Each row becomes a prompt for each point; the values of a point count as fields.
        check: Called with a model, an aspect_ratio and an image_size, each None where a prompt
            leaves it to the run; and where rows have them with a seed, None in its place, and
            input images. Raises a ValueError if the model does not support that.
        settings: Those of rows that do not have their own, as read returns them.
        expand: Seed of the choices among ``{a|b}`` in prompts, None to leave them as they are.
        reading: What the user has said of the rows; None takes them as they are.
        remote: Fetches input images that are https URLs.
        models: Full ids that stand for models named so, where that is not what they mean elsewhere.

    Raises:
        ValueError: If an axis of the grid would only make equal prompts.
    """

    column: str = "prompt"
    template: Template | None = None
    grid: Grid = field(default_factory=Grid)
    check: Callable[..., object] = _anything
    settings: Mapping[str, Any] = field(default_factory=dict)
    expand: int | None = None
    reading: Reading | None = None
    remote: RemoteImages | None = None
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def pending(self) -> Container[Path]:
        """Paths of input images that are still to be fetched."""
        return () if self.remote is None else self.remote.pending

    def fetch(self, path: Path) -> None:
        """Fetch a pending input image; as RemoteImages.fetch."""
        if self.remote is not None:
            self.remote.fetch(path)

    @property
    def used(self) -> Sequence[str]:
        """The fields that the prompt is made of."""
        return [self.column] if self.template is None else self.template.names

    def __post_init__(self) -> None:
        used = [] if self.template is None else self.template.names
        for name in self.grid.axes:
            if name not in used and name not in PARSERS:
                raise ValueError(f"--matrix {name}: --template must contain {{{name}}}")

    @property
    def needed(self) -> list[str]:
        """The fields that each row must have."""
        if self.template is None:
            return [self.column]
        return [each for each in self.template.names if each not in self.grid.axes]

    def check_names(self, names: Collection[str], kind: str = "column") -> None:
        """Refuse a row, or a table, that lacks a field.

        Args:
            names: Names of the fields that it has.
            kind: Word for them in messages.

        Raises:
            ValueError: If one is missing, or an axis of the grid has its name.
        """
        hint = "; --column names yours" if self.template is None else ""
        for name in self.needed:
            if name not in names:
                shown = f"the {kind}s are: {listed(names)}"
                raise ValueError(f"no {kind} named {name}; {shown}{hint}")
        for name in self.grid.axes:
            if name in names:
                raise ValueError(f"the {kind} {name} is in --matrix too; leave out one of them")

    def read(self, fields: Fields, folder: Path) -> dict[str, Any]:
        """Check a row, except for what its model supports, and return its settings.

        Args:
            fields: Fields of the row, by name.
            folder: Base of the relative paths of input images.

        Returns:
            Those of the row and of the recipe, as a Prompt has them, and n.

        Raises:
            ValueError: If a field is missing or invalid.
        """
        if self.template is not None or self.grid.axes or self.column not in fields:
            self.check_names(fields, "field")
        own, others = self._parted(fields)
        for name, value in others.items():
            if type(value) is not str:
                check_finite(name, value)
        settings = dict(self.settings)
        if own:
            settings.update(parse_settings(own, folder, self.remote))
        if self.template is None:
            _text_of(self.column, fields[self.column], "the prompt")
        else:
            self._text(fields, next(self.grid.points()))
        return settings

    def prompts(self, fields: Fields, settings: Mapping[str, Any]) -> Iterator[Prompt]:
        """Yield the prompts of a row that was read: n for each point of the grid."""
        others = self._parted(fields)[1]
        for point in self.grid.points():
            own = dict(settings)
            if point:
                own.update(self.grid.settings(point))
                for name in _NAMES & settings.keys():
                    # By value, not by number: a longer grid leaves the names it had as they were.
                    own[name] = "-".join([settings[name], *point.values()])
            n = own.pop("n", 1)
            if self.models and own.get("model") in self.models:
                own["model"] = self.models[own["model"]]
            prompt = Prompt(self._text(fields, point), **own, metadata={**others, **point})
            prompts = (prompt,) if n == 1 else prompt.variants(n)
            yield from prompts if self.expand is None else map(self._expanded, prompts)

    def kinds(self, settings: Mapping[str, Any]) -> Sequence[tuple[Asked, int]]:
        """Return what the prompts of a row ask for, and how many ask for it."""
        if not self.grid.axes:  # mostly
            return [(_asked(settings), settings.get("n", 1))]
        points = list(self.grid.part(_COUNTED))
        each = self.grid.size // len(points)
        rows = [{**settings, **self.grid.settings(point)} for point in points]
        return [(_asked(row), row.get("n", 1) * each) for row in rows]

    def seed_in(self, settings: Mapping[str, Any]) -> int | None:
        """Return a seed of the prompts of a row, None where they have none."""
        seeds = self.grid.axes.get("seed") or {"": settings.get("seed")}
        seed: int | None = next(iter(seeds.values()))
        return seed

    def _expanded(self, prompt: Prompt) -> Prompt:
        text = _expand(prompt.text, f"{self.expand}:{prompt.variant or 1}")
        return replace(prompt, text=text) if text.strip() else prompt

    def _parted(self, fields: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings among the fields, and the other fields except the prompt."""
        prompt = self.column if self.template is None else None
        own: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in fields.items():
            if name != prompt:
                (own if name in PARSERS else others)[name] = value
        return own, others

    def _text(self, fields: Fields, point: Point) -> str:
        if self.template is None:
            return str(fields[self.column])
        return self.template.fill({**fields, **point})


_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")


def _expand(text: str, seed: str) -> str:
    """Return text with one of each ``{a|b}`` chosen, the inner ones first.

    The choice follows from the text and the seed alone, so that no other row changes it.
    """
    random = Random(f"{seed}:{text}")  # noqa: S311 - no secret

    def choose(match: re.Match[str]) -> str:
        options = match[1].split("|")
        return options[int(random.random() * len(options))]

    while (chosen := _CHOICE.sub(choose, text)) != text:
        text = chosen
    return text


def _asked(settings: Mapping[str, Any]) -> Asked:
    return settings.get("model"), settings.get("aspect_ratio"), settings.get("image_size")
