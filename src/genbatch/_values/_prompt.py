"""Prompt: one request, as a row of an input file describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        images: Input images to work from: bytes, or paths of files; PNG, JPEG, WebP, HEIC or HEIF.
        seed: Asks the model for repeatable sampling.
        metadata: Anything else, carried along untouched.

    Raises:
        ValueError: If text is blank.
        TypeError: If text is not a string.
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
        check_text(self.text)

    @classmethod
    def of(cls, prompt: str | Prompt) -> Prompt:
        """Return prompt itself, or a Prompt with its text."""
        return prompt if isinstance(prompt, Prompt) else cls(prompt)

    def variants(self, n: int) -> tuple[Prompt, ...]:
        """Return n prompts for n images of this one.

        Where there is a seed, each has the next one. Where n is above 1, an id and a filename get
        ``-1`` to ``-n`` at their ends.

        Raises:
            ValueError: If n is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        return (self,) if n == 1 else tuple(self._variant(number) for number in range(1, n + 1))

    def _variant(self, number: int) -> Prompt:
        return replace(
            self,
            id=None if self.id is None else f"{self.id}-{number}",
            filename=None if self.filename is None else f"{self.filename}-{number}",
            seed=None if self.seed is None else self.seed + number - 1,
        )


def check_text(text: str) -> None:
    """Refuse the text of a prompt that is not one.

    Raises:
        ValueError: If it is blank.
        TypeError: If it is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a prompt must be a str or Prompt, got {type(text).__name__}")
    if not text.strip():
        raise ValueError("a prompt must not be blank")
