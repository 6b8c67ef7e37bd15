"""Columns: what each column of an input is read as, and names that only look like settings.

A setting under another name would silently become metadata, and its images would be paid for
without it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache

from ._formats import InputError, canonical, listed, short

FIELDS = frozenset(
    ("prompt", "id", "filename", "model", "aspect_ratio", "image_size", "images", "n", "seed")
)

_CLOSE = 0.9  # of 1, which is the same: a letter more or less in six
_BARE = {name.replace("_", ""): name for name in FIELDS if len(name) > 2}

# Names that people give to columns, without blanks, hyphens and underscores.
_OTHER_NAMES = {
    **dict.fromkeys(("ratio", "aspect", "ar"), "aspect_ratio"),
    **dict.fromkeys(("size", "resolution", "dimension", "dimensions", "res"), "image_size"),
    **dict.fromkeys(("ref", "refs", "reference", "references"), "images"),
    **dict.fromkeys(("count", "copies", "variants", "variations", "repeat", "repeats"), "n"),
    **dict.fromkeys(("quantity", "qty", "numimages", "nimages", "imagecount"), "n"),
    **dict.fromkeys(("numberofimages", "numimagesperprompt", "numsamples", "nsamples"), "n"),
    **dict.fromkeys(("seeds", "randomseed"), "seed"),
    **dict.fromkeys(("modelname", "modelid"), "model"),
    **dict.fromkeys(("prompttext", "textprompt", "positiveprompt", "imageprompt"), "prompt"),
}
_IMAGES = re.compile(r"(input|reference|ref|source|init)?(image|img)s?\d*(path|file|url|uri)?s?\d*")
_UNSUPPORTED = {
    **dict.fromkeys(
        ("negativeprompt", "negprompt", "negative"),
        "say in the prompt what is not to be there",
    ),
    **dict.fromkeys(("width", "height"), "aspect_ratio and image_size are settings"),
    **dict.fromkeys(
        ("system", "systemprompt", "systeminstruction"), "--system is of all rows of a run"
    ),
    **dict.fromkeys(("thinking", "thinkinglevel"), "--thinking is of all rows of a run"),
    "temperature": "--config temperature=1 is of all rows of a run",
    **dict.fromkeys(
        ("generationconfig", "imageconfig", "safetysettings", "topp", "topk"),
        "--config KEY=VALUE is of all rows of a run",
    ),
    **dict.fromkeys(
        ("guidancescale", "cfgscale", "cfg", "numinferencesteps", "sampler", "scheduler"),
        "it is a setting of other services",
    ),
}

_SECRET_NAME = re.compile(
    r"(?ai:(.*[\s_-])?(api[\s_-]?key|access[\s_-]?key|private[\s_-]?key|secret([\s_-]?key)?"
    r"|token|password|passwd|credentials?|authorization|bearer))"
)
_SECRET_VALUE = re.compile(
    r"AIza[\w-]{30,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|gh[opusr]_\w{30,}|github_pat_\w{30,}"
    r"|hf_\w{30,}|xox[abpr]-[\w-]{20,}|ya29\.[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*",
    re.ASCII,
)
_SECRET_STARTS = ("AIza", "sk-", "AKIA", "gh", "hf_", "xox", "ya29.", "eyJ", "-----BEGIN ")
SHORTEST_SECRET = 20  # characters


def is_secret_name(name: str) -> bool:
    """Return whether a column of this name holds what nobody else should see."""
    return _SECRET_NAME.fullmatch(name) is not None


def is_secret(value: str) -> bool:
    """Return whether a value looks like a key."""
    return value.startswith(_SECRET_STARTS) and _SECRET_VALUE.fullmatch(value.strip()) is not None


def bare(name: str) -> str:
    """Return a name without what people write it with: "Aspect Ratio" is aspectratio."""
    return re.sub(r"[\s_-]", "", name).lower()


@lru_cache(maxsize=1024)
def near(name: str) -> str | None:
    """Return the field whose name a column's nearly is, None if there is none."""
    name = bare(name)
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    return "images" if _IMAGES.fullmatch(name) else _misspelt(name)


@lru_cache(maxsize=1024)
def unsupported(name: str) -> str | None:
    """Return why a column is none of the settings of others that it is named after."""
    return _UNSUPPORTED.get(bare(name))


