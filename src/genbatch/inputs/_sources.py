"""Sources of prompts: files, and standard input.

A file is checked to its end before its first prompt is yielded, then read again, lazily: a mistake
in the last row costs nothing, and memory stays flat however long the file is.

Standard input is read by a thread of its own, one block at a time and only on request. That works
alike for pipes, terminals and files, on every system, and a cancellation need not wait for it. The
thread reads the descriptor, not ``sys.stdin``, whose lock the interpreter needs to exit, and it is
a daemon, which the threads of an event loop are not.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePath
from queue import SimpleQueue
from random import Random
from threading import Thread
from typing import IO, Any, Generic, NamedTuple, TypeVar

from anyio import to_thread

from genbatch._values import Prompt

from ._doubts import Doubts, RowInspector, tell_of_bytes
from ._formats import (
    BLOCK,
    Fields,
    InputError,
    Layout,
    Row,
    Rows,
    Source,
    check_encoding,
)
from ._recipe import Asked, Recipe, check_images
from ._recognize import A_PROMPT_A_FILE, Format, peek, recognize

T = TypeVar("T")

_MOST_ERRORS = 20  # shown of many


def _say_nothing(_: object) -> None:
    """Ignore a note."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which prompts of an input to use.

    Attributes:
        limit: Only the first limit prompts, None for all.
        sample: Of those, this many chosen at random, None for all.
        seed: Random seed for sample.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0


