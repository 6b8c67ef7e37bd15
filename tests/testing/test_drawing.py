"""The images a FakeGemini sends: valid PNGs, one for each prompt, with and without Pillow."""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image

from genbatch.testing._pictures import PALETTES, draw, poster

SIZES = [(1, 1), (2, 3), (16, 16), (64, 8), (96, 96), (512, 288), (288, 512), (768, 96)]
PROMPTS = [
    "",
    "   \n\t",
    "A red fox in fresh snow at dawn, watercolour",
    "very detailed " * 30,
    "x" * 500,
    "word " * 5000,
    "日本語のプロンプト 😀 👩‍👩‍👧 عربى Привет",
    "Žluťoučký kůň „úpěl“ \u2013 ďábelské ódy… Straße",
    "\x00\x1b[31m\u202e\ud800 lone surrogate \U0010ffff",
]


@pytest.fixture(params=["pillow", "standard library"])
def painter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "standard library":
        monkeypatch.setitem(sys.modules, "PIL", None)


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of png as (kind, body), checking frame and checksums."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", png, at + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        yield kind, body
        at += 12 + length


def size_of(png: bytes) -> tuple[int, int]:
    """Return width and height of a png that is read to its end without Pillow."""
    parts = list(chunks(png))
    assert parts[0][0] == b"IHDR"
    assert parts[-1] == (b"IEND", b"")
    width, height, depth, colours = struct.unpack_from(">IIBB", parts[0][1])
    channels = {2: 3, 3: 1}[colours]
    lines = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    assert depth == 8
    assert len(lines) == height * (1 + width * channels)
    return width, height


@pytest.mark.usefixtures("painter")
class TestEitherWay:
    @pytest.mark.parametrize(("width", "height"), SIZES)
    def test_an_image_of_any_size_is_a_valid_png(self, width: int, height: int) -> None:
        png = draw("A lighthouse in a storm", width=width, height=height)
        assert size_of(png) == (width, height)
        with Image.open(io.BytesIO(png)) as image:
            image.load()  # reads every pixel
            assert image.size == (width, height)

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_any_prompt_can_be_drawn(self, prompt: str) -> None:
        assert size_of(draw(prompt, width=200, height=120)) == (200, 120)

    def test_equal_prompts_make_equal_images(self) -> None:
        first, second = (draw("a", model="m", seed=1, width=64, height=64) for _ in range(2))
        assert first == second

    def test_text_model_and_seed_each_change_the_image(self) -> None:
        asked = [("a", "m", 1), ("b", "m", 1), ("a", "n", 1), ("a", "m", 2), ("a", "m", None)]
        made = {draw(t, model=m, seed=s, width=64, height=64) for t, m, s in asked}
        assert len(made) == len(asked)

    def test_even_one_pixel_is_another_image_for_each_prompt(self) -> None:
        made = {draw(f"prompt {number}", width=1, height=1) for number in range(1000)}
        assert len(made) == 1000

    def test_an_image_of_the_default_size_is_small(self) -> None:
        assert len(draw("A bakery on a rainy street", width=512, height=512)) < 80_000


def test_without_pillow_the_image_is_one_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    png = draw("a", width=128, height=128)
    monkeypatch.undo()
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "P"
        (one,) = image.convert("RGB").getcolors() or []
    assert one[0] == 128 * 128
    assert one[1] in {colour for palette in PALETTES for colour in palette}


def pixels(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB")


def posted(prompt: str, side: int = 512) -> bytes:
    return poster(prompt, random.Random(1), side, side)


def ink(image: Image.Image) -> int:
    """Count the pixels of the colour that text is written in."""
    colour = random.Random(1).choice(PALETTES)[5]
    return sum(count for count, value in image.getcolors(1 << 20) or [] if value == colour)


@pytest.mark.parametrize("prompt", ["Lighthouse", "Žluť", "two words", "x" * 300, "word " * 400])
def test_the_prompt_is_written_in_the_poster(prompt: str) -> None:
    assert ink(pixels(posted(""))) == 0
    assert ink(pixels(posted(prompt))) > 100


def test_a_word_of_another_script_leaves_a_poster_without_caption() -> None:
    assert posted("日本語 😀", 256) == posted("", 256)


@pytest.mark.parametrize("prompt", ["long prompt with Words " * 60, "W" * 500])
def test_nothing_is_written_beyond_the_card(prompt: str) -> None:
    image = pixels(posted(prompt))
    margin = round(512 * 0.05)
    for box in [
        (0, 0, 512, margin),
        (0, 0, margin, 512),
        (512 - margin, 0, 512, 512),
        (0, 512 - margin, 512, 512),
    ]:
        assert ink(image.crop(box)) == 0


def luminance(colour: tuple[float, ...]) -> float:
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", PALETTES)
def test_text_has_contrast_even_over_the_sun(palette: tuple[tuple[int, ...], ...]) -> None:
    """WCAG 2 asks for a contrast of 4.5."""
    _, _, sun, _, nearest, text = palette
    card = tuple(0.78 * near + 0.22 * bright for near, bright in zip(nearest, sun, strict=True))
    assert (luminance(text) + 0.05) / (luminance(card) + 0.05) >= 4.5