def _misspelt(name: str) -> str | None:
    close = get_close_matches(bare(name), _BARE, 1, _CLOSE)
    return _BARE[close[0]] if close else None


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """Return the fields that columns are to be read as, by the bare names of the columns.

    Args:
        pairs: Such as ``images=refs,aspect_ratio=ratio``; the column may be on either side.

    Raises:
        InputError: If one is malformed, or does not tell which side is the column.
    """
    columns: dict[str, str] = {}
    for pair in (each.strip() for text in pairs for each in text.split(",")):
        left, equals, right = (each.strip() for each in pair.partition("="))
        if not (left and equals and right):
            raise InputError(f"--map: {short(pair)} is not like images=refs")
        column, field = _sides(left, right)
        if columns.setdefault(bare(column), field) != field:
            raise InputError(f"--map: the column {short(column)} is given twice")
    return columns


def _sides(left: str, right: str) -> tuple[str, str]:
    """Return the column and the field of a pair: the side whose name is a field's is the field."""
    known = {side: canonical(side) for side in (left, right) if canonical(side) in FIELDS}
    if not known:  # image=refs: singular, but plain enough
        known = {side: field for side in (left, right) if (field := _misspelt(side))}
    if len(known) != 1:
        which = "both are names" if known else "neither is the name"
        hint = f"write SETTING=COLUMN, a setting being {listed(sorted(FIELDS))}"
        raise InputError(f"--map {short(left)}={short(right)}: {which} of a setting; {hint}")
    ((side, field),) = known.items()
    return (right if side == left else left), field


@dataclass(frozen=True, slots=True)
class Reading:
    """What a user has said about inputs, in options or in answer to a question.

    Attributes:
        columns: Fields by the bare names of the columns that are to be read as them.
        skip: Kinds of lines that are left out.
        literal: Kinds of lines, and columns, that are taken as they are; ``"all"`` are.
        answers: Kinds and columns whose doubts were answered by mending them, by the
            normal path of the file, as it is named or whole.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()
    literal: frozenset[str] = frozenset()
    answers: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a row are read as.

    Attributes:
        fields: The field of each column, or its own name where it is metadata, by its name.
        accepted: The column that is read as the prompt since its name is nearly that.
        near: Fields of metadata whose names are nearly those of settings.
        metadata: Names of columns that are kept as they are.
        odd: Those among them whose names nearly are settings, or are settings of others.
        secret: Those that are left out.
        is_plain: Whether each column is read under its own name.
        of_image: Columns that say what the image is to be.
    """

    fields: Mapping[str, str]
    accepted: str | None
    near: Mapping[str, str]
    metadata: Sequence[str]
    odd: Collection[str]
    secret: Collection[str]
    is_plain: bool
    of_image: Sequence[str]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        used: Collection[str],
        given: Mapping[str, str],
        literal: Collection[str],
    ) -> Columns:
        """Return what columns of these names are read as.

        Args:
            names: As the input has them.
            used: Those that are the prompt, or that a template makes it of.
            given: Fields by the bare names of the columns that are to be read as them.
            literal: Those that are kept as metadata whatever their names.

        Raises:
            ValueError: If two columns would be one field.
        """
        fields = {name: given.get(bare(name), name) for name in names}
        accepted = _prompt_among(fields) if "prompt" in used else None
        if accepted is not None:
            fields[accepted] = "prompt"
        read = [each for each in fields.values() if each != "images"]
        for each in {each for each in read if read.count(each) > 1}:
            raise ValueError(f"two columns are read as {each}; the columns are: {listed(names)}")
        others = [n for n, each in fields.items() if each == n and n not in (*FIELDS, *used)]
        suspects = [name for name in others if name not in literal]
        secret = frozenset(filter(is_secret_name, suspects))
        of_image = (FIELDS - {"prompt", "id", "filename", "n"}).union(used)
        near = _nearly_settings(suspects, fields)
        return cls(
            fields,
            accepted,
            near,
            [name for name in others if name not in secret],
            {name for name in others if name in near or unsupported(name)},
            secret,
            not secret and all(name == each for name, each in fields.items()),
            [name for name, each in fields.items() if each in of_image],
        )


def _nearly_settings(names: Iterable[str], fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that columns may be meant for, if no other column is that field."""
    found: dict[str, str] = {}
    for name in names:
        each = near(name)
        if each is None or each == "prompt" or each in fields:
            continue
        if each == "images" or each not in (*found.values(), *fields.values()):
            found[name] = each
    return found


def _prompt_among(fields: Mapping[str, str]) -> str | None:
    """Return the one column whose name is nearly ``prompt``, None if one has that name."""
    if "prompt" in fields.values():
        return None
    close = [name for name, each in fields.items() if each == name and near(name) == "prompt"]
    return close[0] if len(close) == 1 else None
