"""The model table: what each model can make.

Models change within weeks, so any full id is passed through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from mimetypes import guess_type

from genbatch._money import ModelPrice, model_price
from genbatch._values import ImageRequest, Prompt, Rejected, Usage, asked_size, is_smaller

_CLASSIC = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_ALL_RATIOS = (*_CLASSIC, "1:4", "1:8", "4:1", "8:1")
_JOB_SHARE = 0.5  # price of a batch request as a share of a live one's, where no file tells it
_BYTES_A_TOKEN = 4  # of text, in an expected price
_PROMPT_TOKENS = 20  # assumed for the prompt in an expected price: a sentence or two
# What an answer tells of its tokens is believed within these bounds.
_LEAST_SHARE, _MOST_SHARE = 0.75, 2  # of those of the price file
_MOST_BYTES_A_TOKEN = 64  # of the prompt
_UNSEEN = 4096  # tokens that a service may add to a prompt
_MOST_TEXT = 65_536  # tokens of text and thoughts: twice the most that these models may answer with
TIMEOUT = 120.0  # seconds of an attempt where the user sets none
_LONG_TIMEOUT = 300.0  # the same for 4K and for slow models, which take minutes at times


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        id: Full id.
        alias: Short name for it.
        image_sizes: The sizes it makes, its default first.
        aspect_ratios: The shapes it makes.
        thinking: Its thinking levels, none where they cannot be set.
        is_slow: Whether its answers take minutes at times.
    """

    id: str
    alias: str
    image_sizes: tuple[str, ...] = ("1K", "2K", "4K")
    aspect_ratios: tuple[str, ...] = _CLASSIC
    thinking: tuple[str, ...] = ()
    is_slow: bool = False


# As published in autumn 2026.
MODELS = (
    Model(
        "gemini-nano-banana-2.1",
        "flash",
        aspect_ratios=_ALL_RATIOS,
        thinking=("minimal", "medium", "high"),
    ),
    Model("gemini-3-pro-image", "pro", is_slow=True),  # it always thinks, as hard as it likes
    Model(
        "gemini-3.1-flash-lite-image",
        "lite",
        image_sizes=("1K",),
        aspect_ratios=_ALL_RATIOS,
        thinking=("minimal", "high"),
    ),
)
_BY_ID = {model.id: model for model in MODELS}
_GONE = re.compile(r"gemini-2\.5-flash-image(-preview)?|imagen-.*")  # for certain
_RETIRED = re.compile(r"gemini-(3\.1|2\.5)-flash-image(-preview)?|imagen-.*")
_SUCCESSOR = MODELS[0]
_LEVELS = {level for model in MODELS for level in model.thinking}

# The id becomes a part of the URL's path.
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)


def model_id(model: str) -> str:
    """Return the full id an alias stands for, or the id itself.

    Raises:
        ValueError: If it cannot be a model id.
    """
    model = model.removeprefix("models/")
    for known in MODELS:
        if model == known.alias:
            return known.id
    if not _MODEL_ID.fullmatch(model) or ".." in model:
        raise ValueError(f"not a model id: {model!r}; use flash, pro, lite or a full id")
    return model


def resolve(
    request: ImageRequest, prompt: str | Prompt | ImageRequest | None = None
) -> ImageRequest:
    """Return a request with the model's full id, its settings checked.

    Args:
        request: For one image.
        prompt: What it was made of. If that names its own model, a thinking level given for
            all prompts is left out where its model does not have it.

    Raises:
        ValueError: If the model id is malformed, the model does not support a setting, or several
            candidates are asked for.
        TypeError: If generation_config is not a mapping.
    """
    model = model_id(request.model)
    if isinstance(prompt, Prompt) and prompt.model is not None and request.thinking in _LEVELS:
        known = _known(model)
        if known is not None and request.thinking not in known.thinking:
            request = replace(request, thinking=None)
    check_settings(
        model,
        aspect_ratio=request.aspect_ratio,
        image_size=request.image_size,
        thinking=request.thinking,
    )
    if not isinstance(request.generation_config, Mapping | None):
        name = type(request.generation_config).__name__
        raise TypeError(f"generation_config must be a mapping, got {name}")
    config = request.generation_config or {}
    if (count := config.get("candidate_count", config.get("candidateCount"))) not in (None, 1, "1"):
        raise ValueError(f"candidate_count must be 1, got {count!r}: a prompt asks for one image")
    for image in request.images:
        if isinstance(image, str) and image.startswith("gs://"):
            type_in_bucket(image)
    return request if model == request.model else replace(request, model=model)


def type_in_bucket(name: str) -> str:
    """Return the type of an image in a bucket, which Vertex wants to be told.

    Raises:
        ValueError: If its name does not say it.
    """
    mime_type, _ = guess_type(name)
    if mime_type is None or not mime_type.startswith("image/"):
        raise ValueError(f"{name}: its name must end in .png, .jpg, .webp, .heic or .heif")
    return mime_type


