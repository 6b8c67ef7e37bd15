"""Checks a request, and reads its input images, before it is sent to Gemini."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
from anyio import to_thread

from genbatch._values import ImageRequest, sniff_mime_type

from ._models import check_settings, model_id


def resolve(request: ImageRequest) -> ImageRequest:
    """Return a request with the model's full id, its settings checked.

    Raises:
        ValueError: If the model id is malformed, or the model does not support a setting.
        TypeError: If generation_config is not a mapping.
    """
    model = model_id(request.model)
    check_settings(
        model,
        aspect_ratio=request.aspect_ratio,
        image_size=request.image_size,
        thinking=request.thinking,
    )
    if not isinstance(request.generation_config, Mapping | None):
        name = type(request.generation_config).__name__
        raise TypeError(f"generation_config must be a mapping, got {name}")
    return request if model == request.model else replace(request, model=model)


async def read_images(request: ImageRequest, limiter: anyio.CapacityLimiter) -> ImageRequest:
    """Return a request whose input images are bytes.

    Args:
        request: To be sent.
        limiter: Bounds the threads that read files.

    Raises:
        ValueError: If an input image is not an image.
        OSError: If one cannot be read.
    """
    if not request.images:
        return request
    images = await to_thread.run_sync(_read_images, request.images, limiter=limiter)
    return replace(request, images=images)


def _read_images(sources: tuple[bytes | str | Path, ...]) -> tuple[bytes, ...]:
    return tuple(_read_image(source, number) for number, source in enumerate(sources, 1))


def _read_image(source: bytes | str | Path, number: int) -> bytes:
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if sniff_mime_type(data) is None:
        name = f"input image {number}" if isinstance(source, bytes) else str(source)
        raise ValueError(f"{name} is not a PNG, JPEG, WebP or GIF image")
    return data
