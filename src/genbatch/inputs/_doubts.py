"""Doubts: lines and columns that may not be what they were taken for, found before paying.

1. Rows are seen once, as they are read, and none is kept: memory is bounded, whatever their number.
2. A doubt is told once for each file, with a count and its first example.
3. What a user has said, or answered before, is no doubt any more: see Reading.
4. The prompts of ordinary prose raise none.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from ._formats import Fields, Rows, canonical, found, short
from ._names import (
    FIELDS,
    SHORTEST_SECRET,
    Columns,
    Reading,
    bare,
    is_secret,
    is_secret_name,
    near,
    unsupported,
)
from ._recipe import Recipe, joined

_MOST_REMEMBERED = 100_000  # prompts among which repeated ones are counted: a few megabytes
_MOST_COLUMNS = 256  # sets of names that the objects of one file may have before they cost time
_MOST_DOUBTS = 100  # of all files together

Option: TypeAlias = tuple[str, str]  # such as ("skip", "comments"): --skip comments


@dataclass(frozen=True, slots=True)
class Kind:
    """What lines may look like.

    Attributes:
        what: Follows "looks like" or the like, in a message.
        advice: What to do about it, options first.
        option: The option that does so, None where there is none.
    """

    what: str
    advice: str
    option: Option | None = None


def _compiled(*kinds: tuple[str, str]) -> Sequence[tuple[str, re.Pattern[str]]]:
    return [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in kinds]


def _skipped(name: str, what: str, advice: str = "leaves such lines out") -> Kind:
    return Kind(what, f"--skip {name} {advice}", ("skip", name))


LINES = {
    "comments": _skipped("comments", "looks like a comment"),
    "headings": _skipped("headings", "looks like a heading"),
    "separators": _skipped(
        "separators",
        "looks like a separator",
        "leaves such lines out, --separator '---' makes one prompt of the lines between two",
    ),
    "numbering": _skipped(
        "numbering", "begins with a number or a bullet", "leaves those out, not the lines"
    ),
    "markdown": Kind(
        "looks like Markdown", "--format md reads lists, tables and blocks", ("format", "md")
    ),
    "json": Kind("looks like JSON", "--format json reads it", ("format", "json")),
    "jsonl": Kind("looks like a JSON object", "--format jsonl reads it", ("format", "jsonl")),
    "table": Kind("looks like a row of a table", "--format csv reads it", ("format", "csv")),
    "options": _skipped("options", "has options of another program, which would be drawn"),
    "choices": Kind(
        "has choices in braces", "--expand takes one of them for each image", ("expand", "")
    ),
    "wildcards": _skipped("wildcards", "has a place that is to be filled in, and nothing fills it"),
    "paragraphs": Kind(
        "begins a paragraph of several lines, each of which would be a prompt",
        "--separator '' makes one prompt of each paragraph",
        ("separator", ""),
    ),
}
SKIPPABLE = sorted(name for name, kind in LINES.items() if kind.option == ("skip", name))

_BULLETS = r"[-*+>•\u2013\u2014\u2460-\u2473\u2610-\u2612]"
_NUMBER = rf"\(?\d{{1,4}}[.)\]:]|0\d{{1,3}}|\(?[a-z]\)|\[[ x]\]|{_BULLETS}"

# In this order, on lines without the blanks around them.
_SEPARATOR = re.compile(r"\s*([-=*_~#+.\u2013\u2014])(\s*\1){2,}\s*")
_OF_SIGNS = _compiled(
    ("separators", _SEPARATOR.pattern),
    ("json", r"([\[\]{}]|\},\s*\{|\[\s*[\[{\"].*|\"(?:[^\"\\]|\\.)*\"(\s*:.*|,)),?"),
    ("jsonl", r"\{\s*\".*"),
    ("markdown", r"(```|~~~).*|\|.*\|"),
    ("table", r"\"(?:[^\"]|\"\")*\"([,;](\"(?:[^\"]|\"\")*\"|[\w.:-]*))+|.*\t.*"),
    ("comments", r"#.*|//\s.*|/\*.*|<!--.*|[;%]\s.*"),
    ("headings", r"={2,}\s*\S.*=|\[[^\]]+\]|\*\*[^*]+\*\*:?|(?=.{1,60}$)\d.*:"),
    ("numbering", rf"({_NUMBER}|/imagine(\s+prompt:)?)\s+\S.*"),
)
_LABELS = re.compile(
    r"(prompt|scene|shot|image|panel|page|chapter|part|frame|section|act)\s*#?(\d*)"
    r"([.:)]\s+(\S)|[.)]?$)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[A-Za-z]\)\s+\S|[a-z]\.\s+\S")
_LONGEST_HEADING = 60  # characters
_LONGEST_HEADER = 10
_MARKER = re.compile(
    rf"\s*({_NUMBER}|[a-z]\.|/imagine(\s+prompt:)?|(prompt|scene|shot|image|panel|page|frame)\s*#?\d*[.:)])\s+",
    re.IGNORECASE,
)
_OPTIONS = re.compile(
    r"(?:^|\s)--(prompt|negative[_-]prompt|seed|ar|aspect([_-]ratio)?|width|height|[whWHsvq]|no|iw"
    r"|steps|cfg([_-]scale)?|scale|style|stylize|quality|niji|chaos|tile|model|size)(?=[\s=]|$)"
)
# Lines that programs write beside a prompt, and tags in it.
_PARAMETERS = re.compile(
    r"^((negative([ _-]?prompt)?|sampler|cfg([ _-]scale)?)\s*[:=]\s*\S"
    r"|(steps|seed|size|width|height|aspect[ _-]ratio)\s*[:=]\s*\d)",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(r"<(lora|lyco|hypernet):[^>]*>", re.IGNORECASE)
_ONLY_FILE = re.compile(
    r"(https?://\S+|[^\s|;]+\.(png|jpe?g|webp|heic|gif))(\s*[|,;:]\s*\S.*)?", re.IGNORECASE
)
_CHOICES = re.compile(r"\{[^{}]*\|[^{}]*\}")
_WILDCARD = re.compile(r"(?<!\w)__[A-Za-z][\w/ -]*__(?!\w)")
_FIELD = re.compile(r"\{\s*[^\W\d]\w*\s*\}|\[[A-Z][A-Z_ ]+[A-Z]\]")
_LONGEST_PARAGRAPH = 50  # lines: what has more is a list
_CELL = re.compile(r"[\w .-]{1,30}")
_ROW = re.compile(r".*[^\d\s][,;]\d{1,9}")  # a fox,1
_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif")

# Words that a sentence goes on with, but seldom begins with.
_CONNECTIVES = frozenset(
    "and or but with without in on at of by from to for under over beneath behind beside near into "
    "onto through while where which who whose that as stands sits is are was wearing".split()
)


def kind_of_line(text: str, is_first: bool = False) -> str | None:
    """Return what a line of text looks like, other than a prompt; usually None.

    Args:
        text: The line; not blank.
        is_first: Whether it is the first of its file, where a table has its header.
    """
    text = text.strip()
    if is_first and (kind := _kind_of_header(text)):
        return kind
    if ("." in text or "://" in text) and (found := _ONLY_FILE.fullmatch(text)):
        return "table" if found[3] else "headings"
    if text[0].isalpha():
        return _kind_of_words(text)
    return next((kind for kind, pattern in _OF_SIGNS if pattern.fullmatch(text)), None)


def _kind_of_words(text: str) -> str | None:
    if "\t" in text or (text[-1].isdigit() and _ROW.fullmatch(text)) or _is_header(text):
        return "table"
    if text[-1] == ":" and len(text) <= _LONGEST_HEADING:
        return "headings"
    if _LETTER.match(text):
        return "numbering"
    if (label := _LABELS.match(text)) is None or not (label[2] or label[1].lower() == "prompt"):
        return None
    return "numbering" if label[4] else "headings"


def _is_header(text: str) -> bool:
    """Return whether a line names columns, one of them the prompt."""
    if len(text) > _LONGEST_HEADING or "prompt" not in text.lower():
        return False
    cells = [cell.strip().strip('"') for cell in re.split(r"[,;\t|]", text)]
    return len(cells) > 1 and "prompt" in map(canonical, cells) and all(map(_CELL.fullmatch, cells))


def _kind_of_header(text: str) -> str | None:
    if text.lower().startswith("sep="):
        return "table"
    cells = [cell.strip().strip('"') for cell in re.split(r"[,;\t|]|\s{2,}", text)]
    if len(cells) == 1:
        return "headings" if bare(text) in ("prompt", "prompts") else None
    is_header = all(map(_CELL.fullmatch, cells))
    return "table" if is_header and {canonical(cell) for cell in cells} & FIELDS else None


def kind_of_prompt(text: str) -> str | None:
    """Return what a prompt has in it that is not for drawing; usually None."""
    if len(text) < _LONGEST_HEADER and bare(text) in ("prompt", "prompts", "total"):
        return "headings"
    if text.startswith(("# ", "// ")) and "\n" not in text:
        return "comments"
    is_of_others = ("--" in text and _OPTIONS.search(text)) or ("<" in text and _TAG.search(text))
    if is_of_others or _PARAMETERS.match(text) or ("\n" in text and _PARAMETERS.search(text)):
        return "options"
    if "|" in text and _CHOICES.search(text):
        return "choices"
    if ("__" in text and _WILDCARD.search(text)) or (
        ("{" in text or "[" in text) and _FIELD.search(text)
    ):
        return "wildcards"
    return None if text[-1:].isalnum() or not _SEPARATOR.fullmatch(text) else "separators"


class _Paragraphs:
    """Tells paragraphs that were wrapped into lines from groups of prompts, by their lines alone.

    Both are separated by blank lines. A line that goes on with what the one before began with is
    no prompt of its own.
    """

    def __init__(self) -> None:
        self._last = 0  # line
        self._before = ""
        self._blocks = 0
        self._size = 0  # of the last one, in lines
        self._further = 0  # lines that are not the first of their paragraph
        self._continued = 0
        self._start = (0, "")
        self.many = 0  # paragraphs of several lines
        self.first = (0, "")  # of them

    def add(self, number: int, text: str) -> None:
        """Take the next line that is not blank."""
        if number != self._last + 1 or not self._blocks:
            self._blocks, self._size = self._blocks + 1, 1
            self._start = (number, text)
        elif self._size < _LONGEST_PARAGRAPH:
            self._further += 1
            self._continued += self._goes_on(text.strip())
            if self._size == 1:
                self.many += 1
                self.first = self.first if self.first[0] else self._start
            self._size += 1
        self._last, self._before = number, text

    def _goes_on(self, text: str) -> bool:
        if not text[0].islower():
            return False
        before = self._before.rstrip()
        if before[-1] in ",;" or self._start[1].lstrip()[0].isupper():
            return True
        return text.split(maxsplit=1)[0] in _CONNECTIVES or before.split()[-1] in _CONNECTIVES

    @property
    def are_likely(self) -> bool:
        """Whether the lines so far are of paragraphs."""
        return (
            self._blocks > 1
            and 2 * self.many >= self._blocks
            and (4 * self._continued >= self._further > 0)
        )


# What was found


@dataclass(frozen=True, slots=True)
class Doubt:
    """What may not be what it was taken for.

    Attributes:
        file: Of its rows.
        kind: One of LINES, or ``column`` and the name of a column.
        text: On one line: where and what it is, an example, and what to do.
        count: How many rows there are of it.
        option: The option that mends it, None where there is none.
    """

    file: str
    kind: str
    text: str
    count: int
    option: Option | None


class Doubts:
    """What is doubtful in the rows of an input, and what they were understood to be.

    Args:
        strict: Whether a doubt is an error of its row: rows of standard input are paid for before
            the next ones are known.

    Attributes:
        columns: What each column was read as: a field, ``"metadata"`` or ``"secret"``.
        notes: Decisions that cost nothing, on a line each.
        skipped: Number of lines left out, by kind.
        repeats: How many prompts are the same as an earlier one, with the place of the first.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._texts: dict[tuple[str, str], Callable[[int], str]] = {}
        self._options: dict[tuple[str, str], Option | None] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seen: set[int] = set()
        self.columns: dict[str, str] = {}
        self.notes: dict[str, None] = {}
        self.skipped: Counter[str] = Counter()
        self.repeats: tuple[int, str] = (0, "")

    def __iter__(self) -> Iterator[Doubt]:
        for (file, kind), text in self._texts.items():
            count = self._counts[file, kind]
            yield Doubt(file, kind, text(count), count, self._options[file, kind])

    def add(
        self,
        file: str,
        number: int,
        kind: str,
        text: Callable[[int], str],
        option: Option | None,
        count: int = 1,
    ) -> None:
        """Count a row that is doubtful.

        Args:
            file: Its file.
            number: Of its line.
            kind: As for a Doubt.
            text: Makes the text of the doubt out of the number of such rows, without the place.
            option: As for a Doubt.
            count: How many such rows there are.

        Raises:
            ValueError: If a doubt is an error.
        """
        if self._strict:
            name = kind.removeprefix("column ")
            raise ValueError(f"{text(1)}; --literal {name} takes it as it is")
        if (file, kind) not in self._texts and len(self._texts) < _MOST_DOUBTS:
            self._texts[file, kind] = lambda count: f"{file}:{number}: {text(count)}"
            self._options[file, kind] = option
        self._counts[file, kind] += count

    def understood(self, file: str, columns: Columns) -> None:
        """Note what columns are read as."""
        for name, each in columns.fields.items():
            if len(self.columns) < _MOST_COLUMNS:
                kept = "metadata" if name in columns.metadata else each
                self.columns[name] = "secret" if name in columns.secret else kept
        if columns.accepted is not None:
            self.note(f'{file}: the column "{short(columns.accepted)}" is read as the prompt')
        for name in sorted(columns.secret):
            self.note(_dropped(file, name))

    def note(self, text: str) -> None:
        """Remember a decision, once."""
        if len(self.notes) < _MOST_DOUBTS:
            self.notes[text] = None

    def repeated(self, prompt: Sequence[object], file: str, number: int) -> None:
        """Count a prompt with its settings if an earlier one was the same."""
        try:
            mark = hash(tuple(prompt))
        except TypeError:  # it has a list of input images
            mark = hash(repr(prompt))
        if mark in self._seen:
            repeats, first = self.repeats
            self.repeats = (repeats + 1, first or f"{file}:{number}")
        elif len(self._seen) < _MOST_REMEMBERED:
            self._seen.add(mark)


