"""The image a fake model sends: a valid PNG, different for each prompt and the same for equal ones.

With Pillow it is a poster that shows the prompt: a sky, a sun, hills, and the text. Without, or
where it is tiny and so has to be quick, it is one colour, written by the standard library alone.
"""

from __future__ import annotations

import io
import math
import random
import struct
import textwrap
import unicodedata
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Colour: TypeAlias = tuple[int, ...]

# Six colours each, read as: sky above, sky below, sun, farthest hill, nearest hill, text.
PALETTES = tuple(
    tuple(tuple(bytes.fromhex(colour)) for colour in palette.split())
    for palette in (
        "355c7d f8b195 fff1c9 c06c84 2a2d4f fff8ef",  # dusk
        "2b3a67 e8a87c ffd9a0 85576f 1c1f3b fff3e4",  # last light
        "8ecae6 f1faee fffbe0 6fb1a0 16425b f7fff9",  # clear morning
        "a8dadc fdf0d5 fff8e7 84a98c 2f3e46 f6fff8",  # meadow
        "0b132b 3a506b f4f1de 33658a 081226 eaf4f4",  # night
        "f9c6c9 fff1e6 ffffff d291bc 5b3a6b fff7fb",  # blossom
        "f4a261 fefae0 fffdf2 e07a5f 5f2b30 fff6ec",  # desert
        "184e77 99d98c f5fbd0 34a0a4 0f2f4a f4fff3",  # northern lights
    )
)
_TINY = 16  # pixels of the longer side up to which nothing could be made out in a poster
_SMOOTH = 2  # shapes are drawn this much larger, then reduced: smooth edges
_HILLS = 4
_SMALLEST = 6  # font size
_MEASURE = 100  # font size at which text is measured; widths scale with the size
_CAPTIONED = 96  # pixels of the shorter side from which on words can be read
_LONGEST = 1200  # characters of a prompt that are shown
_PLAINER = str.maketrans("\u2013\u2014\u2018\u2019\u201c\u201d", "--''\"\"") | {ord("ß"): "ss"}
_OPACITY = 199  # of 255, of the card that the text is written on


def draw(text: str, *, model: str = "", seed: object = None, width: int, height: int) -> bytes:
    """Return a PNG of width by height pixels, decided by text, model and seed."""
    key = f"{model}\0{seed}\0{text}".encode(errors="replace")
    chance = random.Random(key)  # noqa: S311 - not a secret: equal prompts must make equal images
    if max(width, height) > _TINY:
        try:
            return poster(text, chance, width, height)
        except ImportError:  # Pillow is optional
            pass
    return plain(chance, width, height)


def plain(chance: random.Random, width: int, height: int) -> bytes:
    """Return a PNG in one colour, written without Pillow."""
    colour = chance.choice(chance.choice(PALETTES))
    chunks = (
        # 8 bits, indexed colours
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(colour)),
        # One colour of a few dozen cannot differ for each prompt: this does.
        (b"tEXt", b"Comment\0" + chance.randbytes(8).hex().encode()),
        (b"IDAT", zlib.compress(bytes(1 + width) * height)),  # each line begins with its filter: 0
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# With Pillow, which is imported where it is used: it is optional, and slow to load.


def poster(text: str, chance: random.Random, width: int, height: int) -> bytes:
    """Return a PNG with text readable in it; chance decides the rest.

    Raises:
        ImportError: If there is no Pillow.
    """
    palette = chance.choice(PALETTES)
    image = _landscape(palette, chance, width * _SMOOTH, height * _SMOOTH)
    shown = _shown(text)
    if shown and min(width, height) >= _CAPTIONED:
        _caption(image, shown, ink=palette[5], paper=palette[4])
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=2)
    return file.getvalue()


def _landscape(
    palette: tuple[Colour, ...], chance: random.Random, width: int, height: int
) -> Image.Image:
    from PIL import Image, ImageDraw, ImageOps

    above, below, sun, farthest, nearest, _ = palette
    sky = ImageOps.colorize(Image.linear_gradient("L").resize((1, height)), above, below)
    image = sky.resize((width, height), Image.Resampling.NEAREST)
    canvas = ImageDraw.Draw(image)
    centre = width * chance.uniform(0.15, 0.85), height * chance.uniform(0.14, 0.34)
    canvas.circle(centre, min(width, height) * chance.uniform(0.07, 0.15), fill=sun)
    for hill in range(_HILLS):
        base, swell = height * (0.42 + 0.15 * hill), height * chance.uniform(0.03, 0.09)
        waves, shift = chance.uniform(2, 8), chance.uniform(0, math.tau)
        steps = [step / 64 for step in range(65)]
        ridge = [(t * width, base + swell * math.sin(waves * t + shift)) for t in steps]
        ends, share = zip(farthest, nearest, strict=True), hill / (_HILLS - 1)
        colour = tuple(round(far + (near - far) * share) for far, near in ends)
        canvas.polygon([(0, height), *ridge, (width, height)], fill=colour)
    return image.reduce(_SMOOTH)


def _shown(text: str) -> str:
    """Return text without what Pillow's own font cannot show, and with single spaces.

    The font has ASCII and few more: accents are taken off, and other scripts leave no caption.
    """
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    decomposed = unicodedata.normalize("NFKD", text.translate(_PLAINER))
    spaced = " ".join(decomposed.split())
    return "".join(c for c in spaced if c.isascii() and c.isprintable()).strip()


def _caption(image: Image.Image, text: str, *, ink: Colour, paper: Colour) -> None:
    """Write text on a translucent card at the foot of image, as large as fits."""
    from PIL import ImageDraw

    margin = round(min(image.size) * 0.05)
    width, height = image.width - 4 * margin, image.height * 0.8 - 4 * margin
    # A little more than on average: few lines have more than their share of wide letters.
    letter = 1.1 * _font(_MEASURE).getlength(text) / len(text) / _MEASURE
    size = round(min(image.size) * 0.085)
    while True:
        font, pitch = _font(size), round(size * 1.25)
        lines = textwrap.wrap(text, max(1, int(width / letter / size)))
        fits = pitch * len(lines) <= height and max(map(font.getlength, lines)) <= width
        if fits or size <= _SMALLEST:
            break
        size = max(_SMALLEST, size * 11 // 12)
    lines = lines[: max(1, int(height / pitch))]
    top = image.height - 2 * margin - pitch * len(lines)
    canvas = ImageDraw.Draw(image, "RGBA")
    card = (margin, max(0, top - margin), image.width - margin, image.height - margin)
    canvas.rounded_rectangle(card, margin * 0.6, fill=(*paper, _OPACITY))
    for number, line in enumerate(lines):
        canvas.text((2 * margin, top + number * pitch), line, ink, font)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
