"""Prompt and ImageRequest: a row of an input, and the same with every setting of its image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_TEXTS = ("id", "filename", "model", "aspect_ratio", "image_size")  # of a Prompt
_NO_TEXTS = (None,) * len(_TEXTS)
_SIDES = {"1K": 1024, "2K": 2048, "4K": 4096}  # pixels of a square image


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
            A text such as ``"files/abc-123"`` or ``"gs://bucket/fox.png"`` names one that Gemini
            has.
        seed: Asks the model for repeatable sampling.
        metadata: Anything else, carried along untouched.
        source: Name of the input that it is from, for the names of files.
        variant: Its number among the images of one row, from 1; None where it is the only one.

    Raises:
        ValueError: If text is blank.
        TypeError: If one is of another type.
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
    source: str | None = field(default=None, compare=False)
    variant: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_text(self.text)
        # Most prompts of a long input have none of these.
        texts = (self.id, self.filename, self.model, self.aspect_ratio, self.image_size)
        if texts != _NO_TEXTS:
            for name, value in zip(_TEXTS, texts, strict=True):
                if value is not None and type(value) is not str:
                    check_type(name, value, str)
        if self.seed is not None:
            check_type("seed", self.seed, int)
        if self.images != ():
            object.__setattr__(self, "images", _tuple_of_images(self.images))
        if type(self.metadata) is not dict:
            check_type("metadata", self.metadata, Mapping)

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
            TypeError: If it is not a whole number.
        """
        check_type("n", n, int)
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        return (self,) if n == 1 else tuple(self._variant(number) for number in range(1, n + 1))

    def _variant(self, number: int) -> Prompt:
        return replace(
            self,
            id=None if self.id is None else f"{self.id}-{number}",
            filename=None if self.filename is None else f"{self.filename}-{number}",
            seed=None if self.seed is None else self.seed + number - 1,
            variant=number,
        )


_WORDS = {
    str: "a str",
    int: "an int",
    float: "a number",
    bool: "True or False",
    Mapping: "a mapping, such as a dict",
}


def check_type(name: str, value: object, kind: type, *, hint: str = "") -> None:
    """Refuse the value of an argument that is of another type.

    Args:
        name: That of the argument.
        value: Its value.
        kind: The type that it must have; an int is a float too, but True is no int.
        hint: What to do instead, for the message.

    Raises:
        TypeError: If it is of another type.
    """
    is_number = kind is float and isinstance(value, int)
    if not (isinstance(value, kind) or is_number) or (type(value) is bool and kind is not bool):
        must = _WORDS.get(kind) or f"a {kind.__name__}"
        raise TypeError(f"{name} must be {must}, got {type(value).__name__}{hint}")


def _tuple_of_images(images: object) -> tuple[bytes | str | Path, ...]:
    if not isinstance(images, tuple | list):
        hint = ": put it in a tuple" if isinstance(images, str | bytes | Path) else ""
        kind = type(images).__name__
        raise TypeError(f"images must be a tuple of paths or bytes, got {kind}{hint}")
    for each in images:
        if not isinstance(each, bytes | str | Path):
            kind = type(each).__name__
            raise TypeError(f"each of images must be a path or bytes, got {kind}")
    return tuple(images)


def check_text(text: str) -> None:
    """Refuse the text of a prompt that is not one.

    Raises:
        ValueError: If it is blank.
        TypeError: If it is not a string.
    """
    if not isinstance(text, str):
        hint = ": give prompt_column=, the name of its column" if isinstance(text, Mapping) else ""
        hint = ": pass the column's to_pylist()" if hasattr(text, "as_py") else hint  # of Arrow
        raise TypeError(f"a prompt must be a str or Prompt, got {type(text).__name__}{hint}")
    if not text.strip():
        raise ValueError("a prompt must not be blank")


