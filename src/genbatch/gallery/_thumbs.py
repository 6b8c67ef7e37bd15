"""Thumbnails: small WebP files, one for each content, made in threads.

1. A thumbnail is named after the SHA-256 of its image and the image's size in pixels, so it is
   never out of date, and a listing of the directory shows which exist.
2. A file is not decoded if its size differs from the one recorded when it was saved, or if it has
   more pixels than any model makes: that is one line of output, not an exhausted memory.
3. A thumbnail under its final name is complete, except after a power failure: then it is empty,
   and is made again.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, NamedTuple, TypeAlias

from genbatch._store import disk_error, is_temporary, make_private, read_file, wrong_kind
from genbatch._values import StoreError, sniff_mime_type

try:
    from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
    from PIL.ImageFile import ImageFile
except ModuleNotFoundError as exc:
    install = "python -m pip install 'genbatch[cli]'"
    raise ModuleNotFoundError(f"the gallery needs the package Pillow; run {install}") from exc

DIRECTORY = Path(".genbatch", "thumbs")
MOST_PIXELS = 40_000_000  # 4K has 17 million, 8K has 33

_BOX = (512, 320)  # pixels, width and height, that a thumbnail fits in
_THREADS = 4
_START = 64  # bytes of a file that tell its kind
_LEFT_BEHIND = 3600.0  # seconds; a temporary file this old is from a process that died
_NAME = re.compile(r"([0-9a-f]{64})-(\d+)x(\d+)\.webp")

# Used in place of Image.open, which may pick another decoder than the bytes call for, and warns of
# decompression bombs in a way that no thread can heed or silence for itself alone.
_DECODERS: dict[str, Callable[[BinaryIO], ImageFile]] = {
    "image/png": PngImagePlugin.PngImageFile,
    "image/jpeg": JpegImagePlugin.JpegImageFile,
    "image/webp": WebPImagePlugin.WebPImageFile,
    "image/gif": GifImagePlugin.GifImageFile,
}

Size: TypeAlias = tuple[int, int]


class Picture(NamedTuple):
    """An image as the journal has it: its file, SHA-256 in hex, and size in bytes."""

    file: str
    sha256: str
    bytes: int


def make_thumbs(
    directory: Path,
    pictures: Collection[Picture],
    progress: Callable[[int, int], object] | None = None,
) -> tuple[dict[str, Size], dict[str, str]]:
    """Make the thumbnails that are missing, and remove those of other pictures.

    Args:
        directory: Directory of the pictures.
        pictures: Those that need a thumbnail.
        progress: Called in this thread with the number of new ones made, and their total.

    Returns:
        The size in pixels of each image that has a thumbnail, by its SHA-256, and what is wrong
        with a file, by its name.

    Raises:
        StoreError: If one cannot be written.
    """
    thumbs = directory / DIRECTORY
    try:
        make_private(thumbs)
        sizes = _tidy(thumbs, {each.sha256 for each in pictures})
        with os.scandir(directory) as entries:
            there = {each.name for each in entries if each.is_file(follow_symlinks=False)}
        deep = (each.file for each in pictures if "/" in each.file)  # in folders of a template
        there.update(file for file in deep if _is_there(directory / file))
        gone = [each.file for each in pictures if each.file not in there]
        problems = {file: wrong_kind(directory / file) or "is missing" for file in gone}
        new = [each for each in pictures if each.sha256 not in sizes]
        make = partial(_make, directory, thumbs)
        # Closing the results cancels those not begun; the executor alone would wait for them all.
        # They are a generator, which the annotation of map does not say.
        with (
            ThreadPoolExecutor(_THREADS) as executor,
            closing(executor.map(make, new)) as results,  # type: ignore[type-var]
        ):
            for number, (each, made) in enumerate(zip(new, results, strict=True), 1):
                if isinstance(made, str):
                    problems[each.file] = made
                else:
                    sizes[each.sha256] = made
                if progress is not None:
                    progress(number, len(new))
    except OSError as exc:
        raise disk_error(f"cannot save thumbnails in {thumbs}", thumbs, exc) from exc
    return sizes, problems


def _is_there(path: Path) -> bool:
    return os.path.lexists(path) and wrong_kind(path) is None


def _tidy(thumbs: Path, wanted: Collection[str]) -> dict[str, Size]:
    """Remove thumbnails not wanted, and return the sizes of the images of the others."""
    sizes: dict[str, Size] = {}
    for path in list(thumbs.iterdir()):
        with suppress(FileNotFoundError):  # another gallery may be tidying up too
            about = path.lstat()
            if name := _NAME.fullmatch(path.name):
                if name[1] in wanted and about.st_size and S_ISREG(about.st_mode):
                    sizes[name[1]] = int(name[2]), int(name[3])
                    continue
            elif not is_temporary(path.name) or about.st_mtime > time.time() - _LEFT_BEHIND:
                continue  # not a thumbnail, or in use by another gallery
            if S_ISDIR(about.st_mode):
                raise StoreError(f"{path} {wrong_kind(path)}")
            path.unlink()
    return sizes


def _make(directory: Path, thumbs: Path, picture: Picture) -> Size | str:
    """Make a thumbnail; return the size of its image, or what is wrong with the image."""
    drawn = draw_thumb(directory, picture)
    if isinstance(drawn, str):
        return drawn
    size, thumb = drawn
    publish_thumb(thumbs, picture, size, thumb)
    return size


def draw_thumb(directory: Path, picture: Picture) -> tuple[Size, bytes] | str:
    """Return the size of an image and its thumbnail, or what is wrong with the image."""
    path = directory / picture.file
    if what := _problem_of(path, picture):
        return what
    try:
        return _reduce(read_file(path) or b"")
    # Decoders raise whatever they stumble over in bytes that are not an image.
    except Exception as exc:  # noqa: BLE001
        return f"cannot be shown: {exc}"


def measure(directory: Path, picture: Picture, known: Size | None) -> Size | str:
    """Return the size of an image, or what is wrong with it, without decoding it.

    Args:
        directory: Directory of the picture.
        picture: The image.
        known: Its size, if that was recorded.
    """
    path = directory / picture.file
    if what := _problem_of(path, picture):
        return what
    if known is not None:
        return known
    try:
        with path.open("rb") as file:
            kind = sniff_mime_type(file.read(_START))
            file.seek(0)
            return open_image(kind, file).size
    except Exception as exc:  # noqa: BLE001 - as in draw_thumb
        return f"cannot be shown: {exc}"


def _problem_of(path: Path, picture: Picture) -> str | None:
    try:
        found = path.lstat().st_size
    except OSError:
        return "is missing"
    if what := wrong_kind(path):
        return what
    if found != picture.bytes:
        return f"has changed: {found} bytes, {picture.bytes} were saved"
    return None


def open_image(kind: str | None, file: BinaryIO) -> ImageFile:
    """Return an image whose pixels are not decoded yet.

    Args:
        kind: Its MIME type, as its bytes tell it.
        file: To be read from its beginning, and open until the pixels are decoded.

    Raises:
        Exception: Whatever a decoder raises, and ValueError if it has too many pixels.
    """
    if kind is None:
        raise ValueError("it is not an image")
    image = _DECODERS[kind](file)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many")
    return image


def _reduce(data: bytes) -> tuple[Size, bytes]:
    """Return the size in pixels of an image and its thumbnail."""
    image = open_image(sniff_mime_type(data), io.BytesIO(data))
    size = image.size  # before thumbnail changes it
    mode = "RGBA" if image.has_transparency_data else "RGB"
    small = image.convert(mode) if image.mode == "P" else image  # colours, not palette indices
    small.thumbnail(_BOX, reducing_gap=1.5)  # a JPEG is decoded at a part of its size already
    file = io.BytesIO()
    small.convert(mode).save(file, "WEBP", quality=82, method=2)
    return size, file.getvalue()


def publish_thumb(thumbs: Path, picture: Picture, size: Size, data: bytes) -> None:
    """Write a thumbnail under its name in the directory of thumbnails."""
    path = thumbs / f"{picture.sha256}-{size[0]}x{size[1]}.webp"
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