class Sample(Generic[T]):
    """A uniform random sample without replacement, drawn by reservoir sampling.

    Args:
        size: How many to choose; all, if fewer are offered.
        seed: The same seed makes the same choice among the same number of items.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size = size
        self._random = Random(seed)  # noqa: S311 - no secret
        self._seen = 0
        self._chosen: list[tuple[int, T]] = []

    @property
    def items(self) -> list[T]:
        """The items chosen so far, in the order in which they were offered."""
        return [item for _, item in sorted(self._chosen, key=lambda each: each[0])]

    def offer(self, number: int, items: Iterator[T]) -> None:
        """Offer number items; the iterator is consumed only up to the last one chosen."""
        passed = 0
        for offset in range(number):
            slot = self._slot(self._seen)
            if slot is not None:
                item = next(islice(items, offset - passed, None))
                passed = offset + 1
                self._chosen[slot : slot + 1] = [(self._seen, item)]
            self._seen += 1

    def _slot(self, index: int) -> int | None:
        """Return the place that an item takes among those chosen, None if it is not."""
        slot = index if index < self._size else int(self._random.random() * (index + 1))
        return slot if slot < self._size else None


class Tally:
    """Counts prompts row by row, checks what they ask for, and selects among them.

    Attributes:
        asked: Number of prompts counted, by what they ask of their model.
        count: Number of prompts, up to the limit; those beyond it are checked as well.
        sample: The prompts chosen, None if all are.
        doubts: What was doubtful in the rows, and what they were understood to be.
    """

    def __init__(self, selection: Selection, doubts: Doubts | None = None) -> None:
        self.doubts = doubts
        self._errors: list[str] = []
        self._refused = 0
        self.asked: dict[Asked, int] = {}
        self.count = 0
        self.sample: Sample[Prompt] | None = None
        if selection.sample is not None:
            self.sample = Sample(selection.sample, selection.seed)
        self._limit = sys.maxsize if selection.limit is None else selection.limit
        self._seeded: set[str | None] = set()  # models that take a seed
        self._worked_from: tuple[object, ...] = ()  # model and input images that were checked last

    @property
    def is_full(self) -> bool:
        """Whether no further prompt is wanted."""
        return self.count == self._limit

    def refuse(self, error: InputError) -> None:
        """Note a mistake of a row, or of all that is left of a file."""
        self._refused += 1
        if len(self._errors) < _MOST_ERRORS:
            self._errors.append(str(error))

    def check(self) -> None:
        """Raise what was refused, if anything was.

        Raises:
            InputError: With a line for each of the first mistakes, and how many there are.
        """
        if self._refused > len(self._errors):
            self._errors.append(f"{self._refused:,} mistakes; these are the first {_MOST_ERRORS}")
        elif self._refused > 1:
            self._errors.append(f"{self._refused} mistakes")
        if self._errors:
            raise InputError("\n".join(self._errors))

    def add(
        self, recipe: Recipe, fields: Fields, folder: Path
    ) -> tuple[dict[str, Any], Iterator[Prompt]]:
        """Read a row and count its prompts.

        Args:
            recipe: How it becomes prompts.
            fields: Fields of the row, by name.
            folder: Base of the relative paths of input images.

        Returns:
            The settings of the row, and those of its prompts that are wanted, as far as that is
            known: a sample is complete at the end only.

        Raises:
            ValueError: If a field is invalid, or a model does not support a setting.
        """
        settings = recipe.read(fields, folder)
        kinds = recipe.kinds(settings)
        number, room = 0, self._limit - self.count
        seed, images = recipe.seed_in(settings), settings.get("images")
        for asked, counted in kinds:
            if asked not in self.asked:
                recipe.check(*asked)
                self.asked[asked] = 0
            if images and (asked[0], images) != self._worked_from:  # else those of the row before
                recipe.check(*asked, seed, images)
                self._worked_from = (asked[0], images)
            elif seed is not None and asked[0] not in self._seeded:
                recipe.check(*asked, seed)
                self._seeded.add(asked[0])
            number += counted
        if number > room:
            number = room
            wanted = islice(recipe.prompts(fields, settings), room)
            kinds = [((each.model, each.aspect_ratio, each.image_size), 1) for each in wanted]
        for asked, counted in kinds:
            self.asked[asked] += counted
        self.count += number
        prompts = islice(recipe.prompts(fields, settings), number)
        if self.sample is None:
            return settings, prompts
        self.sample.offer(number, prompts)
        return settings, iter(())


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """The prompts of files that were found valid; each iteration reads the files anew.

    Attributes:
        parts: The prompts of each file.
        count: How many there are, up to the limit.
        asked: What those ask of their models, and how many ask for it.
        source: The files, and the part of them that was chosen.
        input_positions: Where each of them is in the whole input; None where they are all of it.

    Raises:
        ValueError: While iterating, if a file has changed since it was checked.
    """

    parts: Sequence[Iterable[Prompt]]
    count: int
    asked: Mapping[Asked, int]
    source: str = ""
    input_positions: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        return islice(chain.from_iterable(self.parts), self.count)


def read_prompts(
    paths: Iterable[str | Path],
    recipe: Recipe | None = None,
    *,
    encoding: str = "utf-8",
    layout: Layout | None = None,
    selection: Selection | None = None,
    note: Callable[[str], object] = _say_nothing,
    doubts: Doubts | None = None,
) -> PromptFiles | list[Prompt]:
    """Check prompt files and return their prompts.

    Args:
        paths: Files, and directories of .txt files with a prompt each. Where there is none, the
            prompts are those that the template and the grid of the recipe make by themselves.
        recipe: How rows become prompts.
        encoding: Encoding of the files.
        layout: How to read them, where their names and contents do not say.
        selection: Which prompts to return; the rest is checked all the same.
        note: Called with what the user should know of a file, such as a column that is ignored.
        doubts: Gets what is doubtful in the rows, and what they were understood to be.

    Returns:
        The prompts in order, sized and iterable again. A sample is in memory, and so is a pipe.

    Raises:
        ValueError: If a format or the encoding is unknown, or rows are invalid.
        OSError: If a file cannot be read.
    """
    recipe = recipe or Recipe()
    selection = selection or Selection()
    paths = list(paths)
    layout = replace(layout or Layout(), encoding=check_encoding(encoding))
    files = [file for path in paths for file in _files(Path(path), recipe, layout)]
    tally = Tally(selection, doubts)
    parts = [file.check(tally, note) for file in files]
    tally.check()
    if not files:
        settings, _ = tally.add(recipe, {}, Path())
        parts = [_Made(recipe, settings)]
    if tally.sample is not None:
        return tally.sample.items
    chosen = [] if selection.limit is None else [str(selection.limit)]
    source = json.dumps([*(os.path.abspath(path) for path in paths), *chosen]) if files else ""
    return PromptFiles(parts, tally.count, tally.asked, source)


def _files(path: Path, recipe: Recipe, layout: Layout) -> list[PromptFile]:
    """Return the one file at a path, or those of a directory in natural order.

    Raises:
        OSError: If a directory has none.
    """
    if not path.is_dir():
        return [PromptFile(path, recipe, layout)]
    found = [
        PromptFile(each, recipe, layout, A_PROMPT_A_FILE)
        for each in sorted(path.iterdir(), key=_natural)
        if each.suffix.lower() == ".txt" and each.name[0] != "." and each.is_file()
    ]
    if not found:
        reason = f"{os.strerror(errno.EISDIR)} without .txt files"
        raise IsADirectoryError(errno.EISDIR, reason, str(path))
    return found


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return the key by which 2.txt comes before 10.txt."""
    pieces = re.split(r"([0-9]+)", path.stem.casefold())
    numbered = ((int(each), "") if each.isdecimal() else (-1, each) for each in pieces)
    return list(numbered), path.name