def tell_of_bytes(
    file: str,
    reading: Reading | None,
    note: Callable[[str], object],
    doubts: Doubts | None,
    name: str,
) -> None:
    """Tell of a column that has bytes, and is not read: its name may say that it is to be sent."""
    literal = Reading().literal if reading is None else reading.literal
    if doubts is None or near(name) != "images" or {"all", name} & literal:
        note(f"{file}: the column {name} has bytes and is ignored")
        return
    shown = short(name)
    text = (
        f'the column "{shown}" has bytes, and is not sent as an input image: write them to files, '
        f"and name those in it; --literal {shown} leaves it out"
    )
    doubts.add(file, 1, f"column {name}", lambda _: text, None)


class RowInspector:
    """Looks at the rows of one file as they are read, and makes of them what a Reading says.

    Args:
        file: Its name, or that of standard input.
        folder: Base of the relative paths in it.
        recipe: How its rows become prompts, and what the user has said of them.
        is_text: Whether its rows are lines of text, each a prompt.

    Attributes:
        has_changed: Whether a row so far, or a header, is read otherwise than it is in the file.
    """

    def __init__(self, file: str, folder: Path, recipe: Recipe, *, is_text: bool) -> None:
        self._file, self._folder, self._is_text = file, folder, is_text
        self._recipe = recipe
        self._is_inert = recipe.reading is None
        reading = recipe.reading or Reading()
        self._used = recipe.used
        self._mended = frozenset(reading.answers.get(os.path.normpath(file), ()))
        self._skip = reading.skip | self._mended
        self._literal, self._given = reading.literal, dict(reading.columns)
        self._takes_all = "all" in reading.literal
        self._secret: set[str] = set()  # columns that have had a key in them
        self._columns = lru_cache(maxsize=_MOST_COLUMNS)(self._columns_of)
        self._last: Columns | None = None
        self._paragraphs = _Paragraphs()
        self._is_first = True
        self.has_changed = False

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse a table that lacks a field, whatever its columns are called.

        Raises:
            ValueError: As Recipe.check_names, or if two columns would be one field.
        """
        if not self._is_inert:
            columns = self._columns(tuple(names))
            self.has_changed = not columns.is_plain
            names = list(columns.fields.values())
        self._recipe.check_names(names)

    def taken(self, rows: Rows, doubts: Doubts | None, is_full: Callable[[], bool]) -> Rows:
        """Return rows as they are to be read, without those that are left out.

        A row is its error where two of its columns are one field, or doubts are errors.

        Args:
            rows: As they are in the file.
            doubts: Gets what is doubtful, and what was understood; None where that is known.
            is_full: Whether no further row is wanted: those that follow raise no doubt.
        """
        if self._is_inert or (self._is_text and doubts is None and not self._skip):
            return rows
        return self._taken(rows, doubts, is_full)

    def _taken(self, rows: Rows, doubts: Doubts | None, is_full: Callable[[], bool]) -> Rows:
        take = self._line if self._is_text else self._row
        for number, row in rows:
            if doubts is not None and is_full():
                self._end(doubts)
                doubts = None
            try:
                taken = row if isinstance(row, ValueError) else take(number, row, doubts)
            except ValueError as error:
                taken = error
            if taken is not row:
                self.has_changed = True
            if taken is not None:
                yield number, taken
        self._end(doubts)

    def _end(self, doubts: Doubts | None) -> None:
        """Tell what only shows when all rows have been seen."""
        if doubts is not None and self._paragraphs.are_likely:
            number, text = self._paragraphs.first
            self._doubt_line(number, "paragraphs", text, doubts, self._paragraphs.many)

    # Lines of text

    def _line(self, number: int, fields: Fields, doubts: Doubts | None) -> Fields | None:
        text: str = fields["prompt"]
        kind = kind_of_line(text, self._is_first)
        self._is_first = False
        # What is behind a number may be doubtful itself.
        inside = kind_of_prompt(text) if kind in (None, "numbering") else None
        for each in filter(None, (inside, kind)):
            if each not in self._skip:
                if doubts is not None:
                    self._doubt_line(number, each, text, doubts)
                continue
            if doubts is not None:
                doubts.skipped[each] += 1
            if each != "numbering":
                return None
            fields = {"prompt": _MARKER.sub("", text, 1)}
        if doubts is not None:
            self._paragraphs.add(number, text)
            doubts.repeated((fields["prompt"],), self._file, number)
        return fields

    def _doubt_line(
        self, number: int, kind: str, text: str, doubts: Doubts, count: int = 1
    ) -> None:
        if self._takes_all or kind in self._literal:
            return
        known, example = LINES[kind], short(text.strip())

        def told(count: int) -> str:
            more = f" ({count:,} such lines)" if count > 1 else ""
            return f"{known.what}: {example}{more}; {known.advice}"

        doubts.add(self._file, number, kind, told, known.option, count)

    # Rows of a table, and objects

    def _columns_of(self, names: tuple[str, ...]) -> Columns:
        literal = names if self._takes_all else self._literal
        columns = Columns.of(names, self._used, self._given, literal)
        mended = {bare(n): f for n, f in columns.near.items() if f"column {n}" in self._mended}
        for name in columns.metadata:  # whose values told that they are images
            if f"column {name}" in self._mended:
                mended.setdefault(bare(name), "images")
        return Columns.of(names, self._used, self._given | mended, literal) if mended else columns

    def _row(self, number: int, fields: Fields, doubts: Doubts | None) -> Fields | None:
        columns = self._columns(tuple(fields))
        if doubts is not None:
            if columns is not self._last:
                self._last = columns
                doubts.understood(self._file, columns)
            what = [fields[name] for name in columns.of_image]
            doubts.repeated(what, self._file, number)
        if not self._takes_all:
            for name in columns.metadata:
                value = fields[name]
                if name in columns.odd or _is_telling(value):
                    self._look_at_value(number, name, value, columns, doubts)
        if columns.is_plain and not self._secret:
            return self._kept(number, fields, doubts)
        taken: Fields = {}
        for name, value in fields.items():
            if name in columns.secret or name in self._secret:
                continue
            each = columns.fields[name]
            taken[each] = joined(taken[each], value) if each in taken else value
        return self._kept(number, taken, doubts)

    def _kept(self, number: int, fields: Fields, doubts: Doubts | None) -> Fields | None:
        """Return a row, None if a prompt like its own is left out."""
        for name in self._used if self._skip or doubts is not None else ():
            value = fields.get(name)
            if type(value) is not str or (kind := kind_of_prompt(value)) is None:
                continue
            if kind in self._skip:
                if doubts is not None:
                    doubts.skipped[kind] += 1
                return None
            if doubts is not None:
                self._doubt_line(number, kind, value, doubts)
        return fields

    def _look_at_value(
        self, number: int, name: str, value: object, columns: Columns, doubts: Doubts | None
    ) -> None:
        first = value[0] if type(value) is list and value else value
        if first is None or first == "" or name in self._literal or name in self._secret:
            return
        if _has_secret(value):
            self._secret.add(name)
            if doubts is not None:
                doubts.columns[name] = "secret"
                doubts.note(_dropped(self._file, name))
        elif doubts is not None and (
            name in columns.near or unsupported(name) or self._is_image(first)
        ):
            self._doubt_column(number, name, first, columns.near.get(name), doubts)

    def _is_image(self, value: object) -> bool:
        if type(value) is not str or not value.lower().endswith(_IMAGE_NAMES):
            return False
        return len(value) < _LONGEST_PATH and (self._folder / value.strip()).is_file()

    def _doubt_column(
        self, number: int, name: str, value: object, setting: str | None, doubts: Doubts
    ) -> None:
        if setting == "n" and not _COUNT.fullmatch(str(value).strip()):
            return
        is_image = setting in (None, "images") and self._is_image(value)
        why = None if is_image or setting else unsupported(name)
        setting = "images" if is_image else setting
        shown = short(name)
        if is_image:
            what = f'the column "{shown}" holds paths of images'
        else:
            what = f'the column "{shown}" is no setting'
        advice = f"--map {setting}={shown} reads it as {setting}"
        advice = f"{why}; --literal {shown} keeps it as metadata" if why else advice

        def told(count: int) -> str:
            return f"{what}: {found(value)} ({count:,} {'row' if count == 1 else 'rows'}); {advice}"

        option = None if why else ("map", f"{setting}={name}")
        doubts.add(self._file, number, f"column {name}", told, option)


_COUNT = re.compile(r"[1-9]\d{0,2}(\.0)?|1000")
_LONGEST_PATH = 1000  # characters


def _is_telling(value: object) -> bool:
    """Return whether a value may be a secret or a path of an image, which most are not."""
    if type(value) is str:
        return len(value) >= SHORTEST_SECRET or "." in value[-6:]
    return type(value) in (list, dict)


def _has_secret(value: object) -> bool:
    """Return whether a value looks like a key, or has one in it."""
    match value:
        case str():
            return len(value) >= SHORTEST_SECRET and is_secret(value)
        case list():
            return any(map(_has_secret, value))
        case dict():
            return any(
                _has_secret(each)
                or (is_secret_name(name) and type(each) is str and len(each) >= SHORTEST_SECRET)
                for name, each in value.items()
            )
    return False


def _dropped(file: str, name: str) -> str:
    return f'{file}: the column "{short(name)}" looks like a secret: it is not kept'
