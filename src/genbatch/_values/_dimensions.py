"""Width and height of an image, read from its header: no pixel is decoded."""

from __future__ import annotations

from struct import error, unpack_from

_MOST_SEGMENTS = 10_000  # before the frame of a JPEG
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers among those of frames


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels as stored, None where the header does not tell them."""
    try:
        size = _dimensions(data)
    except error:  # the header is cut off
        return None
    return size if size is not None and all(size) else None


def _dimensions(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return unpack_from(">II", data, 16)
    if data.startswith(b"GIF8"):
        return unpack_from("<HH", data, 6)
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    return _of_webp(data) if data[8:12] == b"WEBP" else None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        start, marker, length = unpack_from(">BBH", data, at)
        if start != 0xFF:
            return None
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = unpack_from(">HH", data, at + 5)
            return width, height
        at += 1 if marker == 0xFF else 2 + length  # a marker may have fill bytes before it
    return None


def _of_webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":
            width, more, height, most = unpack_from("<HBHB", data, 24)
            return width + (more << 16) + 1, height + (most << 16) + 1
        case b"VP8L":
            (bits,) = unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None
