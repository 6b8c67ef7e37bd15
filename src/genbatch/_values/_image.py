"""Image and SavedImage, and the true type of image bytes."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
}


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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens one answer was billed for; thoughts are not part of its output tokens."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    thought_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """A generated image, its bytes in memory.

    Attributes:
        data: The bytes exactly as the model sent them.
        mime_type: True type, read from the bytes.
        model: Full id of the model asked.
        usage: Tokens billed, None where the answer does not say.
        text: What the model wrote beside the image.
        cost: US dollars by the price table, None for a model it does not list.
        response_id: The service's id of this answer.
        extras: Further images of the same answer, seldom any; usage, text and cost are here.
    """

    data: bytes = field(repr=False)
    mime_type: str
    model: str
    usage: Usage | None = None
    text: str = ""
    cost: float | None = None
    response_id: str | None = None
    extras: tuple[Image, ...] = ()

    @property
    def extension(self) -> str:
        """File extension true to the bytes, with its dot."""
        return EXTENSIONS[self.mime_type]

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
        cost: US dollars by the price table, None where unknown.
        resumed: Whether an earlier run had saved it and no call was made.
        model: Full id of the model asked, None where resumed.
        usage: Tokens billed, None where unknown.
        text: What the model wrote beside the image.
        extras: Files of further images of the same answer, seldom any.
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
