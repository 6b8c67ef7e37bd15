"""What is written goes out in order, whoever reads it, and nobody waits for that."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from genbatch.cli import _console as _writer
from genbatch.cli._console import Writer

Pipe = tuple[int, TextIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read, written = os.pipe()
    with open(written, "w", encoding="utf-8") as stream:
        yield read, stream


def test_texts_go_out_in_order_after_what_was_printed(pipe: Pipe) -> None:
    read, stream = pipe
    print("before", file=stream)
    writer = Writer(stream)
    for n in range(1000):
        writer.write(f"{n}\n")
    writer.close()
    assert os.read(read, 65536).decode().split("\n") == ["before", *map(str, range(1000)), ""]
    assert writer.error is None
    writer.write("again")
    writer.close()
    assert os.read(read, 65536) == b"again"


def test_nobody_waits_for_a_reader_until_the_end(pipe: Pipe) -> None:
    read, stream = pipe
    writer = Writer(stream)
    for n in range(200):
        writer.write(f"{n:01000}\n")
    assert writer.is_busy
    assert writer.is_full
    writer.close(wait=False)
    text = b""
    while text.count(b"\n") < 200:
        text += os.read(read, 65536)


def test_a_stream_that_does_not_block_is_tried_again(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, stream = pipe
    os.set_blocking(stream.fileno(), False)
    text = b""

    def meanwhile(seconds: float) -> None:
        nonlocal text
        text += os.read(read, 65536)

    monkeypatch.setattr(_writer.time, "sleep", meanwhile)
    writer = Writer(stream)
    writer.write("x" * 300_000)
    writer.close()
    os.set_blocking(read, False)
    assert len(text) + len(os.read(read, 300_000)) == 300_000


def test_what_ends_a_stream_is_kept_and_the_rest_dropped(pipe: Pipe) -> None:
    read, stream = pipe
    os.close(read)
    writer = Writer(stream)
    writer.write("one")
    writer.close()
    assert isinstance(writer.error, BrokenPipeError)
    writer.write("two")
    assert not writer.is_busy
    with open("/dev/full", "w") as full:
        writer = Writer(full)
        writer.write("one")
        writer.write("two")
        writer.close()
    assert writer.error is not None
    assert writer.error.errno == errno.ENOSPC


def test_no_stream_and_one_without_a_descriptor_will_do() -> None:
    writer = Writer(None)
    writer.write("lost")
    writer.close()
    with pytest.raises(OSError, match="no stream"):
        writer.fileno()
    buffer = io.StringIO()
    writer = Writer(buffer)
    writer.write("kept ✓")
    writer.close()
    assert buffer.getvalue() == "kept ✓"


def test_what_the_stream_cannot_say_is_escaped(pipe: Pipe) -> None:
    read, stream = pipe
    ascii_only = io.TextIOWrapper(stream.buffer, encoding="ascii")  # type: ignore[attr-defined]
    writer = Writer(ascii_only)
    writer.write("✓\n")
    writer.close()
    assert os.read(read, 100) == b"\\u2713\n"
    assert Writer(stream).fileno() == stream.fileno() != sys.stderr.fileno()
    ascii_only.detach()
