"""The image a fake model sends: a valid PNG, different for each prompt and the same for equal ones.

With Pillow it is a poster that shows the prompt: a motif in a palette, and the text. Without, or
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
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

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
        "d62828 f77f00 fcbf49 eae2b7 003049 fffaf0",  # screen print
        "ffd60a ffc300 ffffff ff5d8f 001d3d fffbe6",  # pop
        "7b2cbf c77dff ffe66d 4cc9f0 10002b f7ecff",  # neon
        "edede9 d5bdaf 9c6644 b08968 3d2b1f fffaf5",  # clay
        "e8f5e9 c5e1a5 ef5350 66bb6a 1b5e20 f9fff6",  # garden
        "fafafa d9d9d9 e63946 8d99ae 111111 ffffff",  # newsprint
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
    image, canvas = _ground(palette, width * _SMOOTH, height * _SMOOTH)
    chance.choice(_MOTIFS)(_Scene(canvas, palette, chance, *image.size))
    image = image.reduce(_SMOOTH)
    shown = _shown(text)
    if shown and min(width, height) >= _CAPTIONED:
        _caption(image, shown, ink=palette[5], paper=palette[4])
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=2)
    return file.getvalue()


class _Scene(NamedTuple):
    """What a motif is drawn with, and how large."""

    canvas: ImageDraw.ImageDraw
    palette: tuple[Colour, ...]
    chance: random.Random
    width: int
    height: int


def _ground(
    palette: tuple[Colour, ...], width: int, height: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw, ImageOps

    sky = ImageOps.colorize(Image.linear_gradient("L").resize((1, height)), palette[0], palette[1])
    image = sky.resize((width, height), Image.Resampling.NEAREST)
    return image, ImageDraw.Draw(image)


def _hills(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    _, _, sun, farthest, nearest, _ = palette
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


def _rings(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    centre = width * chance.uniform(0.1, 0.9), height * chance.uniform(0.1, 0.6)
    colours, count = chance.sample(palette[:5], 5), chance.randint(5, 11)
    for ring in range(count, 0, -1):
        canvas.circle(centre, max(width, height) * 0.75 * ring / count, fill=colours[ring % 5])


def _tiles(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    side = min(width, height) / chance.randint(2, 5)
    for row in range(math.ceil(height / side)):
        for column in range(math.ceil(width / side)):
            left, top = column * side, row * side
            ground, shape = chance.sample(palette[:5], 2)
            canvas.rectangle((left, top, left + side, top + side), fill=ground)
            turn = 90 * chance.randrange(4)
            if chance.random() < 0.3:
                canvas.circle((left + side / 2, top + side / 2), side * 0.38, fill=shape)
            else:  # a quarter of a circle about one of the corners
                x, y = left - side * (turn in (90, 180)), top - side * (turn in (180, 270))
                canvas.pieslice((x, y, x + 2 * side, y + 2 * side), turn, turn + 90, fill=shape)


def _city(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    _, _, light, far, near, _ = palette
    moon = width * chance.uniform(0.1, 0.9), height * chance.uniform(0.08, 0.2)
    canvas.circle(moon, min(width, height) * 0.08, fill=light)
    for colour, lowest, is_lit in ((far, 0.25, False), (near, 0.4, True)):
        left = 0.0
        while left < width:
            wide, top = width * chance.uniform(0.07, 0.16), height * chance.uniform(lowest, 0.75)
            canvas.rectangle((left, top, left + wide, height), fill=colour)
            pane = wide / 7
            for window in range(int((height - top) / (2 * pane)) * 3 if is_lit else 0):
                x, y = left + pane * (1 + window % 3 * 2), top + pane * (1 + window // 3 * 2)
                if chance.random() < 0.45:
                    canvas.rectangle((x, y, x + pane, y + pane), fill=light)
            left += wide


def _flower(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    for _ in range(chance.randint(1, 7)):
        x, y = width * chance.uniform(0.1, 0.9), height * chance.uniform(0.1, 0.65)
        heart, petal, stem = chance.sample(palette[2:5], 3)
        reach, petals = min(width, height) * chance.uniform(0.1, 0.28), chance.randint(5, 13)
        canvas.line((x, y, x, height), fill=stem, width=max(1, round(reach / 9)))
        for number in range(petals):
            angle = math.tau * number / petals
            at = x + reach * 0.7 * math.cos(angle), y + reach * 0.7 * math.sin(angle)
            canvas.circle(at, reach * 2.1 / petals, fill=petal)
        canvas.circle((x, y), reach * 0.45, fill=heart)


def _rays(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    x, y = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.2, 0.6)
    reach, count = width + height, 2 * chance.randint(6, 14)
    one, other, heart = chance.sample(palette[:5], 3)
    for ray in range(count):
        ends = [math.tau * (ray + end) / count for end in (0, 1)]
        corners = [(x + reach * math.cos(end), y + reach * math.sin(end)) for end in ends]
        canvas.polygon([(x, y), *corners], fill=(one, other)[ray % 2])
    canvas.circle((x, y), min(width, height) * chance.uniform(0.1, 0.25), fill=heart)


def _peaks(scene: _Scene) -> None:
    canvas, palette, chance, width, height = scene
    _, _, snow, far, near, _ = palette
    for peak in range(chance.randint(3, 6)):
        x, top = width * chance.uniform(0, 1), height * (chance.uniform(0.1, 0.3) + 0.08 * peak)
        slope = chance.uniform(0.4, 0.9)

        def at(share: float, x: float = x, top: float = top, s: float = slope) -> float:
            return x + (height - top) * s * share

        canvas.polygon([(x, top), (at(-1), height), (x, height)], fill=far)
        canvas.polygon([(x, top), (x, height), (at(1), height)], fill=near)
        tip = top + (height - top) * 0.22
        canvas.polygon([(x, top), (at(-0.22), tip), (at(0.22), tip)], fill=snow)


_MOTIFS = (_hills, _rings, _tiles, _city, _flower, _rays, _peaks)


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
