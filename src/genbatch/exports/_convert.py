"""Conversion: an image in another format or size, with what was asked for written into it.

Only what is converted is changed: a copy without conversion is the file, byte for byte, with the
signed credentials (C2PA) that it may have.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from genbatch._values import EXTENSIONS, sniff_mime_type

FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_KINDS = {**{kind: name.upper() for name, kind in FORMATS.items()}, "image/gif": "GIF"}
_QUALITY = 90
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_MOST_COMMENT = 60_000  # bytes; a JPEG has no room for more than 65,533


class Converted(NamedTuple):
    """An image as it is taken away: its bytes, and its size in pixels where that is new."""

    data: bytes
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Conversion:
    """How images are converted; without anything, not at all.

    Attributes:
        format: A key of FORMATS, None for that of the image.
        quality: 1 to 100, of JPEG and WebP.
        max_size: Pixels of the longer side; smaller images, and larger ones made so, have it.
        told: Whether prompt and settings are written into what is converted.
    """

    format: str | None = None
    quality: int | None = None
    max_size: int | None = None
    told: bool = True

    def __post_init__(self) -> None:
        if self.quality is not None and self.format not in ("jpeg", "webp"):
            raise ValueError("--quality needs --format jpeg or webp")

    def extension(self, mime_type: str) -> str:
        """Return the extension of an image of this type, once it is converted."""
        return EXTENSIONS[FORMATS.get(self.format or "", mime_type)]

    def apply(self, data: bytes, told: dict[str, Any]) -> Converted:
        """Return an image converted, or as it is.

        Args:
            data: Of the image.
            told: What is written into it.

        Raises:
            Exception: Whatever a decoder raises, of bytes that are not an image.
        """
        if self.format is None and self.max_size is None:
            return Converted(data)
        # Not at the top: copies of files as they are need no Pillow.
        from PIL import ImageOps

        from genbatch.gallery import open_image

        kind = sniff_mime_type(data)
        with open_image(kind, io.BytesIO(data)) as opened:
            if self.format is None and max(opened.size) <= (self.max_size or 0):
                return Converted(data)
            image: Any = ImageOps.exif_transpose(opened)
            target = _KINDS[FORMATS.get(self.format or "", kind or "")]
            image = _in_mode_of(image, target, resized=self.max_size is not None)
            if self.max_size is not None:
                image.thumbnail((self.max_size, self.max_size))
            profile = opened.info.get("icc_profile") if image.mode != "L" else None
        options: dict[str, Any] = {"icc_profile": profile} if profile else {}
        if target in ("JPEG", "WEBP"):
            options["quality"] = self.quality or _QUALITY
        if self.told:
            options |= _told_in(target, told)
        file = io.BytesIO()
        image.save(file, target, **options)
        return Converted(file.getvalue(), image.size)


def _in_mode_of(image: Any, target: str, *, resized: bool) -> Any:
    """Return an image with the kind of pixels that a format has; JPEG is on white."""
    if target == "GIF" or (target == "PNG" and image.mode in ("L", "LA", "RGB", "RGBA")):
        return image
    if target == "PNG" and not resized and image.mode in ("1", "P", "I;16"):
        return image
    is_clear = image.has_transparency_data
    if target != "JPEG" or not is_clear:
        return image.convert("RGBA" if is_clear else "L" if image.mode == "L" else "RGB")
    from PIL import Image

    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _told_in(target: str, told: dict[str, Any]) -> dict[str, Any]:
    """Return the options that write what is told into an image."""
    from PIL import Image, PngImagePlugin

    if target == "PNG":
        info = PngImagePlugin.PngInfo()
        for name, value in told.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            info.add_itxt(name, _plain(text))
        return {"pnginfo": info}
    text = _plain(json.dumps(told, ensure_ascii=False))
    if target == "GIF":
        return {"comment": text.encode()[:_MOST_COMMENT]}
    exif = Image.Exif()
    # Eight bytes say how the text is written: the standard knows no UTF-8.
    wide = b"UNICODE\0" + text.encode("utf-16-be")
    comment = b"ASCII\0\0\0" + text.encode() if text.isascii() else wide
    exif.get_ifd(_EXIF)[_USER_COMMENT] = comment[:_MOST_COMMENT]
    return {"exif": exif}


def _plain(text: str) -> str:
    return text.replace("\0", " ").encode("utf-8", "replace").decode()
