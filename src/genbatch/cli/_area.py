"""Area: the lines at the bottom of a terminal that are drawn over and over.

1. The cursor stands below the area, visible, at the beginning of a line: whatever ends the program,
   even SIGKILL, leaves the terminal as it was.
2. A line that the terminal takes for longer than we do is cut by it, not wrapped: otherwise each
   drawing would leave a line behind.
3. Where a narrower window has wrapped the lines, they are found again, as most terminals wrap them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ._console import QuietConsole

_UP = "\x1b[{}A"
_ERASE_BELOW = "\r\x1b[J"
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"


class Area:
    """Lines that are drawn over and over.

    Args:
        console: Of a terminal that is not dumb.
    """

    def __init__(self, console: QuietConsole) -> None:
        self._console = console
        self._widths: list[int] = []  # of the lines that stand there, in columns
        self._frame = ""

    def draw(self, lines: Sequence[Text]) -> None:
        """Draw lines in place of those before."""
        # One line less than there is: the cursor stands in the last one.
        lines = lines[-max(1, self._console.height - 1) :]
        with self._console.capture() as capture:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="ellipsis")
        erasing, frame = self._erasing(), f"{_CUT}{capture.get()}{_WRAP}"
        if frame != self._frame:
            self._write(erasing + frame)
            self._frame, self._widths = frame, [line.cell_len for line in lines]

    def print(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of parts above the area."""
        with self._console.capture() as capture:
            self._console.say(*parts)
        self._write(f"{self._erasing()}{capture.get()}{self._frame}")

    def erase(self) -> None:
        """Leave the terminal as if nothing had been drawn."""
        self._write(self._erasing())
        self._widths, self._frame = [], ""

    def _erasing(self) -> str:
        if not self._widths:
            return ""
        width = max(1, self._console.width)
        rows = sum(max(1, -(-columns // width)) for columns in self._widths)
        return _UP.format(rows) + _ERASE_BELOW

    def _write(self, text: str) -> None:
        if text:
            self._console.file.write(text)
            self._console.file.flush()