class ImageSettings(TypedDict, total=False):
    """The settings that an image can be asked for with, in every function that makes images.

    A Prompt's own settings override those of its batch.

    Attributes:
        model: ``"flash"``, ``"pro"``, ``"lite"``, or any full model id.
        aspect_ratio: Such as ``"16:9"``; the model's default where None.
        image_size: ``"1K"``, ``"2K"`` or ``"4K"``; the model's default where None.
        thinking: ``"minimal"``, ``"medium"`` or ``"high"``, as the model has them; its default
            where None. A prompt whose own model lacks the level given for all goes without.
        temperature: How freely to sample; the model's default where None. Deprecated by the service
            since July 2026: leave it out.
        seed: Asks for repeatable sampling.
        system_instruction: Told to the model before the prompt.
        generation_config: Any other field of google-genai's GenerateContentConfig, in snake or
            camel case; what google-genai does not know goes into the request's generationConfig as
            it is. The settings above win over it. What google-genai does not send to the service,
            such as output_mime_type outside Vertex, and a candidate_count above 1 are ValueErrors.
    """

    model: str
    aspect_ratio: str | None
    image_size: str | None
    thinking: str | None
    temperature: float | None
    seed: int | None
    system_instruction: str | None
    generation_config: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One request for an image: a prompt, and every setting.

    Attributes:
        text: What to draw; not blank.
        images: Input images to work from, as for Prompt.
        id: The caller's name for the prompt.
        filename: Name of the image file without its extension.
        metadata: Anything else that the prompt carries along.
        source: Name of the input that the prompt is from.
        variant: Number among the images of one row, from 1.
        service: Name of the service that is asked; a client's resolve sets it.

    The other attributes are those of ImageSettings.

    Raises:
        ValueError: If text is blank.
        TypeError: If text is not a string.
    """

    text: str
    model: str = "flash"
    aspect_ratio: str | None = None
    image_size: str | None = None
    thinking: str | None = None
    temperature: float | None = None
    seed: int | None = None
    system_instruction: str | None = None
    generation_config: Mapping[str, Any] | None = field(default=None, hash=False)
    images: tuple[bytes | str | Path, ...] = ()
    id: str | None = None
    filename: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)
    service: str = ""
    source: str | None = field(default=None, compare=False)
    variant: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_text(self.text)

    @classmethod
    def of(cls, prompt: str | Prompt | ImageRequest, settings: ImageSettings) -> ImageRequest:
        """Return the request for a prompt among settings, which the prompt's own override.

        Raises:
            TypeError: If there is no such setting, or a request is given with settings beside it.
        """
        if unknown := settings.keys() - _SETTINGS:
            name = min(unknown)
            hint = "; a Prompt has it" if name in Prompt.__dataclass_fields__ else ""
            known = ", ".join(_SETTINGS)
            raise TypeError(f"there is no setting {name!r}: there are {known}{hint}")
        for name, kind in _TYPES.items():
            if settings.get(name) is not None or (name == "model" and name in settings):
                check_type(name, settings[name], kind)  # type: ignore[literal-required]
        if isinstance(prompt, ImageRequest):
            if settings:
                raise TypeError("an ImageRequest has its own settings: put them into it")
            return prompt
        return cls("any text", **settings).with_prompt(prompt)

    def with_prompt(self, prompt: str | Prompt) -> ImageRequest:
        """Return this request for another prompt, whose own settings override its own."""
        if isinstance(prompt, str):
            return replace(self, text=prompt)
        prompt = Prompt.of(prompt)
        given = {each.name: getattr(prompt, each.name) for each in fields(prompt)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @property
    def prompt(self) -> Prompt:
        """The prompt alone, with the settings that a Prompt can have."""
        return Prompt(**{each.name: getattr(self, each.name) for each in fields(Prompt)})

    @property
    def options(self) -> dict[str, Any]:
        """The settings that are given and that a Prompt cannot have."""
        return {
            name: value
            for name in ("thinking", "temperature", "system_instruction", "generation_config")
            if (value := getattr(self, name)) is not None
        }


_TYPES: Mapping[str, type] = {
    "model": str,
    "aspect_ratio": str,
    "image_size": str,
    "thinking": str,
    "temperature": float,
    "seed": int,
    "system_instruction": str,
}
_SETTINGS = {
    each.name: each for each in fields(ImageRequest) if each.name in ImageSettings.__annotations__
}


def takes_settings(function: F) -> F:
    """Spell the settings out in the signature of a function that takes ``**settings``."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    settings = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=setting.type
        )
        for name, setting in _SETTINGS.items()
    ]
    spelled_out = signature.replace(parameters=[*own, *settings])
    function.__signature__ = spelled_out  # type: ignore[attr-defined]  # inspect looks for it
    return function


def asked_size(request: ImageRequest) -> str | None:
    """Return the name of the size that is asked for, None where that is left to the model."""
    config = request.generation_config or {}
    given = config.get("image_config", config.get("imageConfig"))
    if isinstance(given, Mapping):
        size = given.get("image_size", given.get("imageSize"))
    else:
        size = getattr(given, "image_size", None)  # of google-genai's own type
    return request.image_size or (size if isinstance(size, str) else None)


def is_smaller(size: str | None, width: int | None, height: int | None) -> bool:
    """Return whether an image has less than 45 % of the pixels that a size's name stands for.

    1K stands for 1024 x 1024 in whatever aspect ratio; each further size has four times as many.
    The largest that a service makes may be called 4K at half of that.
    """
    side = _SIDES.get(size or "")
    return bool(side and width and height) and 20 * width * height < 9 * side**2  # type: ignore[operator]
