"""The model table: what each model makes and costs. It churns, so any full id passes through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from genbatch._values import Usage

_CLASSIC = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_ALL_RATIOS = (*_CLASSIC, "1:4", "1:8", "4:1", "8:1")
_ANY_LEVEL = ("minimal", "low", "medium", "high")  # every one the service has a word for
JOB_SHARE = 0.5  # of the price of a live call, that a job costs
_PROMPT_TOKENS = 20  # what an expected price allows for the prompt: a sentence or two


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        id: Full id.
        alias: Short name for it.
        image_sizes: The sizes it makes, its default first.
        aspect_ratios: The shapes it makes.
        thinking: How hard it can be told to think.
        tokens: Output tokens billed for one image by its size, empty where not published.
        text_in: US dollars for a million tokens of prompt, None where not published.
        image_out: US dollars for a million tokens of image, None where not published.
        dollars: About what one image costs by its size, where prices of tokens are not published.
    """

    id: str
    alias: str
    image_sizes: tuple[str, ...] = ("1K", "2K", "4K")
    aspect_ratios: tuple[str, ...] = _CLASSIC
    thinking: tuple[str, ...] = _ANY_LEVEL
    tokens: Mapping[str, int] = field(default_factory=dict)
    text_in: float | None = None
    image_out: float | None = None
    dollars: Mapping[str, float] = field(default_factory=dict)


# As published in autumn 2026. Models, prices and limits change within weeks: edit them here.
MODELS = (
    Model(
        "gemini-nano-banana-2.1",
        "flash",
        aspect_ratios=_ALL_RATIOS,
        thinking=("minimal", "medium", "high"),
        tokens={"1K": 1120, "2K": 1680, "4K": 2520},
        text_in=1.50,
        image_out=30.0,
    ),
    Model("gemini-3-pro-image", "pro", dollars={"1K": 0.134, "2K": 0.134, "4K": 0.24}),
    Model("gemini-3.1-flash-lite-image", "lite", image_sizes=("1K",)),
)
_RETIRED = re.compile(r"gemini-(3\.1|2\.5)-flash-image(-preview)?|imagen-.*")
_SUCCESSOR = MODELS[0]

# The id becomes a part of the URL's path.
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)


def model_id(model: str) -> str:
    """Return the full id an alias stands for, or the id itself.

    Raises:
        ValueError: If it cannot be a model id.
    """
    for known in MODELS:
        if model == known.alias:
            return known.id
    if not _MODEL_ID.fullmatch(model) or ".." in model:
        raise ValueError(f"not a model id: {model!r}")
    return model


def check_settings(
    model: str, *, aspect_ratio: str | None, image_size: str | None, thinking: str | None
) -> None:
    """Refuse what the table says the model cannot do; a model that is not in it is not checked.

    Args:
        model: Full id.
        aspect_ratio: Such as ``"16:9"``.
        image_size: Such as ``"2K"``.
        thinking: Such as ``"high"``.

    Raises:
        ValueError: Names what the model can do.
    """
    if (known := _known(model)) is None:
        return
    for name, given, does, allowed in (
        ("image_size", image_size, "makes", known.image_sizes),
        ("aspect_ratio", aspect_ratio, "makes", known.aspect_ratios),
        ("thinking", thinking, "thinks", known.thinking),
    ):
        if given is not None and given not in allowed:
            raise ValueError(f"{model} {does} {_any_of(allowed)}, got {name}={given!r}")


def cost(model: str, usage: Usage | None) -> float | None:
    """Return the price of one answer in US dollars.

    Thoughts are left out: what they cost is not published.

    Args:
        model: Full id.
        usage: Tokens the answer was billed for.

    Returns:
        None where the usage or a price is unknown.
    """
    known = _known(model)
    if known is None or usage is None or known.text_in is None or known.image_out is None:
        return None
    return (usage.prompt_tokens * known.text_in + usage.output_tokens * known.image_out) / 1e6


def price(model: str, image_size: str | None = None) -> float | None:
    """Return about what one image will cost in US dollars, before it is made.

    Args:
        model: Full id or alias.
        image_size: Such as ``"2K"``; the model's default where None.

    Returns:
        None where the table cannot tell.

    Raises:
        ValueError: If model cannot be a model id.
    """
    model = model_id(model)
    if (known := _known(model)) is None:
        return None
    size = known.image_sizes[0] if image_size is None else image_size
    if size not in known.tokens:
        return known.dollars.get(size)
    usage = Usage(prompt_tokens=_PROMPT_TOKENS, output_tokens=known.tokens[size])
    return cost(model, usage)


def default_size(model: str) -> str | None:
    """Return the size that a model of this full id makes where none is asked for, if known."""
    known = _known(model)
    return None if known is None else known.image_sizes[0]


def makes_images(model: str) -> bool:
    """Return whether a model of this id makes images; the service's list of models does not say."""
    return _known(model) is not None or "image" in model or "banana" in model


def advice(model: str) -> str | None:
    """Return what is wrong with a model that the service does not find, and which one to use.

    Returns:
        None for a model of the table, which should be there, and for what is no model.
    """
    if _known(model) is not None or not _MODEL_ID.fullmatch(model):
        return None
    if _RETIRED.fullmatch(model):
        return f"was shut down: use {_SUCCESSOR.alias!r} ({_SUCCESSOR.id})"
    return f"was not found: use {_any_of(f'{known.alias!r} ({known.id})' for known in MODELS)}"


def _known(model: str) -> Model | None:
    return next((known for known in MODELS if known.id == model), None)


def _any_of(words: Iterable[str]) -> str:
    """Return the words as a list in English."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else f"{last} only"
