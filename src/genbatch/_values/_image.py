"""Image and SavedImage; the true type of image bytes, whether they are complete, and their size."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from struct import error as StructError
from struct import unpack_from

EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
}
UNKNOWN_EXTENSION = ".bin"  # of anything else
FAKE_HEADER = "x-genbatch-fake"  # of every answer of a fake service, whose images are placeholders
_HEIF_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "image/heic"),
    **dict.fromkeys((b"mif1", b"msf1", b"heif"), "image/heif"),
}
_JPEG_PIXELS = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_MOST_SEGMENTS = 10_000  # of the head of a JPEG; each has up to 64 KB
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers of a JPEG among those of frames


_REFERENCE = re.compile(r"gs://\S+|files/[a-z0-9][a-z0-9-]{0,39}")


def is_reference(image: object) -> bool:
    """Return whether an input image is the name of one that the service has.

    Such are ``"files/abc-123"``, of Gemini's Files API, and ``"gs://bucket/fox.png"``. A path, as
    opposed to a text, is never one.
    """
    return isinstance(image, str) and _REFERENCE.fullmatch(image) is not None


def sniff_mime_type(data: bytes) -> str | None:
    """Return the MIME type that the leading bytes show, or None if they are not a known image."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return None


def sniff_input_type(data: bytes) -> str | None:
    """Return the MIME type of an image that can be worked from, None if it is not such a one."""
    if data[4:8] == b"ftyp":  # of the HEIF family: its brand, then those it is compatible with
        return None if b"avif" in data[8:64] else _HEIF_BRANDS.get(data[8:12])
    mime_type = sniff_mime_type(data)
    return None if mime_type == "image/gif" else mime_type


def extension_of(data: bytes) -> str:
    """Return the file extension, with its dot, that the leading bytes show."""
    return EXTENSIONS.get(sniff_mime_type(data) or "", UNKNOWN_EXTENSION)


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


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels as stored, None where the header does not tell them."""
    try:
        size = _dimensions(data)
    except StructError:  # the header is cut off
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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one answer was billed for.

    Attributes:
        prompt_tokens: Of the prompt and its input images.
        output_tokens: Of images and text in the answer, thoughts not among them.
        total_tokens: As the service sums them up.
        thought_tokens: Of thoughts.
        text_tokens: Those of the output tokens that are text.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    thought_tokens: int = 0
    text_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """A generated image, its bytes in memory.

    Attributes:
        data: The bytes exactly as the model sent them.
        mime_type: True type, read from the bytes.
        model: Full id of the model asked; a run fills it in.
        usage: Tokens billed, None where the answer does not say.
        text: What the model wrote beside the image.
        cost: US dollars for the whole answer: by its usage and the published prices, or what was
            reserved for it where it has no usage. None where no price is known.
        response_id: The service's id of this answer.
        extras: Further images of the same answer, seldom any; usage, text and cost are here.
        damaged: What came in place of further images, cut off or fake; it is paid for too.
        is_placeholder: Whether a fake service has made it; see genbatch.testing.
    """

    data: bytes = field(repr=False)
    mime_type: str
    model: str = ""
    usage: Usage | None = None
    text: str = ""
    cost: float | None = None
    response_id: str | None = None
    extras: tuple[Image, ...] = ()
    damaged: tuple[bytes, ...] = field(default=(), repr=False)
    is_placeholder: bool = False

    @property
    def images(self) -> int:
        """How many images the answer had, all of which are paid for."""
        return 1 + len(self.extras) + len(self.damaged)

    @property
    def extension(self) -> str:
        """File extension true to the bytes, with its dot."""
        return EXTENSIONS[self.mime_type]

    @property
    def width(self) -> int | None:
        """Pixels from left to right, read from the header; None where that does not tell."""
        return (dimensions(self.data) or (None,))[0]

    @property
    def height(self) -> int | None:
        """Pixels from top to bottom, read from the header; None where that does not tell."""
        return (dimensions(self.data) or (None,))[-1]

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Show the image in a notebook, of whatever type it is."""
        return {self.mime_type: b64encode(self.data).decode("ascii")}


@dataclass(frozen=True, slots=True)
class SavedImage:
    """A generated image on disk; holds no bytes, so ten thousand of them are small.

    Attributes:
        path: The image file.
        mime_type: True type, read from the bytes.
        size_mb: Size in megabytes (10**6 bytes).
        sha256: Hex digest of the file.
        cost: US dollars for the whole answer, None where no price is known.
        resumed: Whether an earlier run had saved it and no call was made.
        model: Full id of the model asked, None where resumed.
        usage: Tokens billed, None where unknown.
        text: What the model wrote beside the image.
        extras: Files of further images of the same answer, seldom any.
        width: Pixels from left to right, None where unknown.
        height: Pixels from top to bottom, None where unknown.
        damaged: Files of what came in place of further ones; unknown where resumed.
    """

    path: Path
    mime_type: str
    size_mb: float
    sha256: str
    cost: float | None = None
    resumed: bool = False
    model: str | None = None
    usage: Usage | None = None
    text: str = ""
    extras: tuple[Path, ...] = ()
    width: int | None = None
    height: int | None = None
    damaged: tuple[Path, ...] = ()

    @property
    def images(self) -> int:
        """How many images the answer had, all of which are paid for."""
        return 1 + len(self.extras) + len(self.damaged)

    @property
    def data(self) -> bytes:
        """Bytes of the file, read at each access, which blocks."""
        return self.path.read_bytes()

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Show the image in a notebook, or where its file is gone, what it was."""
        try:
            return {self.mime_type: b64encode(self.data).decode("ascii")}
        except OSError:
            return {}
