"""The image a fake model sends: a valid PNG, different for each prompt and the same for equal ones.

With Pillow it is a poster that shows the prompt: a sky, a sun, hills, and the text. Without, or
where it is tiny and so has to be quick, it is a quilt made with the standard library alone.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import unicodedata
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

Colour: TypeAlias = tuple[int, ...]

# Six colours each, read as: sky above, sky below, sun, farthest hill, nearest hill, text.
PALETTES = tuple(
    tuple(bytes.fromhex(colour) for colour in palette.split())
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
_LINE = 1.25  # line height in font sizes
_SMALLEST = 6  # font size
_MEASURE = 100  # font size at which words are measured; widths scale with the size
_CAPTIONED = 96  # pixels of the shorter side from which on words can be read
_LONGEST = 1200  # characters of a prompt that are shown
_PLAINER = str.maketrans(
    dict.fromkeys("\u2013\u2014", "-")
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d«»", '"')
    | {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)


def draw(text: str, *, model: str = "", seed: object = None, width: int, height: int) -> bytes:
    """Return a PNG of width by height pixels, decided by text, model and seed."""
    key = f"{model}\0{seed}\0{text}".encode(errors="replace")
    # The source of every choice below: no random generator, so equal prompts stay equal.
    noise = hashlib.shake_256(key).digest(128)
    if max(width, height) > _TINY:
        try:
            return poster(text, noise, width, height)
        except ImportError:  # Pillow is optional
            pass
    return quilt(noise, width, height)


# Without Pillow


def quilt(noise: bytes, width: int, height: int) -> bytes:
    """Return a PNG of squares in one palette, mirrored left to right and top to bottom."""
    cell = max(1, -(-max(width, height) // 8))
    palette = PALETTES[noise[0] % len(PALETTES)]
    columns = [min(x, width - 1 - x) // cell for x in range(width)]
    rows = [min(y, height - 1 - y) // cell for y in range(height)]
    colours = [value % len(palette) for value in noise]
    patches = [bytes(colours[1 + row * 8 + column] for column in columns) for row in range(5)]
    lines = b"".join(b"\0" + patches[row] for row in rows)  # each starts with its filter: none
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            # 8 bits, indexed colours
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", b"".join(palette)),
            # A few pixels cannot differ for each prompt: this does.
            (b"tEXt", b"Comment\0" + noise[:8].hex().encode()),
            (b"IDAT", zlib.compress(lines, 6)),
            (b"IEND", b""),
        )
    )


# With Pillow, which is imported where it is used: it is optional, and slow to load.


def poster(text: str, noise: bytes, width: int, height: int) -> bytes:
    """Return a PNG with text readable in it; noise, 128 random bytes, decides the rest.

    Raises:
        ImportError: If there is no Pillow.
    """
    palette = [tuple(colour) for colour in PALETTES[noise[0] % len(PALETTES)]]
    image = _landscape(palette, noise, width * _SMOOTH, height * _SMOOTH)
    shown = _shown(text)
    if shown and min(width, height) >= _CAPTIONED:
        _caption(image, shown, ink=palette[5], paper=palette[4])
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=2)
    return file.getvalue()


def _landscape(palette: list[Colour], noise: bytes, width: int, height: int) -> Image.Image:
    from PIL import Image, ImageDraw

    above, below, sun, farthest, nearest, _ = palette
    ends = Image.frombytes("RGB", (1, 2), bytes(above) + bytes(below))
    # From the middle of the first pixel on, so that the lower colour is reached at the horizon.
    column = ends.resize((1, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 2))
    image = column.resize((width, height), Image.Resampling.NEAREST)
    canvas = ImageDraw.Draw(image)
    radius = min(width, height) * (0.07 + noise[1] / 255 * 0.08)
    x = width * (0.15 + noise[2] / 255 * 0.7)
    y = height * (0.14 + noise[3] / 255 * 0.2)
    sky = _mix(above, below, 1.5 * y / height)
    for ring, share in ((1.9, 0.12), (1.4, 0.25), (1.0, 1.0)):
        canvas.circle((x, y), radius * ring, fill=_mix(sky, sun, share))
    for hill in range(_HILLS):
        base = height * (0.42 + 0.15 * hill)
        ridge = _ridge(noise[8 + hill * 8 : 16 + hill * 8], base, width, height)
        colour = _mix(farthest, nearest, hill / (_HILLS - 1))
        canvas.polygon([(0, height), *ridge, (width, height)], fill=colour)
    return image.reduce(_SMOOTH)


def _ridge(noise: bytes, base: float, width: int, height: int) -> list[tuple[float, float]]:
    """Return the skyline of one hill: two waves, whose heights and lengths noise decides."""
    swell = height * (0.03 + noise[0] / 255 * 0.06)
    ripple = height * (0.005 + noise[1] / 255 * 0.025)
    slow, quick = 2 + noise[2] / 255 * 4, 6 + noise[3] / 255 * 8
    shift, offset = noise[4] / 40, noise[5] / 40
    return [
        (
            t * width,
            base + swell * math.sin(slow * t + shift) + ripple * math.sin(quick * t + offset),
        )
        for t in (step / 64 for step in range(65))
    ]


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _shown(text: str) -> str:
    """Return text without what Pillow's own font cannot show, and with single spaces.

    The font has ASCII and few more: accents are taken off, and other scripts leave no caption.
    """
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    plain = unicodedata.normalize("NFKD", text.translate(_PLAINER))
    shown = "".join(c for c in plain if c.isascii() and (c.isprintable() or c.isspace()))
    return " ".join(shown.split())


def _caption(image: Image.Image, text: str, *, ink: Colour, paper: Colour) -> None:
    """Write text on a translucent card at the foot of image, as large as fits."""
    from PIL import Image, ImageDraw

    margin = round(min(image.size) * 0.05)
    inset = margin + round(margin * 0.9)
    font_size, lines = _fit(
        text,
        image.width - 2 * inset,
        image.height * 0.8 - 2 * inset,
        largest=round(min(image.size) * 0.085),
    )
    pitch = round(font_size * _LINE)
    top = image.height - inset - pitch * len(lines)
    box = (margin, max(0, top + margin - inset), image.width - margin, image.height - margin)
    size = box[2] - box[0], box[3] - box[1]
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), margin * 0.6, 255)
    card = Image.blend(image.crop(box), Image.new("RGB", size, paper), 0.78)
    image.paste(card, box, mask)
    canvas = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        canvas.text((inset, top + number * pitch), line, ink, _font(font_size))


def _fit(text: str, width: float, height: float, *, largest: int) -> tuple[int, list[str]]:
    """Return the largest font size at which text fits, and the lines it falls into."""
    # Words, each with the space before it; very long ones in pieces that can wrap.
    pieces = re.findall(r" ?[^ ]{1,12}", f" {text}")
    measured = [(piece, _font(_MEASURE).getlength(piece) / _MEASURE) for piece in pieces]
    size = max(_SMALLEST, largest)
    while True:
        lines = _wrap(measured, width / size)
        room = int(height / round(size * _LINE))
        if size == _SMALLEST or len(lines) <= room:
            return size, lines[: max(1, room)]
        size = max(_SMALLEST, size * 11 // 12)


def _wrap(pieces: list[tuple[str, float]], width: float) -> list[str]:
    lines: list[str] = []
    used = math.inf
    for piece, length in pieces:
        if used + length > width:
            lines.append(piece.lstrip())
            used = length
        else:
            lines[-1] += piece
            used += length
    return lines


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size)
