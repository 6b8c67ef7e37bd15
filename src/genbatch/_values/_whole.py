"""Whether the bytes of an image are all there, told by its end and without decoding pixels."""

from __future__ import annotations

_MOST_SEGMENTS = 10_000  # of the head of a JPEG; each has up to 64 KB


def is_whole(data: bytes, mime_type: str) -> bool:
    """Return whether an image has the end that its format demands; bytes may follow it.

    Args:
        data: The image.
        mime_type: As sniff_mime_type tells it.
    """
    match mime_type:
        case "image/png":
            return data.rfind(b"IEND\xaeB`\x82", 8) > 0
        case "image/jpeg":
            scan = _jpeg_scan(data)
            return scan > 0 and data.find(b"\xff\xd9", scan) > 0
        case "image/webp":
            size = int.from_bytes(data[4:8], "little")
            return 4 < size <= len(data) - 8
        case _:
            return _is_whole_gif(data)


def _jpeg_scan(data: bytes) -> int:
    """Return where the pixels of a JPEG begin, -1 where its head does not lead to them.

    The head is walked segment by segment, since a preview in it has an end of its own.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        marker = data[at : at + 2]
        if marker == b"\xff\xda":
            return at
        if marker == b"\xff\xff":  # padding
            at += 1
        elif marker[:1] == b"\xff":
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
        else:
            break
    return -1


def _is_whole_gif(data: bytes) -> bool:
    """Walk the blocks of a GIF, as its end is a byte that pixels may have too."""
    at = 13 + _color_table(data, 10)
    while data[at : at + 1] not in (b";", b""):
        if data[at] == 0x21:  # an extension: a label, then its blocks
            at += 2
        elif data[at] == 0x2C:  # a picture: where it is, its colors, a size of codes, its blocks
            at += 11 + _color_table(data, at + 9)
        else:
            return False
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return data[at : at + 1] == b";"


def _color_table(data: bytes, at: int) -> int:
    """Return the bytes of the color table that the flags at a place announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0
