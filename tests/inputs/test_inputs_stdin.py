"""Standard input is read as it comes, off the event loop, and let go of at once."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import Prompt, stream
from genbatch.inputs import Grid, Recipe, Selection, StandardInput, Template
from genbatch.inputs._formats import BLOCK
from support.backends import until

pytestmark = pytest.mark.anyio


class Pipe:
    """A pipe that somebody writes prompts into."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def write(self, content: bytes | str) -> None:
        os.write(self._writer, content if isinstance(content, bytes) else content.encode())

    def close(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()
    for thread in readers():
        thread.join(60)
    assert not readers()
    os.close(pipe.reader)


def readers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "genbatch stdin"]


async def texts_of(pipe: Pipe, content: bytes | str, **options: Any) -> list[str]:
    pipe.write(content)
    pipe.close()
    return [prompt.text async for prompt in StandardInput(pipe.reader, **options)]


async def test_a_line_is_a_prompt(pipe: Pipe) -> None:
    content = "\ufeffa\u2028b\r\n\r\n{c}\nd"
    assert await texts_of(pipe, content) == ["a\u2028b", "{c}", "d"]


async def test_a_first_line_in_braces_makes_all_objects(pipe: Pipe) -> None:
    content = '\n {"prompt": "a", "n": 2, "id": "x"}\n\n{"prompt": "b"}'
    pipe.write(content)
    pipe.close()
    prompts = [prompt async for prompt in StandardInput(pipe.reader)]
    assert prompts == [*Prompt("a", "x").variants(2), Prompt("b")]


async def test_a_prompt_comes_as_soon_as_its_line_is_whole(pipe: Pipe) -> None:
    with anyio.fail_after(60):
        async with aclosing(aiter(StandardInput(pipe.reader))) as prompts:
            pipe.write("a\nb")
            assert (await anext(prompts)).text == "a"
            pipe.write(b"c\xc3")
            pipe.write(b"\xa9\n")
            assert (await anext(prompts)).text == "bcé"
            pipe.write("d")
            pipe.close()
            assert (await anext(prompts)).text == "d"
            with pytest.raises(StopAsyncIteration):
                await anext(prompts)


async def test_nothing_is_a_prompt_of_an_empty_input(pipe: Pipe) -> None:
    assert await texts_of(pipe, "\n \n") == []


async def test_a_call_begins_while_its_source_waits(pipe: Pipe) -> None:
    begun = anyio.Event()

    async def generate(prompt: Prompt) -> str:
        begun.set()
        return prompt.text

    async with stream(generate, StandardInput(pipe.reader)) as outcomes:
        pipe.write("a\n")
        with anyio.fail_after(60):
            await begun.wait()
            assert (await outcomes.receive()).unwrap() == "a"
            assert outcomes.progress.total is None
            pipe.close()
            assert [outcome async for outcome in outcomes] == []
        assert outcomes.progress.total == 1


async def test_a_wait_for_a_line_is_cancelled_at_once(pipe: Pipe) -> None:
    async with aclosing(aiter(StandardInput(pipe.reader))) as prompts:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, prompts)
            await until(lambda: bool(readers()))
            tasks.cancel_scope.cancel()
    assert readers()  # still in its read, which nothing waits for


