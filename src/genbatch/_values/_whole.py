"""Whether an image is complete, judged by its end marker and without decoding pixels."""

from __future__ import annotations

_JPEG_PIXELS = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_MOST_SEGMENTS = 10_000  # of the head of a JPEG; each has up to 64 KB


def is_whole(data: bytes, mime_type: str) -> bool:
    """Return whether an image has the end marker of its format; bytes may follow it.

    Args:
        data: The image.
        mime_type: As sniff_mime_type returns it.
    """
    match mime_type:
        case "image/png":
            return data.rfind(b"IEND\xaeB`\x82", 8) > 0
        case "image/jpeg":
            return _is_whole_jpeg(data)
        case "image/webp":
            size = int.from_bytes(data[4:8], "little")
            return 4 < size <= len(data) - 8
        case _:
            return _is_whole_gif(data)


def _is_whole_jpeg(data: bytes) -> bool:
    """Look for the end after the head, which is walked: a preview in it has an end of its own."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if data.startswith(_JPEG_PIXELS, at):
            return data.find(_JPEG_END, at) > 0
        if not at < len(data) or data[at] != 0xFF:
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    # There is no such head, or it is cut; a cut right after the preview is no end.
    return data.endswith(_JPEG_END) and at != len(data)


def _is_whole_gif(data: bytes) -> bool:
    """Walk the blocks of a GIF: its end marker is a byte that pixels may contain too."""
    at = 13 + _color_table(data, 10)
    while data[at : at + 1] not in (b";", b""):
        if data[at] == 0x21:  # an extension: a label, then its blocks
            at += 2
        elif data[at] == 0x2C:  # a picture: position, color table, code size, then its blocks
            at += 11 + _color_table(data, at + 9)
        else:
            return False
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return data[at : at + 1] == b";"


def _color_table(data: bytes, at: int) -> int:
    """Return the size in bytes of the color table that the flags at a position announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0
