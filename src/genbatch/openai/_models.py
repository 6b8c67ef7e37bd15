"""What the models make, and what that costs.

Models change within weeks, so any full id is passed through. An image is billed by its quality and
its size; that the service may choose either is reserved for, as far as it is known.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from genbatch._money import ModelPrice, model_price
from genbatch._values import ImageRequest, Prompt, Usage, is_reference

_MOST_INPUTS = 16
DEFAULT_MODEL = "gpt-image-2.6-flare"
_ALIASES = {"flare": DEFAULT_MODEL, "sunburst": "gpt-image-2.6-sunburst"}
_MODEL_ID = re.compile(r"[\w.:/-]+", re.ASCII)
_SNAPSHOT = re.compile(r"-\d{4}-\d\d-\d\d$")
_MAKES_ANY_SIZE = re.compile(r"gpt-image-2\b.*")
_OURS = ("image", "model", "partial_images", "prompt", "response_format", "stream")

_PIXELS = {"1K": 1024 * 1024, "2K": 2048 * 2048, "4K": 3840 * 2160}
_RATIO = re.compile(r"([1-9]\d?):([1-9]\d?)")
_SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")
_STEP = 16
_LONGEST_SIDE = 3840
_FEWEST_PIXELS, _MOST_PIXELS = 655_360, 8_294_400
_WIDEST = 3  # times as long as high, or as high as long
# Of the sizes that it may choose itself the dearest.
_USUAL_SIZE = (1024, 1024)
_USUAL_QUALITY = "high"

_PROMPT_TOKENS = 20  # assumed for the prompt in an expected price: a sentence or two
# What an answer tells of its tokens is believed within these bounds.
_LEAST_SHARE, _MOST_SHARE = 0.75, 2
_UNSEEN = 4096  # tokens that the service may add to a prompt


def resolve(
    request: ImageRequest, prompt: str | Prompt | ImageRequest | None = None
) -> ImageRequest:
    """As OpenAIClient.resolve."""
    model = model_id(request.model)
    if isinstance(prompt, Prompt) and prompt.model is not None:
        request = replace(request, thinking=None)
    if not isinstance(request.generation_config, Mapping | None):
        name = type(request.generation_config).__name__
        raise TypeError(f"generation_config must be a mapping, got {name}")
    for name in ("thinking", "temperature", "seed", "system_instruction"):
        if (given := getattr(request, name)) is not None:
            raise ValueError(f"{model} takes no {name}, got {given!r:.100}")
    if len(request.images) > _MOST_INPUTS:
        raise ValueError(f"at most {_MOST_INPUTS} input images, got {len(request.images)}")
    for image in filter(is_reference, request.images):
        raise ValueError(f"OpenAI has no input image {image!r}: give a file")
    request = request if model == request.model else replace(request, model=model)
    fields_of(request)
    return request


def model_id(model: str) -> str:
    """Return the full id that a name stands for; a ValueError if it cannot be a model's."""
    model = model.removeprefix("openai/")
    if not _MODEL_ID.fullmatch(model):
        raise ValueError(f"not a model id: {model!r}; use flare, sunburst or a full id")
    return _ALIASES.get(model, model)


def fields_of(request: ImageRequest) -> dict[str, Any]:
    """Return what is sent for a request beside its input images.

    Raises:
        ValueError: If generation_config has a field that the client sets, something cannot be sent,
            or the model does not make the size or the quality.
    """
    given = request.generation_config or {}
    config = {name: value for name, value in given.items() if value is not None}
    for name in config:
        if name in _OURS:
            raise ValueError(f"generation_config must not have {name!r}: the client sets it")
    if config.get("n", 1) != 1:
        raise ValueError(f"n must be 1, got {config['n']!r}: a prompt asks for one image")
    if config.get("output_format") == "svg":
        raise ValueError("output_format must be png, jpeg or webp, got 'svg'")
    if request.aspect_ratio is not None or request.image_size is not None:
        config["size"] = "{}x{}".format(*_sides(request.aspect_ratio, request.image_size))
    _check_choices(request.model, config)
    fields = {"model": request.model, "prompt": request.text, **config}
    try:
        json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as exc:
        raise ValueError(f"the request cannot be sent: {exc}") from None
    if not request.model.startswith(("gpt-", "chatgpt-")):  # which send nothing else
        fields["response_format"] = "b64_json"
    return fields


def _sides(aspect_ratio: str | None, image_size: str | None) -> tuple[int, int]:
    """Return width and height for the names that all services have."""
    match = _RATIO.fullmatch(aspect_ratio or "1:1")
    if match is None or not 1 / _WIDEST <= (ratio := int(match[1]) / int(match[2])) <= _WIDEST:
        raise ValueError(f"aspect_ratio must be from 1:3 to 3:1, got {aspect_ratio!r}")
    if (pixels := _PIXELS.get(image_size or "1K")) is None:
        raise ValueError(f"image_size must be one of {', '.join(_PIXELS)}, got {image_size!r}")
    width = max(ratio, 1 / ratio)
    steps = min(math.sqrt(pixels * width), _LONGEST_SIDE) / _STEP
    # Rounded down, for fewer pixels, but not so far that the shape gets too wide.
    long, short = int(steps), max(int(steps / width + 1e-9), math.ceil(int(steps) / _WIDEST))
    sides = long * _STEP, short * _STEP
    return sides if ratio >= 1 else sides[::-1]


