"""Contact sheets: small images side by side, each with its number."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from math import ceil, isqrt
from pathlib import Path
from typing import Any

from genbatch._store import place, wrong_kind

from ._convert import FORMATS
from ._rows import KeptRows, Row

_BOX = (256, 256)  # pixels of an image
_GAP, _CAPTION = 16, 28
_MOST = 400  # images of a sheet; a further one begins after them
_SOFTWARE = 0x0131  # of EXIF, by which a sheet of ours is known
_OURS = "genbatch contact sheet"
_KINDS = {f".{name}": name for name in FORMATS} | {".jpg": "jpeg"}


def kind_of_sheet(path: Path) -> str:
    """Return the format of a sheet.

    Raises:
        ValueError: If its name has none.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"--sheet {path}: give a name that ends in .png, .jpg or .webp")
    return kind


def write_sheets(
    rows: KeptRows,
    directory: Path,
    path: Path,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> list[Path]:
    """Write contact sheets, and return their paths: a further one for each 400 images.

    Raises:
        ValueError: If the name of path has no format, or what is there is not ours.
        StoreError: If one cannot be written.
    """
    from PIL import Image

    kind = kind_of_sheet(path)
    written: list[Path] = []
    iterator, finished = iter(rows), 0
    with ThreadPoolExecutor(4) as threads:
        for number in count(1):
            if not (some := list(islice(iterator, _MOST))):
                return written
            name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            _check_ours(name)
            columns = min(20, isqrt(len(some) - 1) + 1)
            sheet = Image.new("RGB", _size_of(columns, ceil(len(some) / columns)), "white")
            for place_of, (row, thumb) in enumerate(_thumbs(some, directory, threads)):
                _paste(sheet, divmod(place_of, columns), row, thumb)
                progress(finished := finished + 1, len(rows))
            exif = Image.Exif()
            exif[_SOFTWARE] = _OURS
            save = lambda file, sheet=sheet, exif=exif: sheet.save(file, kind, exif=exif)  # noqa: E731
            place(name.parent, name.name, save, replacing=True)
            written.append(name)
    return written


def _size_of(columns: int, lines: int) -> tuple[int, int]:
    width, height = _BOX
    return columns * (width + _GAP) + _GAP, lines * (height + _CAPTION + _GAP) + _GAP


def _thumbs(
    rows: list[Row], directory: Path, threads: ThreadPoolExecutor
) -> Iterator[tuple[Row, bytes | None]]:
    """Yield rows with their images, small; None where an image cannot be shown."""
    from genbatch.gallery import Picture, draw_thumb

    def draw(row: Row) -> bytes | None:
        drawn = draw_thumb(directory, Picture(row["file"], row["sha256"], row["bytes"]))
        return None if isinstance(drawn, str) else drawn[1]

    return zip(rows, threads.map(draw, rows), strict=True)


def _paste(sheet: Any, place_of: tuple[int, int], row: Row, thumb: bytes | None) -> None:
    """Draw an image in its line and column, and its number below it."""
    from PIL import Image, ImageDraw, ImageFont

    (width, height), (line, column) = _BOX, place_of
    left, top = column * (width + _GAP) + _GAP, line * (height + _CAPTION + _GAP) + _GAP
    if thumb is not None:
        with Image.open(io.BytesIO(thumb), formats=["WEBP"]) as opened:
            small = opened.convert("RGBA")
        small.thumbnail(_BOX)
        middle = left + (width - small.width) // 2, top + (height - small.height) // 2
        sheet.paste(small, middle, small)
    number = "-" if row["index"] is None else str(row["index"])
    caption = f"{number}, take {row['take']}" if row["takes"] > 1 else number
    stars = f"  {row['stars']}/5" if row["stars"] else ""
    font = ImageFont.load_default(18)
    ImageDraw.Draw(sheet).text((left, top + height + 2), caption + stars, "black", font)


def _check_ours(path: Path) -> None:
    problem = wrong_kind(path)
    if problem is None and path.exists():
        from PIL import Image

        try:
            with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as found:
                is_ours = found.getexif().get(_SOFTWARE) == _OURS
        except Exception:  # noqa: BLE001 - whatever a decoder raises, it is not ours
            is_ours = False
        if not is_ours:
            problem = "was not written by genbatch copy: give another name"
    if problem is not None:
        raise ValueError(f"{path} {problem}")
