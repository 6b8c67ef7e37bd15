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
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from random import Random
from threading import Thread
from typing import IO, Any, Generic, TypeVar

from anyio import to_thread

from genbatch._values import Prompt

from ._formats import (
    BLOCK,
    FORMATS,
    Fields,
    InputError,
    Lines,
    check_encoding,
    read_object,
    read_text,
)
from ._recipe import Asked, Recipe, check_images

T = TypeVar("T")

SUPPORTED = (
    ".txt (one prompt per line), .jsonl (one JSON object per line),"
    " .csv or .tsv (a column named prompt), and - for standard input"
)


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
    """

    def __init__(self, selection: Selection) -> None:
        self.asked: dict[Asked, int] = {}
        self.count = 0
        self.sample: Sample[Prompt] | None = None
        if selection.sample is not None:
            self.sample = Sample(selection.sample, selection.seed)
        self._limit = sys.maxsize if selection.limit is None else selection.limit

    @property
    def is_full(self) -> bool:
        """Whether no further prompt is wanted."""
        return self.count == self._limit

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
        for asked, _ in kinds:
            if asked not in self.asked:
                recipe.check(*asked)
                self.asked[asked] = 0
        number, room = sum(number for _, number in kinds), self._limit - self.count
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

    Raises:
        ValueError: While iterating, if a file has changed since it was checked.
    """

    parts: Sequence[Iterable[Prompt]]
    count: int
    asked: Mapping[Asked, int]
    source: str = ""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        return islice(chain.from_iterable(self.parts), self.count)


def read_prompts(
    paths: Iterable[str | Path],
    recipe: Recipe | None = None,
    *,
    encoding: str = "utf-8",
    selection: Selection | None = None,
) -> PromptFiles | list[Prompt]:
    """Check prompt files and return their prompts.

    Args:
        paths: Files, whose extensions name their formats. Where there is none, the prompts are
            those that the template and the grid of the recipe make by themselves.
        recipe: How rows become prompts.
        encoding: Encoding of the files.
        selection: Which prompts to return; the rest is checked all the same.

    Returns:
        The prompts in their order: sized, and iterable as often as you like. A sample is in memory,
        and so is what comes out of a named pipe.

    Raises:
        ValueError: If an extension or the encoding is unknown, or a row is invalid.
        OSError: If a file cannot be read.
    """
    recipe = recipe or Recipe()
    selection = selection or Selection()
    paths = list(paths)
    encoding = check_encoding(encoding)
    files = [PromptFile.of(path, recipe, encoding) for path in map(Path, paths)]
    tally = Tally(selection)
    parts = [file.check(tally) for file in files]
    if not files:
        settings, _ = tally.add(recipe, {}, Path())
        parts = [_Made(recipe, settings)]
    if tally.sample is not None:
        return tally.sample.items
    chosen = [] if selection.limit is None else [str(selection.limit)]
    source = json.dumps([*(os.path.abspath(path) for path in paths), *chosen]) if files else ""
    return PromptFiles(parts, tally.count, tally.asked, source)


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
        encoding: Encoding of its text.
        stamp: Identity, size and time of change when it was checked.

    Raises:
        ValueError: While iterating, if the file has changed since.
    """

    path: Path
    recipe: Recipe
    encoding: str
    stamp: tuple[int, ...] = ()

    @classmethod
    def of(cls, path: Path, recipe: Recipe, encoding: str) -> PromptFile:
        """Return a file that has yet to be checked.

        Raises:
            ValueError: If its extension is unknown.
            OSError: If it is a directory.
        """
        suffix = path.suffix.lower()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if suffix not in FORMATS:
            found = f"unknown extension {path.suffix!r}" if path.suffix else "no extension"
            raise ValueError(f"{path}: {found}; supported are {SUPPORTED}")
        if suffix == ".txt":
            recipe = replace(recipe, column="prompt")  # what a line of text is called
        return cls(path, recipe, encoding)

    def check(self, tally: Tally) -> Iterable[Prompt]:
        """Read the file once, and return its prompts, unless they are sampled.

        Raises:
            ValueError: If a row is invalid.
            OSError: If the file cannot be read.
        """
        kept: list[Prompt] = []
        with self.path.open("rb", buffering=0) as file:
            found = replace(self, stamp=_stamp(file))
            is_pipe = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            for prompts in found._rows(file, tally):
                if is_pipe:  # gives its content once only
                    kept += prompts
        return kept if is_pipe else found

    def __iter__(self) -> Iterator[Prompt]:
        with self.path.open("rb", buffering=0) as file:
            for prompts in self._rows(file, None):
                yield from prompts

    def _rows(self, file: IO[bytes], tally: Tally | None) -> Iterator[Iterator[Prompt]]:
        """Yield the prompts of each row, which are counted and checked where there is a tally."""
        name, folder = str(self.path), self.path.parent
        rows = FORMATS[self.path.suffix.lower()]
        for number, fields in rows(self._lines(file), name, self.recipe.check_names):
            try:
                if tally is None:
                    prompts = self.recipe.prompts(fields, self.recipe.read(fields, folder))
                else:
                    settings, prompts = tally.add(self.recipe, fields, folder)
                    check_images(settings.get("images", ()))
            except ValueError as error:
                raise InputError(f"{name}:{number}: {error}") from None
            yield prompts

    def _lines(self, file: IO[bytes]) -> Iterator[str]:
        lines = Lines(str(self.path), self.encoding)
        block = b"-"
        while block:
            block = file.read(BLOCK)
            if _stamp(file) != self.stamp:
                raise InputError(f"{self.path}: changed since it was checked; run again")
            yield from lines.feed(block)


def _stamp(file: IO[bytes]) -> tuple[int, ...]:
    """Return the identity, size and time of change of a file; nothing for a pipe."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# Standard input