def _check_choices(model: str, config: Mapping[str, Any]) -> None:
    size, quality = config.get("size", "auto"), config.get("quality", "auto")
    published = published_price(model)
    if published is not None and quality not in ("auto", *published.image_tokens):
        known = ", ".join(published.image_tokens)
        raise ValueError(f"{model} makes quality {known}, got {quality!r}")
    if size == "auto" or not _MAKES_ANY_SIZE.fullmatch(model):
        return
    if (sides := _size(size)) is None:
        raise ValueError(f"size must be like '1536x1024' or 'auto', got {size!r}")
    if (
        any(side % _STEP or side > _LONGEST_SIDE for side in sides)
        or max(sides) > _WIDEST * min(sides)
        or not _FEWEST_PIXELS <= math.prod(sides) <= _MOST_PIXELS
    ):
        raise ValueError(
            f"{model} makes sides of multiples of {_STEP} up to {_LONGEST_SIDE}, shapes up to 3:1 "
            f"and {_FEWEST_PIXELS:,} to {_MOST_PIXELS:,} pixels, got {size}"
        )


def _size(size: object) -> tuple[int, int] | None:
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    return None if match is None else (int(match[1]), int(match[2]))


def published_price(model: str) -> ModelPrice | None:
    """Return the published prices of a model; a dated snapshot has those of its model."""
    return model_price("openai", model, _SNAPSHOT.sub("", model))


def reserved_price(request: ImageRequest) -> float | None:
    """Return the most that an answer with one image should cost in US dollars, None if unknown.

    It counts a token for each byte of text, and the dearest quality where that is left open.
    """
    return _price(request, len(request.text.encode(errors="replace")), {})


def expected_price(request: ImageRequest) -> float | None:
    """Return the expected price of an answer in US dollars, None if unknown."""
    return _price(request, 0, {"quality": _USUAL_QUALITY})


def _price(request: ImageRequest, length: int, usual: Mapping[str, str]) -> float | None:
    published, choices = published_price(request.model), _choices(request)
    if published is None or _is_moving(choices):
        return None
    return published.cost(
        prompt_tokens=_PROMPT_TOKENS + length,
        input_image_tokens=len(request.images) * published.input_image_tokens,
        image_tokens=max(_tokens(published, {**usual, **choices})),
    )


def cost(
    request: ImageRequest,
    usage: Usage | None,
    *,
    input_image_tokens: int,
    images: int,
    told: Mapping[str, Any],
) -> float | None:
    """Return what an answer has cost in US dollars, None where that is unknown.

    Tokens that it cannot have used say nothing of the bill.

    Args:
        request: What it answers.
        usage: The tokens that it tells.
        input_image_tokens: Those of the prompt's tokens that are of input images.
        images: How many images came.
        told: The size and the quality that the service says it has chosen.
    """
    published, choices = published_price(request.model), _choices(request)
    if published is None or usage is None:
        return None
    made = usage.output_tokens - usage.text_tokens
    if not _is_moving(choices):
        tokens = _tokens(published, {**told, **choices})
        given = len(request.text.encode(errors="replace"))
        given += len(request.images) * published.input_image_tokens
        least, most = min(tokens) * _LEAST_SHARE, max(tokens) * images * _MOST_SHARE
        if not (least <= made <= most and 0 < usage.prompt_tokens <= given * _MOST_SHARE + _UNSEEN):
            return None
    return published.cost(
        prompt_tokens=usage.prompt_tokens - input_image_tokens,
        input_image_tokens=input_image_tokens,
        text_tokens=usage.text_tokens,
        image_tokens=made,
    )


def _choices(request: ImageRequest) -> dict[str, Any]:
    """Return the fields whose choice is not left to the service."""
    fields = fields_of(request)
    return {name: value for name, value in fields.items() if value != "auto"}


def _is_moving(choices: Mapping[str, Any]) -> bool:
    """Return whether a GIF is asked for, whose frames have no published price."""
    return choices.get("output_format") == "gif"


def _tokens(published: ModelPrice, choices: Mapping[str, Any]) -> list[int]:
    """Return the tokens of an image in each quality that it may have."""
    sides, quality = _size(choices.get("size")) or _USUAL_SIZE, choices.get("quality")
    known = published.image_tokens
    square = known.get(quality) if isinstance(quality, str) else None
    squares = known.values() if square is None else [square]
    return [_tokens_of(square, *sides) for square in squares]


def _tokens_of(square: int, width: int, height: int) -> int:
    """Return the tokens of an image where one of 1,024 by 1,024 pixels has square.

    As OpenAI's calculator does it: a grid of the quality, as wide as the image is, and a share of
    the pixels.
    """
    across = round(math.sqrt(square / _share_of(1024 * 1024)))
    down = round(across * min(width, height) / max(width, height))
    return math.ceil(across * down * _share_of(width * height))


def _share_of(pixels: int) -> float:
    return (2_000_000 + pixels) / 4_000_000