@dataclass(frozen=True, slots=True)
class _Made:
    """The prompts that a template and a grid make without a file."""

    recipe: Recipe
    settings: Mapping[str, Any]

    def __iter__(self) -> Iterator[Prompt]:
        return self.recipe.prompts({}, self.settings)


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The prompts of one file; each iteration reads it anew.

    Attributes:
        path: The file.
        recipe: How its rows become prompts.
        layout: How it is to be read.
        format: Its format; None to recognize it.
        stamp: Identity, size and time of change when it was checked.

    Raises:
        ValueError: While iterating, if the file has changed since.
    """

    path: Path
    recipe: Recipe
    layout: Layout
    format: Format | None = None
    stamp: tuple[int, ...] = ()

    def check(self, tally: Tally, note: Callable[[str], object]) -> Iterable[Prompt]:
        """Read the file once, and return its prompts, unless they are sampled.

        Args:
            tally: Counts the prompts, and gets what is wrong with rows.
            note: Called with what the user should know.

        Raises:
            OSError: If the file cannot be read.
        """
        kept: list[Prompt] = []
        with self.path.open("rb", buffering=0) as file:
            found = replace(self, stamp=_stamp(file))
            is_pipe = not _is_file(file)
            try:
                opened = found._open(file, note, tally.doubts, lambda: tally.is_full)
                for prompts in found._rows(file, opened, tally):
                    if is_pipe:  # gives its content once only
                        kept += prompts
                if not opened.inspector.has_changed:  # nor will it, when it is read again
                    found = replace(found, recipe=replace(self.recipe, reading=None))
            except InputError as error:
                tally.refuse(error)
        return kept if is_pipe else found

    def __iter__(self) -> Iterator[Prompt]:
        with self.path.open("rb", buffering=0) as file:
            for prompts in self._rows(file, self._open(file, _say_nothing)):
                yield from prompts

    def _open(
        self,
        file: IO[bytes],
        note: Callable[[str], object],
        doubts: Doubts | None = None,
        is_full: Callable[[], bool] = lambda: False,
    ) -> _Opened:
        kept = file if _is_file(file) else None
        blocks = self._blocks(file)
        source = _source(str(self.path), blocks, kept, self.layout, self.recipe, note, doubts)
        return _open(source, self.recipe, self.path.parent, doubts, is_full, self.format)

    def _rows(
        self, file: IO[bytes], opened: _Opened, tally: Tally | None = None
    ) -> Iterator[Iterator[Prompt]]:
        """Yield the prompts of each row, which are counted and checked where there is a tally."""
        recipe, folder = opened.recipe, self.path.parent
        for number, fields in opened.rows:
            try:
                if isinstance(fields, ValueError):
                    raise fields
                if tally is None:
                    prompts = recipe.prompts(fields, recipe.read(fields, folder))
                else:
                    settings, prompts = tally.add(recipe, fields, folder)
                    if images := settings.get("images"):
                        check_images(images, recipe.pending)
            except ValueError as error:
                bad = InputError(f"{self.path}:{number}: {error}")
                if tally is None:
                    raise bad from None
                tally.refuse(bad)
            else:
                yield prompts
        self._check_stamp(file)

    def _blocks(self, file: IO[bytes]) -> Iterator[bytes]:
        block = b"-"
        while block:
            block = file.read(BLOCK)
            self._check_stamp(file)
            yield block

    def _check_stamp(self, file: IO[bytes]) -> None:
        if _stamp(file) != self.stamp:
            raise InputError(f"{self.path}: changed since it was checked; run again")


def _source(
    name: str,
    blocks: Iterator[bytes],
    opened: IO[bytes] | None,
    layout: Layout,
    recipe: Recipe,
    note: Callable[[str], object],
    doubts: Doubts | None,
) -> Source:
    leave_out = partial(tell_of_bytes, name, recipe.reading, note, doubts)
    return Source(name, blocks, opened, layout, recipe.needed, recipe.check_names, note, leave_out)


class _Opened(NamedTuple):
    """Rows that are being read, how they become prompts, and what looks at them."""

    rows: Rows
    recipe: Recipe
    inspector: RowInspector


def _open(
    source: Source,
    recipe: Recipe,
    folder: Path,
    doubts: Doubts | None,
    is_full: Callable[[], bool],
    known: Format | None = None,
) -> _Opened:
    """Return the rows of an input in its format, and how they become prompts."""
    head, blocks = peek(source.blocks)
    source = replace(source, blocks=blocks)
    known = recognize(source, head, known)
    column = recipe.column if known.has_fields else "prompt"  # what a line of text is called
    settings = {**recipe.settings, "source": PurePath(source.name).stem}
    recipe = replace(recipe, column=column, settings=settings)
    inspector = RowInspector(source.name, folder, recipe, is_text=not known.has_fields)
    source = replace(source, check_names=inspector.check_names)
    return _Opened(inspector.taken(known.read(source), doubts, is_full), recipe, inspector)


def _check_images(recipe: Recipe, images: Sequence[str | Path]) -> None:
    """Check the input images of a row, and fetch what is pending; this blocks."""
    for path in images:
        if isinstance(path, Path) and path in recipe.pending:
            recipe.fetch(path)
    check_images(images)


def _is_file(file: IO[bytes]) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _stamp(file: IO[bytes]) -> tuple[int, ...]:
    """Return the identity, size and time of change of a file; nothing for a pipe."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# Standard input

