"""The image a fake model sends: a valid PNG, different for each prompt and the same for equal ones.

With Pillow it is a poster that shows the prompt's text. Without, or where it is tiny and so has to
be quick, it is a quilt of triangles made with the standard library alone.
"""

from __future__ import annotations

import hashlib
import struct
import zlib

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


def draw(text: str, *, model: str = "", seed: object = None, width: int, height: int) -> bytes:
    """Return a PNG of width by height pixels, decided by text, model and seed."""
    key = f"{model}\0{seed}\0{text}".encode(errors="replace")
    # The source of every choice below: no random generator, so equal prompts stay equal.
    noise = hashlib.shake_256(key).digest(128)
    if max(width, height) <= _TINY:
        return quilt(noise, width, height)
    try:
        # Imported here, each time: Pillow is optional, and slow to load.
        import PIL  # noqa: F401

        from ._poster import poster
    except ImportError:
        return quilt(noise, width, height)
    return poster(text, noise, width, height)


def quilt(noise: bytes, width: int, height: int) -> bytes:
    """Return a PNG of triangles in one palette, mirrored left to right and top to bottom."""
    palette = PALETTES[noise[0] % len(PALETTES)]
    cell = max(1, -(-max(width, height) // 8))
    columns, rows = -(-width // cell), -(-height // cell)
    lines = bytearray()
    for y in range(height):
        row, depth = divmod(y, cell)
        mirrored_row = row > (rows - 1) // 2
        patch_row = rows - 1 - row if mirrored_row else row
        if mirrored_row:
            depth = cell - 1 - depth
        line = b"".join(
            _patch(noise, patch_row, column, columns, depth, cell) for column in range(columns)
        )
        lines += b"\0" + line[:width]  # a PNG line starts with its filter: none
    # A few pixels cannot differ for each prompt: the text does.
    return _png(palette, bytes(lines), width, height, text=noise[:8].hex())


def _patch(noise: bytes, row: int, column: int, columns: int, depth: int, cell: int) -> bytes:
    """Return one line of one cell: two triangles, as indices into the palette."""
    mirrored = column > (columns - 1) // 2
    source = columns - 1 - column if mirrored else column
    choice = noise[1 + (row * 11 + source * 5) % 120]
    left, right = choice % 6, (choice // 6) % 6
    split = depth + 1 if choice & 128 else cell - depth
    line = bytes([left]) * split + bytes([right]) * (cell - split)
    return line[::-1] if mirrored else line


def _png(palette: tuple[bytes, ...], lines: bytes, width: int, height: int, *, text: str) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, indexed colours
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"tEXt", f"Comment\0{text}".encode()),
            _chunk(b"IDAT", zlib.compress(lines, 6)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
