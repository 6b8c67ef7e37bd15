"""The gallery of a directory of images: one index.html, which needs no server and no network.

``import genbatch`` does not import it, because it needs Pillow, which the extra ``cli`` installs.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from genbatch._store import choices, export, read_file, replace_file, status
from genbatch._values import StoreError

from ._page import MARK
from ._page import Item as Item
from ._page import add_choices as add_choices
from ._page import fields_of as fields_of
from ._page import items_of as items_of
from ._page import page as page
from ._page import to_json as to_json
from ._thumbs import DIRECTORY as DIRECTORY  # the names without a use here are for other packages
from ._thumbs import Picture as Picture
from ._thumbs import Size as Size
from ._thumbs import draw_thumb as draw_thumb
from ._thumbs import make_thumbs
from ._thumbs import measure as measure
from ._thumbs import open_image as open_image
from ._thumbs import publish_thumb as publish_thumb

__all__ = ["write_gallery"]

_INDEX = "index.html"
_BEGINNING = 1024  # bytes at the start of a page, among which is the mark


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        path: The page.
        counts: Prompts by status, without superseded ones.
        problems: What is wrong with image files, one line per file.
    """

    path: Path
    counts: Counter[str]
    problems: list[str]


def write_gallery(
    directory: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
) -> Path:
    """Write the gallery of a directory that a Store has written, and return its path.

    It blocks, for seconds if there are many new images: from an event loop, call it in a thread.
    A run may continue meanwhile; the gallery shows the state at the start of the call. Another call
    rewrites the page and makes thumbnails of new images only.

    Args:
        directory: A directory that a Store has written.
        progress: Called in this thread with the number of new thumbnails made, and their total.

    Raises:
        StoreError: If there is no journal in directory, it cannot be read, the gallery cannot be
            written, or there is an index.html that genbatch did not write.
    """
    return write(Path(directory), progress).path


def write(directory: Path, progress: Callable[[int, int], object] | None = None) -> Written:
    """Write the gallery of a directory; see write_gallery."""
    path = directory / _INDEX
    _check_ours(path)
    now = status(directory)
    # Read to its end at once: while it is read, the journal of a run can only grow.
    items = list(items_of(export(directory, all=True)))
    head = {
        "name": directory.resolve().name,
        "written": round(time.time()),
        "running": now.runner is not None,
        "spent": now.spent.usd,
        "maybe": now.spent.maybe_usd,
    }
    add_choices(items, choices(directory))
    problems = _add_thumbs(directory, items, progress)
    head |= fields_of(items)
    _check_ours(path)  # again, for thumbnails take their time
    replace_file(path, page(head, map(to_json, items)))
    counts = Counter(item["status"] for item in items if item["index"] is not None)
    return Written(path, counts, problems)


def _add_thumbs(
    directory: Path, items: list[Item], progress: Callable[[int, int], object] | None
) -> list[str]:
    """Note in each take the size of its image or what is wrong with it; return the latter."""
    takes = [take for item in items for take in item.get("takes", ())]
    pictures = {Picture(take["file"], take["sha256"], take["bytes"]) for take in takes}
    sizes, problems = make_thumbs(directory, pictures, progress)
    for take in takes:
        if take["sha256"] in sizes:
            take["size"] = sizes[take["sha256"]]
        if take["file"] in problems:
            take["problem"] = problems[take["file"]]
    return [f"{directory / file} {problem}" for file, problem in sorted(problems.items())]


def _check_ours(path: Path) -> None:
    if os.path.lexists(path) and MARK not in (read_file(path) or b"")[:_BEGINNING]:
        raise StoreError(
            f"{path} was not written by genbatch: move it elsewhere and write the gallery again"
        )
