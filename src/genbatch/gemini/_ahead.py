"""A large body, whose image is decoded while it comes.

Room for an image of megabytes is thousands of pages, which the kernel hands out as they are first
written to: all at once they hold up the event loop longer than anything else here does. bytes(n) is
room that has not been touched, and BytesIO writes into it, and gives it back, without a copy.
"""

from __future__ import annotations

import re
from io import BytesIO

import pybase64

DATA = re.compile(rb'"data"\s*:\s*"')
QUOTE = re.compile(rb'"')


class Ahead:
    """A body of known length, and the first image in it.

    Attributes:
        content: The body; what has not come is zero.
        start: Where the base64 of the image starts, 0 before it has.
        end: Where it ends.
        image: The image decoded, None before its end has come, or where it is no plain base64.
    """

    def __init__(self, length: int) -> None:
        self._room = BytesIO(bytes(length))
        self.content = self._room.getbuffer()
        self.start = self.end = 0
        self.image: bytes | None = None
        self._decoded: BytesIO | None = None
        self._gave_up = False

    def advance(self, received: int) -> None:
        """Decode what has come, so many bytes of the body in all."""
        if self._gave_up or self.image is not None:
            return
        if self._decoded is None:
            if (found := DATA.search(self.content[:received])) is None:
                return
            self.start = self.end = found.end()
            self._decoded = BytesIO(bytes((len(self.content) - self.start) * 3 // 4))
        piece = self.content[self.end : received]
        quote = QUOTE.search(piece)
        whole = len(piece) // 4 * 4 if quote is None else quote.start()
        try:
            decoded = pybase64.b64decode(piece[:whole], validate=True)
        except ValueError:
            decoded = b""
        # Shorter only by the padding, which ends an image.
        if len(decoded) < whole // 4 * 3 and (quote is None or not decoded):
            self._gave_up = True
            return
        self._decoded.write(decoded)
        self.end += whole
        if quote is not None:
            self._decoded.truncate()
            self.image = self._decoded.getvalue()
