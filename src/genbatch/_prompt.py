"""Prompt: one request, as a row of an input file describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with settings of its own; each one given overrides the run-wide one.

    Attributes:
        text: What to draw; not blank.
        id: The caller's name for the row.
        filename: Name of the image file without its extension.
        model: Model id, or an alias such as ``"flash"``.
        aspect_ratio: Such as ``"16:9"``.
        image_size: Such as ``"2K"``.
        images: Input images to work from: bytes, or paths of files.
        seed: Asks the model for repeatable sampling.
        metadata: Anything else, carried along untouched.

    Raises:
        ValueError: If text is blank.
        TypeError: If text is no string.
    """

    text: str
    id: str | None = None
    filename: str | None = None
    model: str | None = None
    aspect_ratio: str | None = None
    image_size: str | None = None
    images: tuple[bytes | str | Path, ...] = ()
    seed: int | None = None
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"a prompt must be a str or Prompt, got {type(self.text).__name__}")
        if not self.text.strip():
            raise ValueError("a prompt must not be blank")

    @classmethod
    def of(cls, prompt: str | Prompt) -> Prompt:
        """Return prompt itself, or a Prompt with its text."""
        return prompt if isinstance(prompt, Prompt) else cls(prompt)
