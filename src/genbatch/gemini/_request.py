"""A prompt made ready to send: settings merged and checked, input images read and recognized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from genbatch._values import Prompt, sniff_mime_type

from ._models import check_settings, model_id

SETTINGS_OF_A_PROMPT = ("model", "aspect_ratio", "image_size", "seed")


@dataclass(frozen=True, slots=True)
class Settings:
    """How an image is to be made; what is None is left to the model."""

    model: str
    aspect_ratio: str | None = None
    image_size: str | None = None
    thinking: str | None = None
    temperature: float | None = None
    seed: int | None = None
    system_instruction: str | None = None
    generation_config: Mapping[str, Any] | None = None

    def checked(self) -> Settings:
        """Return these settings with the model's full id.

        Raises:
            ValueError: If model cannot be one, or the model cannot do what is asked for.
            TypeError: If generation_config is no mapping.
        """
        model = model_id(self.model)
        check_settings(
            model,
            aspect_ratio=self.aspect_ratio,
            image_size=self.image_size,
            thinking=self.thinking,
        )
        if not isinstance(self.generation_config, Mapping | None):
            name = type(self.generation_config).__name__
            raise TypeError(f"generation_config must be a mapping, got {name}")
        return replace(self, model=model)

    def overridden_by(self, prompt: Prompt) -> Settings:
        """Return these settings with those that prompt brings in place of their own."""
        own = {name: getattr(prompt, name) for name in SETTINGS_OF_A_PROMPT}
        return replace(self, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to work from: its bytes and its true type."""

    data: bytes
    mime_type: str


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One request, the same at each attempt."""

    text: str
    images: tuple[InputImage, ...]
    settings: Settings

    @property
    def model(self) -> str:
        """Full id of the model asked."""
        return self.settings.model


async def prepare(
    prompt: str | Prompt, settings: Settings, limiter: anyio.CapacityLimiter
) -> ImageRequest:
    """Merge a prompt's own settings over the call's and read its input images.

    Args:
        prompt: What to draw.
        settings: Those of the call.
        limiter: Bounds the threads that read files.

    Raises:
        ValueError: If the text is blank, the model cannot do what is asked for, or an input image
            is no image.
        TypeError: If prompt or a setting is of the wrong type.
        OSError: If an input image cannot be read.
    """
    prompt = Prompt.of(prompt)
    settings = settings.overridden_by(prompt).checked()
    images: tuple[InputImage, ...] = ()
    if prompt.images:
        images = await to_thread.run_sync(_read_images, prompt.images, limiter=limiter)
    return ImageRequest(prompt.text, images, settings)


def _read_images(sources: tuple[bytes | str | Path, ...]) -> tuple[InputImage, ...]:
    return tuple(_read_image(source, number) for number, source in enumerate(sources, 1))


def _read_image(source: bytes | str | Path, number: int) -> InputImage:
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    mime_type = sniff_mime_type(data)
    if mime_type is None:
        name = f"input image {number}" if isinstance(source, bytes) else str(source)
        raise ValueError(f"{name} is not a PNG, JPEG, WebP or GIF image")
    return InputImage(data, mime_type)