def canonical(request: ImageRequest) -> ImageRequest:
    """Return a request with its model's full id, without settings that are its defaults."""
    config = request.generation_config or {}
    if "image_config" in config or "imageConfig" in config:
        return request  # those it overrides
    size, ratio = request.image_size, request.aspect_ratio
    if size is not None and size == default_size(request.model):
        size = None
    if ratio == "1:1" and not request.images:  # else it is that of the first of them
        ratio = None
    if (size, ratio) == (request.image_size, request.aspect_ratio):
        return request
    return replace(request, image_size=size, aspect_ratio=ratio)


def check_settings(
    model: str, *, aspect_ratio: str | None, image_size: str | None, thinking: str | None
) -> None:
    """Refuse settings that the model does not support; models not in the table are not checked.

    Args:
        model: Full id.
        aspect_ratio: Such as ``"16:9"``.
        image_size: Such as ``"2K"``.
        thinking: Such as ``"high"``.

    Raises:
        ValueError: If one is not supported; the message lists what is.
    """
    if (known := _known(model)) is None:
        return
    for name, given, does, allowed in (
        ("image_size", image_size, "makes", known.image_sizes),
        ("aspect_ratio", aspect_ratio, "makes", known.aspect_ratios),
        ("thinking", thinking, "thinks", known.thinking),
    ):
        if given is not None and not allowed:
            raise ValueError(f"{model} takes no {name}, got {given!r}")
        if given is not None and given not in allowed:
            raise ValueError(f"{model} {does} {_any_of(allowed)}, got {name}={given!r}")


def cost(
    model: str, usage: Usage | None, tier: str | None = None, searches: int = 0
) -> float | None:
    """Return the price of one answer in US dollars.

    Args:
        model: Full id.
        usage: Tokens billed for the answer.
        tier: The service tier that served it; None for the standard one.
        searches: Search queries that it was grounded with.

    Returns:
        None where the usage, the price, or that of the tier is unknown.
    """
    published = published_price(model)
    if published is None or usage is None:
        return None
    factor = 1.0 if tier in (None, "standard") else published.tiers.get(tier or "")
    if factor is None:
        return None
    tokens = published.cost(
        prompt_tokens=usage.prompt_tokens,
        text_tokens=usage.text_tokens + usage.thought_tokens,
        image_tokens=usage.output_tokens - usage.text_tokens,
    )
    return factor * tokens + searches * published.search


def published_price(model: str) -> ModelPrice | None:
    """Return the published prices of a model; a file of prices may have it by its alias too."""
    known = _known(model)
    return model_price("gemini", *(() if known is None else (known.alias,)), model)


def is_plausible(
    usage: Usage, request: ImageRequest, images: int, pixels: tuple[int, int] | None
) -> bool:
    """Return whether an answer can have used the tokens that it tells.

    They are compared with those of the price file for what was asked for and what came. What is far
    from them says nothing of the bill, which then counts at its reserved price.

    Args:
        usage: As told.
        request: What was asked for, with the model's full id.
        images: How many images came, damaged ones too.
        pixels: Width and height of the first one, None where they are unknown: it may be smaller
            than was asked for.

    Returns:
        True too for a model without a price.
    """
    published = published_price(request.model)
    if published is None:
        return True
    sizes, size = published.image_tokens, asked_size(request) or default_size(request.model)
    most = sizes[size] if size and size in sizes else max(sizes.values())
    came = [tokens for name, tokens in sizes.items() if pixels and not is_smaller(name, *pixels)]
    least = min(most, max(came, default=min(sizes.values())) if pixels else most)
    texts = (request.text, request.system_instruction or "", str(request.generation_config or ""))
    length = sum(map(_length, texts))
    prompt = _PROMPT_TOKENS + length + len(request.images) * published.input_image_tokens
    return (
        least * images * _LEAST_SHARE
        <= usage.output_tokens - usage.text_tokens
        <= most * images * _MOST_SHARE
        and length // _MOST_BYTES_A_TOKEN < usage.prompt_tokens <= prompt * _MOST_SHARE + _UNSEEN
        and usage.text_tokens + usage.thought_tokens <= _MOST_TEXT
    )


def price(model: str, image_size: str | None = None) -> float | None:
    """Return the expected price of one image in US dollars.

    Args:
        model: Full id or alias.
        image_size: Such as ``"2K"``; the model's default where None.

    Returns:
        None where the table has no price.

    Raises:
        ValueError: If model cannot be a model id.
    """
    model = model_id(model)
    published = published_price(model)
    if published is None:
        return None
    size = image_size or default_size(model) or next(iter(published.image_tokens))
    if size not in published.image_tokens:
        return None
    return published.cost(prompt_tokens=_PROMPT_TOKENS, image_tokens=published.image_tokens[size])