async def test_a_batch_that_drains_does_not_wait_for_a_line(pipe: Pipe) -> None:
    async def generate(prompt: Prompt) -> str:
        return prompt.text

    pipe.write("a\n")
    with anyio.fail_after(60):
        async with stream(generate, StandardInput(pipe.reader)) as outcomes:
            await outcomes.receive()
            outcomes.drain()
            assert [outcome async for outcome in outcomes] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\xff\nc\n", "stdin:3: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"a\nb\n" + b"c" * 1_000_001, "stdin:3: line of more than 1,000,000 characters"),
        (b"a\n\nb\rc\n", "stdin:3: a carriage return inside the line"),
        (b'{"prompt": "a"}\n{"prompt": "b"}\nc', "stdin:3: not JSON at column 1"),
        (b'{"prompt": "a"}\n{"prompt": "b"}\n{}', "stdin:3: no field named prompt"),
    ],
)
async def test_a_mistake_ends_the_reading_after_what_came_before(
    tmp_path: Path, content: bytes, message: str
) -> None:
    async def generate(prompt: Prompt) -> str:
        return prompt.text

    (tmp_path / "stdin").write_bytes(content)  # a pipe would not take it whole
    descriptor = os.open(tmp_path / "stdin", os.O_RDONLY)
    seen = []
    try:
        async with stream(generate, StandardInput(descriptor)) as outcomes:
            with pytest.raises(ValueError, match=rf"^{message}"):
                async for outcome in outcomes:
                    seen.append(outcome.unwrap())
    finally:
        os.close(descriptor)
    assert sorted(seen) == (["a"] if b"\n\n" in content else ["a", "b"])


async def test_an_input_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            [prompt async for prompt in StandardInput(descriptor)]
    finally:
        os.close(descriptor)


async def test_a_limit_ends_the_reading(pipe: Pipe) -> None:
    pipe.write("a\nb\nc\n")  # and stays open
    selection = Selection(limit=2)
    with anyio.fail_after(60):
        source = StandardInput(pipe.reader, selection=selection)
        assert [prompt.text async for prompt in source] == ["a", "b"]


async def test_a_sample_is_that_of_a_file(pipe: Pipe) -> None:
    lines = "".join(f"{number}\n" for number in range(50))
    sample = await texts_of(pipe, lines, selection=Selection(limit=40, sample=5, seed=3))
    assert len(sample) == 5
    assert sample == sorted(sample, key=int)
    assert int(sample[-1]) < 40


async def test_recipes_and_encodings_hold_for_it_too(pipe: Pipe) -> None:
    recipe = Recipe(
        column="other",
        template=Template.parse("{prompt}, {style}"),
        grid=Grid.parse(["style=ink,oil"]),
    )
    texts = await texts_of(
        pipe, "ein Füchslein\n".encode("cp1252"), recipe=recipe, encoding="cp1252"
    )
    assert texts == ["ein Füchslein, ink", "ein Füchslein, oil"]


async def test_a_text_has_no_columns(pipe: Pipe) -> None:
    assert await texts_of(pipe, "a fox\n", recipe=Recipe(column="caption")) == ["a fox"]


async def test_an_object_has_the_column_that_is_named(pipe: Pipe) -> None:
    content = '{"caption": "a fox"}\n'
    assert await texts_of(pipe, content, recipe=Recipe(column="caption")) == ["a fox"]


async def test_a_terminal_is_known_as_one(pipe: Pipe) -> None:
    ours, theirs = pty.openpty()
    assert StandardInput(theirs).is_terminal
    assert not StandardInput(pipe.reader).is_terminal
    for descriptor in (ours, theirs):
        os.close(descriptor)


async def test_no_more_is_read_than_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "stdin").write_bytes(b"a fox\n" * 100_000)
    descriptor = os.open(tmp_path / "stdin", os.O_RDONLY)
    try:
        async with aclosing(aiter(StandardInput(descriptor))) as prompts:
            await anext(prompts)
            assert os.lseek(descriptor, 0, os.SEEK_CUR) == BLOCK
    finally:
        os.close(descriptor)


async def test_input_images_are_looked_for_as_their_line_comes(
    pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pipe.write('{"prompt": "a", "images": "a.png"}\n\n{"prompt": "a", "images": ["b.png"]}\n')
    pipe.close()
    async with aclosing(aiter(StandardInput(pipe.reader))) as prompts:
        assert (await anext(prompts)).images == (Path("a.png"),)
        with pytest.raises(ValueError, match=r"^stdin:3: images: there is no file b\.png$"):
            await anext(prompts)
