"""The gallery of a directory of images: one index.html, which needs no server and no network.

It is not imported by ``import genbatch``, for it needs Pillow, of the extra ``cli``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ._write import write as write

__all__ = ["write_gallery"]


def write_gallery(
    directory: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
) -> Path:
    """Write the gallery of a directory that a Store has written, and return its path.

    It blocks, for seconds where there are many new images: in an event loop call it in a thread.
    A run may go on meanwhile; the gallery shows what there was when it began. Calling it again
    writes it anew and makes thumbnails of new images only.

    Args:
        directory: That a Store has written.
        progress: Called in this thread with how many new thumbnails are made, and of how many.

    Raises:
        StoreError: If there is no journal in directory, it cannot be read, the gallery cannot be
            written, or an index.html that is none stands in its place.
    """
    return write(Path(directory), progress).path
