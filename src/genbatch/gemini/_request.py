"""A prompt made ready to send: model id, settings merged, input images read and recognized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from genbatch._image import sniff_mime_type
from genbatch._prompt import Prompt

from ._models import model_id


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to work from: its bytes and its true type."""

    data: bytes
    mime_type: str


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One request, the same at each attempt."""

    model: str
    text: str
    images: tuple[InputImage, ...]
    aspect_ratio: str | None
    image_size: str | None
    seed: int | None


async def prepare(
    prompt: str | Prompt,
    *,
    model: str,
    aspect_ratio: str | None,
    image_size: str | None,
    limiter: anyio.CapacityLimiter,
) -> ImageRequest:
    """Merge a prompt's own settings over the call's and read its input images.

    Args:
        prompt: What to draw.
        model: Id or alias.
        aspect_ratio: Such as ``"16:9"``.
        image_size: Such as ``"2K"``.
        limiter: Bounds the threads that read files.

    Raises:
        ValueError: If the text is blank, or an input image is no image.
        OSError: If an input image cannot be read.
    """
    prompt = Prompt.of(prompt)
    images: tuple[InputImage, ...] = ()
    if prompt.images:
        images = await to_thread.run_sync(_read_images, prompt.images, limiter=limiter)
    return ImageRequest(
        model=model_id(model if prompt.model is None else prompt.model),
        text=prompt.text,
        images=images,
        aspect_ratio=aspect_ratio if prompt.aspect_ratio is None else prompt.aspect_ratio,
        image_size=image_size if prompt.image_size is None else prompt.image_size,
        seed=prompt.seed,
    )


def _read_images(sources: tuple[bytes | str | Path, ...]) -> tuple[InputImage, ...]:
    return tuple(_read_image(source, number) for number, source in enumerate(sources, 1))


def _read_image(source: bytes | str | Path, number: int) -> InputImage:
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    mime_type = sniff_mime_type(data)
    if mime_type is None:
        name = f"input image {number}" if isinstance(source, bytes) else str(source)
        raise ValueError(f"{name} is not a PNG, JPEG, WebP or GIF image")
    return InputImage(data, mime_type)
