"""The poster a prompt becomes where Pillow is installed: a sky, a sun, hills, and the prompt."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ._draw import PALETTES

Colour = tuple[int, ...]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SMOOTH = 2  # shapes are drawn this much larger, then reduced: smooth edges
_HILLS = 4
_MEASURE = 100  # font size at which words are measured; widths scale with the size
_LINE = 1.25  # line height in font sizes
_CAPTIONED = 96  # pixels of the shorter side from which on words can be read
_LONGEST = 1200  # characters of a prompt that are shown
_PLAINER = str.maketrans(
    dict.fromkeys("\u2013\u2014", "-")
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d«»", '"')
    | {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)


def poster(text: str, noise: bytes, width: int, height: int) -> bytes:
    """Return a PNG with text readable in it; noise, 128 random bytes, decides the rest."""
    palette = [tuple(colour) for colour in PALETTES[noise[0] % len(PALETTES)]]
    image = _landscape(palette, noise, width, height)
    words = _words(text)
    if words and min(width, height) >= _CAPTIONED:
        _caption(image, words, ink=palette[5], paper=palette[4])
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=2)
    return file.getvalue()


def _landscape(palette: Sequence[Colour], noise: bytes, width: int, height: int) -> Image.Image:
    above, below, sun, farthest, nearest, _ = palette
    wide, high = width * _SMOOTH, height * _SMOOTH
    image = _sky(above, below, wide, high)
    canvas = ImageDraw.Draw(image)
    radius = min(wide, high) * (0.07 + noise[1] / 255 * 0.08)
    x = wide * (0.15 + noise[2] / 255 * 0.7)
    y = high * (0.14 + noise[3] / 255 * 0.2)
    sky = _mix(above, below, 1.5 * y / high)
    for ring, share in ((1.9, 0.12), (1.4, 0.25), (1.0, 1.0)):
        canvas.circle((x, y), radius * ring, fill=_mix(sky, sun, share))
    for hill in range(_HILLS):
        base = high * (0.42 + 0.15 * hill)
        outline = _ridge(noise[8 + hill * 8 : 16 + hill * 8], base, wide, high)
        colour = _mix(farthest, nearest, hill / (_HILLS - 1))
        canvas.polygon([(0, high), *outline, (wide, high)], fill=colour)
    return image.reduce(_SMOOTH)


def _sky(above: Colour, below: Colour, width: int, height: int) -> Image.Image:
    ends = Image.frombytes("RGB", (1, 2), bytes(above) + bytes(below))
    # From the middle of the first pixel on, so that the lower colour is reached at the horizon.
    column = ends.resize((1, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 2))
    return column.resize((width, height), Image.Resampling.NEAREST)


def _ridge(noise: bytes, base: float, width: int, height: int) -> list[tuple[float, float]]:
    """Return the skyline of one hill: two waves, steeper the more noise asks for."""
    swell = height * (0.03 + noise[0] / 255 * 0.06)
    ripple = height * (0.005 + noise[1] / 255 * 0.025)
    slow, quick = 2 + noise[2] / 255 * 4, 6 + noise[3] / 255 * 8
    shift, offset = noise[4] / 40, noise[5] / 40
    points = []
    for step in range(65):
        t = step / 64
        y = base + swell * math.sin(slow * t + shift) + ripple * math.sin(quick * t + offset)
        points.append((t * width, y))
    return points


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _words(text: str) -> list[str]:
    """Split text at white space, without what Pillow's own font cannot show.

    It has ASCII and few more: accents are taken off, and other scripts leave no caption.
    """
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    plain = unicodedata.normalize("NFKD", text.translate(_PLAINER))
    return "".join(c for c in plain if c.isascii() and (c.isprintable() or c.isspace())).split()


def _caption(image: Image.Image, words: Sequence[str], *, ink: Colour, paper: Colour) -> None:
    """Write words on a translucent card at the foot of image, as large as fits."""
    margin = round(min(image.size) * 0.05)
    padding = round(margin * 0.9)
    room = image.width - 2 * (margin + padding), image.height * 0.8 - 2 * (margin + padding)
    size, lines = _fit(words, *room, largest=min(image.size) * 0.085)
    font = _font(size)
    pitch = round(size * _LINE)
    right, bottom = image.width - margin, image.height - margin
    top = bottom - pitch * len(lines) - 2 * padding
    box = (margin, max(0, top), right, bottom)
    card = Image.blend(image.crop(box), Image.new("RGB", _size(box), paper), 0.78)
    image.paste(card, box, _rounded(_size(box), margin * 0.6))
    canvas = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        canvas.text((margin + padding, top + padding + number * pitch), line, ink, font)


def _size(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _rounded(size: tuple[int, int], radius: float) -> Image.Image:
    mask = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    corner = (size[0] * 2 - 1, size[1] * 2 - 1)
    ImageDraw.Draw(mask).rounded_rectangle(((0, 0), corner), radius * 2, fill=255)
    return mask.reduce(2)


def _fit(
    words: Sequence[str], width: float, height: float, *, largest: float
) -> tuple[int, list[str]]:
    """Return the largest font size at which words fit, and the lines they fall into."""
    pieces = [piece for word in words for piece in _pieces(word)]
    size = max(6, round(largest))
    while True:
        lines = _wrap(pieces, width * _MEASURE / size)
        if size <= 6 or len(lines) * round(size * _LINE) <= height:
            return size, lines[: max(1, int(height / (size * _LINE)))]
        size -= max(1, size // 12)


def _pieces(word: str) -> list[tuple[str, float, bool]]:
    """Measure word as (text, width, starts a word), a very long one in pieces that can wrap."""
    font = _font(_MEASURE)
    parts = [word[start : start + 12] for start in range(0, len(word), 12)]
    return [(part, font.getlength(part), index == 0) for index, part in enumerate(parts)]


def _wrap(pieces: Sequence[tuple[str, float, bool]], width: float) -> list[str]:
    space = _font(_MEASURE).getlength(" ")
    lines: list[str] = []
    used = math.inf
    for text, length, starts_word in pieces:
        gap = space if starts_word else 0.0
        if used + gap + length > width:
            lines.append(text)
            used = length
        else:
            lines[-1] += " " + text if starts_word else text
            used += gap + length
    return lines
