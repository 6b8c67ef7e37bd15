"""Standard input: prompts as a person types them, or as another program writes them.

A thread of its own reads, when it is asked to: a pipe, a terminal or a file alike, on every system,
and a cancellation does not wait for it. It reads the descriptor, not ``sys.stdin``, whose lock the
interpreter needs to exit, and is a daemon, which the threads of every event loop are not.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from anyio import to_thread

from genbatch._values import Prompt

from ._files import Selection, Tally
from ._formats import BLOCK, Fields, InputError, Lines, read_object, read_text
from ._recipe import Recipe, check_images

_NAME = "stdin"


@dataclass(frozen=True, slots=True)
class StandardInput:
    """The prompts of standard input, each as soon as its line is complete; iterable once.

    A line is a prompt. Where the first one begins with a brace, each is a JSON object.

    Attributes:
        descriptor: File descriptor of standard input.
        recipe: How lines become prompts.
        encoding: Encoding of the text, as check_encoding returns it.
        selection: Which prompts are wanted; a sample is complete at the end only.

    Raises:
        ValueError: While iterating, if a line is not what it should be.
        OSError: While iterating, if it cannot be read.

    Cancellation: ends a wait for the next line at once.
    """

    descriptor: int
    recipe: Recipe = field(default_factory=Recipe)
    encoding: str = "utf-8"
    selection: Selection = field(default_factory=Selection)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody is typing."""
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
        self._read: Callable[[str], Fields | None] | None = None  # known by the first line

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