_NAME = "stdin"
_MOST_ROWS = 1000  # handed over at once


@dataclass(frozen=True, slots=True)
class StandardInput:
    """The prompts of standard input, each as soon as its line is complete; iterable once.

    Its format is recognized by its beginning: text with a prompt a line, if it is nothing else.

    Attributes:
        descriptor: File descriptor of standard input.
        recipe: How lines become prompts.
        encoding: Encoding of the text, as check_encoding returns it.
        selection: Which prompts to use; a sample is complete at the end only.
        layout: How it is to be read, where its beginning does not say.
        note: As for read_prompts.
        doubts: As for read_prompts.

    Raises:
        ValueError: While iterating, if a line is invalid.
        OSError: While iterating, if it cannot be read.

    Cancellation: ends a wait for the next line at once.
    """

    descriptor: int
    recipe: Recipe = field(default_factory=Recipe)
    encoding: str = "utf-8"
    selection: Selection = field(default_factory=Selection)
    layout: Layout = field(default_factory=Layout)
    note: Callable[[str], object] = _say_nothing
    doubts: Doubts | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the prompts are typed."""
        return os.isatty(self.descriptor)

    async def __aiter__(self) -> AsyncGenerator[Prompt]:
        tally = Tally(self.selection)
        async with aclosing(self._rows()) as rows:
            async for recipe, number, fields in rows:
                try:
                    if isinstance(fields, ValueError):
                        raise fields
                    settings, prompts = tally.add(recipe, fields, Path())
                    if images := settings.get("images"):
                        await to_thread.run_sync(_check_images, recipe, images)
                except ValueError as error:
                    raise InputError(f"{_NAME}:{number}: {error}") from None
                for prompt in prompts:
                    yield prompt
                if tally.is_full:
                    break
        for prompt in tally.sample.items if tally.sample else ():
            yield prompt

    async def _rows(self) -> AsyncGenerator[tuple[Recipe, int, Fields | ValueError]]:
        """Yield the rows that a thread reads, and how they become prompts."""
        reader = _Reader(self)
        Thread(target=reader.run, name="genbatch stdin", daemon=True).start()
        batch = _Batch(self.recipe)
        try:
            while not batch.is_last:
                reader.asked.put(True)
                batch = await to_thread.run_sync(reader.batches.get, abandon_on_cancel=True)
                for number, fields in batch.rows:
                    yield batch.recipe, number, fields
                if batch.error is not None:
                    raise batch.error
        finally:
            reader.asked.put(False)
            reader.batches.put(batch)  # for a thread that a cancellation has left waiting


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that were read together, and what ended the reading, if anything did."""

    recipe: Recipe
    rows: Sequence[Row] = ()
    error: Exception | None = None
    is_last: bool = False


