"""Lines of a body as it comes: no more of it is kept than the line that is not whole yet."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from anyio import fail_after

from genbatch._values import InvalidResponse

# Only ever a name: within a string of JSON its quotes would be escaped.
_KEY = re.compile(rb'"key"\s*:\s*"([^"\\]{1,200})"')
LONGEST_LINE = 200_000_000  # bytes; the longest with images are some tenth of it


async def lines_of(pieces: AsyncIterator[bytes], timeout: float) -> AsyncGenerator[bytes]:
    """Yield the lines of a body, without their ends and those that are blank.

    Args:
        pieces: Of the body.
        timeout: Seconds that each of them may take to come.

    Raises:
        TimeoutError: If a piece does not come in time.
        InvalidResponse: If a line is too long.
    """
    rest = bytearray()
    while True:
        with fail_after(timeout):
            piece = await anext(pieces, b"")
        searched = len(rest)
        rest += piece
        begin = 0
        while (end := rest.find(b"\n", max(begin, searched))) >= 0:
            if line := bytes(rest[begin:end]).strip():
                yield line
            begin = end + 1
        del rest[:begin]
        if len(rest) > LONGEST_LINE:
            raise InvalidResponse(f"a line of results is longer than {LONGEST_LINE // 10**6} MB")
        if not piece:
            break
    if line := bytes(rest).strip():
        yield line


def key_in(line: bytes, known: Callable[[str], bool]) -> str | None:
    """Return the first key in a line that is known, without reading what else it has."""
    for found in _KEY.finditer(line):
        if known(key := found[1].decode("ascii", "replace")):
            return key
    return None
