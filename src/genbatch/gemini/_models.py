"""The model table: aliases and prices. They churn, so any full id passes through it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from genbatch._image import Usage


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        id: Full id.
        alias: Short name for it.
        text_in: US dollars for a million tokens of prompt, None where not published.
        image_out: US dollars for a million tokens of image, None where not published.
    """

    id: str
    alias: str
    text_in: float | None = None
    image_out: float | None = None


MODELS = (
    Model("gemini-nano-banana-2.1", "flash", text_in=1.50, image_out=30.0),
    Model("gemini-3-pro-image", "pro"),
    Model("gemini-3.1-flash-lite-image", "lite"),
)

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


def cost(model: str, usage: Usage | None) -> float | None:
    """Return the price of one answer in US dollars.

    Args:
        model: Full id.
        usage: Tokens the answer was billed for.

    Returns:
        None where the usage or a price is unknown.
    """
    for known in MODELS:
        if (
            known.id == model
            and usage
            and known.text_in is not None
            and known.image_out is not None
        ):
            dollars = usage.prompt_tokens * known.text_in + usage.output_tokens * known.image_out
            return dollars / 1e6
    return None