_NAME = "stdin"


@dataclass(frozen=True, slots=True)
class StandardInput:
    """The prompts of standard input, each as soon as its line is complete; iterable once.

    A line is a prompt. Where the first one begins with a brace, each is a JSON object.

    Attributes:
        descriptor: File descriptor of standard input.
        recipe: How lines become prompts.
        encoding: Encoding of the text, as check_encoding returns it.
        selection: Which prompts to use; a sample is complete at the end only.

    Raises:
        ValueError: While iterating, if a line is invalid.
        OSError: While iterating, if it cannot be read.

    Cancellation: ends a wait for the next line at once.
    """

    descriptor: int
    recipe: Recipe = field(default_factory=Recipe)
    encoding: str = "utf-8"
    selection: Selection = field(default_factory=Selection)

    @property
    def is_terminal(self) -> bool:
        """Whether the prompts are typed."""
        return os.isatty(self.descriptor)

    async def __aiter__(self) -> AsyncGenerator[Prompt]:
        rows = _Rows(self)
        async with aclosing(_blocks(self.descriptor)) as blocks:
            async for block in blocks:
                for prompt in rows.feed(block):
                    if prompt.images:
                        await to_thread.run_sync(rows.check_images, prompt)
                    yield prompt
                if rows.tally.is_full:
                    break
        for prompt in rows.tally.sample.items if rows.tally.sample else ():
            yield prompt


class _Rows:
    """Makes prompts of blocks of bytes."""

    def __init__(self, source: StandardInput) -> None:
        self.tally = Tally(source.selection)
        self._lines = Lines(_NAME, source.encoding)
        self._recipe = source.recipe
        self._read: Callable[[str], Fields | None] | None = None  # decided by the first line

    def feed(self, block: bytes) -> Iterator[Prompt]:
        """Yield the prompts of the lines now complete; an empty block ends the last one."""
        for line in self._lines.feed(block):
            if not line.strip():
                continue
            try:
                prompts = self._prompts(line)
            except ValueError as error:
                raise self._error(error) from None
            yield from prompts
            if self.tally.is_full:
                return

    def check_images(self, prompt: Prompt) -> None:
        """Check the input images of the prompt that feed has yielded last; this blocks."""
        try:
            check_images([Path(image) for image in prompt.images if not isinstance(image, bytes)])
        except ValueError as error:
            raise self._error(error) from None

    def _error(self, error: ValueError) -> InputError:
        return InputError(f"{_NAME}:{self._lines.number}: {error}")

    def _prompts(self, line: str) -> Iterable[Prompt]:
        if self._read is None:
            self._read = read_object if line.lstrip().startswith("{") else read_text
            if self._read is read_text:
                self._recipe = replace(self._recipe, column="prompt")
        return self.tally.add(self._recipe, self._read(line) or {}, Path())[1]


async def _blocks(descriptor: int) -> AsyncGenerator[bytes]:
    """Yield input as soon as it arrives, and an empty block at the end."""
    asked: SimpleQueue[bool] = SimpleQueue()
    blocks: SimpleQueue[bytes | OSError] = SimpleQueue()

    def read() -> None:
        while asked.get():
            try:
                blocks.put(os.read(descriptor, BLOCK))
            except OSError as error:
                blocks.put(error)

    Thread(target=read, name="genbatch stdin", daemon=True).start()
    block: bytes | OSError = b"-"
    try:
        while block:
            asked.put(True)
            block = await to_thread.run_sync(blocks.get, abandon_on_cancel=True)
            if isinstance(block, OSError):
                raise block
            yield block
    finally:
        asked.put(False)
        blocks.put(b"")  # for a thread that a cancellation has left waiting