def expected_price(request: ImageRequest) -> float | None:
    """Return the US dollars that one image of a request is expected to cost.

    It counts a token for four bytes of text, each input image, and no thoughts.

    Args:
        request: With the model's full id.

    Returns:
        None where no price is known.
    """
    published = published_price(request.model)
    size = asked_size(request) or default_size(request.model)
    if published is None:
        return None
    sizes = published.image_tokens
    if (size or next(iter(sizes))) not in sizes:
        return None
    text = _length(request.text) + _length(request.system_instruction or "")
    prompt = max(_PROMPT_TOKENS, text // _BYTES_A_TOKEN)
    tokens = published.cost(
        prompt_tokens=prompt + len(request.images) * published.input_image_tokens,
        image_tokens=sizes[size or next(iter(sizes))],
    )
    return _most_of_tier(published, asked_tier(request)) * tokens


def reserved_price(request: ImageRequest) -> float | None:
    """Return the most that one answer with one image should cost in US dollars.

    It counts a token for each byte of text, each input image, as many tokens of thoughts as the
    price file states, an image of the size that is asked for, and a search query if it may search.

    Args:
        request: With the model's full id.

    Returns:
        None where no price is known.
    """
    published = published_price(request.model)
    if published is None:
        return None
    # It may hold a system instruction, and ask for a size.
    config = str(request.generation_config or "")
    names = config.lower().replace("_", "")
    sizes, size = published.image_tokens, request.image_size
    if size is None and "imagesize" not in names:
        size = default_size(request.model)
    if size is not None and size not in sizes:
        return None
    texts = (request.text, request.system_instruction or "", config)
    given = sum(map(_length, texts)) + len(request.images) * published.input_image_tokens
    tokens = published.cost(
        prompt_tokens=_PROMPT_TOKENS + given,
        text_tokens=published.thought_tokens,
        image_tokens=max(sizes.values()) if size is None else sizes[size],
    )
    factor = _most_of_tier(published, asked_tier(request))
    searches = "googlesearch" in names
    return factor * tokens + searches * published.search


def job_share(model: str) -> float:
    """Return the price of a request in a batch job as a share of that of a live one."""
    published = published_price(model)
    return _JOB_SHARE if published is None else published.tiers.get("batch", _JOB_SHARE)


def job_price(request: ImageRequest, each: float | None = None) -> float | None:
    """Return the most that the answer of a batch request with one image should cost.

    Args:
        request: With the model's full id.
        each: US dollars of a live image, in place of the published prices.
    """
    live = reserved_price(request) if each is None else each
    return None if live is None else live * job_share(request.model)


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def asked_tier(request: ImageRequest) -> str | None:
    """Return the service tier that is asked for in lower case, None where none is."""
    config = request.generation_config or {}
    tier = config.get("service_tier", config.get("serviceTier"))
    return None if tier is None else tier_name(getattr(tier, "value", tier))


def tier_name(tier: object) -> str:
    """Return the name of a service tier as the price file has it."""
    return str(tier).lower().removeprefix("service_tier_")


def _most_of_tier(published: ModelPrice, tier: str | None) -> float:
    """Return the most that a tier multiplies prices by; an unknown one may be the dearest."""
    if tier in (None, "standard", "unspecified"):
        return 1.0
    return published.tiers.get(tier or "", max(1.0, *published.tiers.values()))


def default_timeout(request: ImageRequest) -> float:
    """Return the seconds that an attempt may take where the user sets no timeout."""
    known = _known(request.model)
    is_slow = asked_size(request) == "4K" or (known is not None and known.is_slow)
    return _LONG_TIMEOUT if is_slow else TIMEOUT


def default_size(model: str) -> str | None:
    """Return the size that a model makes by default, None where it is not known."""
    known = _known(model)
    return None if known is None else known.image_sizes[0]


def makes_images(model: str) -> bool:
    """Return whether a model makes images, by its id: the service's list does not say."""
    return _known(model) is not None or "image" in model or "banana" in model


def refuse_retired(model: str) -> None:
    """Refuse a model that is known to have been shut down; no call is needed to tell.

    Raises:
        Rejected: If it was; its scope is the model.
    """
    if _GONE.fullmatch(model):
        error = Rejected(f"{model} {advice(model)}")
        error.scope = "model"
        raise error


def advice(model: str) -> str | None:
    """Return which model to use in place of one that the service does not find.

    Returns:
        None for a model of the table, which should exist, and for a malformed id.
    """
    if _known(model) is not None or not _MODEL_ID.fullmatch(model):
        return None
    if _RETIRED.fullmatch(model):
        return f"was shut down: use {_SUCCESSOR.alias!r} ({_SUCCESSOR.id})"
    return f"was not found: use {_any_of(f'{known.alias!r} ({known.id})' for known in MODELS)}"


def _known(model: str) -> Model | None:
    return _BY_ID.get(model)


def _any_of(words: Iterable[str]) -> str:
    """Return the words as an English list."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else f"{last} only"
