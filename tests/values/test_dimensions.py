"""Width and height of images of every type, from their headers alone."""

from __future__ import annotations

import pytest

from genbatch import Image
from genbatch._values import dimensions
from support.folders import picture

KINDS = [
    ("PNG", {}),
    ("GIF", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "comment": b"\xff\xc0 of no frame"}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (31, 300), (1376, 768)])
def test_width_and_height_are_those_of_the_pixels(
    kind: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    data = picture(3, size, kind, **options)
    assert dimensions(data) == size
    image = Image(data, "image/png", "a-model")
    assert (image.width, image.height) == size


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_header_that_is_cut_off_anywhere_is_an_unknown_size_or_the_right_one(
    kind: str, options: dict[str, object]
) -> None:
    data = picture(3, (31, 300), kind, **options)
    for end in range(min(len(data), 700)):
        assert dimensions(data[:end]) in (None, (31, 300))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"\xff\xd8\xff\xe0\x00\x02\x00\x00\x00\x00",
        b"\xff\xd8" + b"\xff" * 20_000,
        b"\xff\xd8" + b"\xff\xe0\0\0" * 20_000,
        b"RIFF\x40\0\0\0WEBPWHAT" + bytes(40),
        b"\x89PNG\r\n\x1a\n" + bytes(40),
    ],
)
def test_what_tells_no_size_has_none(data: bytes) -> None:
    assert dimensions(data) is None
    image = Image(data, "image/png", "a-model")
    assert (image.width, image.height) == (None, None)