class _Left(Exception):
    """Ends a thread that nobody asks for more."""


class _Reader:
    """Reads standard input in a thread, no further than it is asked to."""

    def __init__(self, source: StandardInput) -> None:
        self.asked: SimpleQueue[bool] = SimpleQueue()
        self.batches: SimpleQueue[_Batch] = SimpleQueue()
        self._descriptor = source.descriptor
        self._recipe = source.recipe
        self._layout = replace(source.layout, encoding=source.encoding)
        self._note = source.note
        self._doubts = source.doubts
        self._rows: list[Row] = []
        self._taken = 0
        self._limit = source.selection.limit

    def run(self) -> None:
        """Read until the end, or until nobody asks for more."""
        error: Exception | None = None
        try:
            self._wait()
            recipe, doubts = self._recipe, self._doubts
            source = _source(_NAME, self._blocks(), None, self._layout, recipe, self._note, doubts)
            opened = _open(source, recipe, Path(), doubts, self._is_full)
            self._recipe = opened.recipe
            for row in opened.rows:
                self._taken += 1
                self._rows.append(row)
                if len(self._rows) == _MOST_ROWS:
                    self._hand_over()
        except _Left:
            return
        except Exception as caught:  # noqa: BLE001 - raised where the rows are awaited
            error = caught
        self.batches.put(_Batch(self._recipe, self._rows, error, is_last=True))

    def _is_full(self) -> bool:
        return self._limit is not None and self._taken >= self._limit  # a prompt a row at least

    def _blocks(self) -> Iterator[bytes]:
        while block := os.read(self._descriptor, BLOCK):
            yield block
            self._hand_over()
        yield b""

    def _hand_over(self) -> None:
        self.batches.put(_Batch(self._recipe, self._rows))
        self._rows = []
        self._wait()

    def _wait(self) -> None:
        if not self.asked.get():
            raise _Left
