"""An image is whole when it has its end: as an imaging library writes it, cut, or with more."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from genbatch._values import EXTENSIONS, is_whole, sniff_mime_type

FORMATS = {kind: kind.removeprefix("image/") for kind in EXTENSIONS}


def image_as(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.effect_noise((40, 30), 80).convert("RGB")
    picture.save(file, FORMATS[kind], **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_image_is_whole_also_with_bytes_after_it(kind: str) -> None:
    data = image_as(kind)
    assert sniff_mime_type(data) == kind
    for after in (b"", b"\x00", b"<script>", data):
        assert is_whole(data + after, kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_image_that_is_cut_anywhere_is_not_whole(kind: str) -> None:
    data = image_as(kind)
    assert [cut for cut in range(12, len(data)) if is_whole(data[:cut], kind)] == []


def test_picture_of_several_is_whole_at_the_last_of_them() -> None:
    frames = [Image.effect_noise((20, 20), 80) for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:], comment=b";;")
    data = file.getvalue()
    assert is_whole(data, "image/gif")
    assert not any(is_whole(data[:cut], "image/gif") for cut in range(12, len(data)))


def test_end_of_a_preview_is_not_that_of_its_picture() -> None:
    preview = image_as("image/jpeg")
    note = b"\xff\xe1" + (len(preview) + 2).to_bytes(2) + preview
    data = image_as("image/jpeg")
    data = data[:2] + note + data[2:]
    assert is_whole(data, "image/jpeg")
    assert [cut for cut in range(12, len(data)) if is_whole(data[:cut], "image/jpeg")] == []


def test_bytes_after_a_jpeg_may_look_like_the_beginning_of_pixels() -> None:
    assert is_whole(image_as("image/jpeg") + b"\xff\xda", "image/jpeg")


def test_progressive_jpeg_is_whole_at_its_end_only() -> None:
    data = image_as("image/jpeg", progressive=True, optimize=True)
    assert is_whole(data, "image/jpeg")
    assert [cut for cut in range(12, len(data)) if is_whole(data[:cut], "image/jpeg")] == []


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rest", [b"", b"<script>" * 20, b"\xff" * 90, bytes(90), b",;!" * 90])
def test_head_alone_makes_no_image(kind: str, rest: bytes) -> None:
    assert not is_whole(image_as(kind)[:12] + rest, kind)
