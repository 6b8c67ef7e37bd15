"""The Gemini client: one prompt in, one image out, over google-genai."""

from genbatch._client import (
    JsonObject,
    backoff,
    excerpt,
    mapping,
    objects,
    parse_answer,
    read_images,
    with_retries,
)

from ._answer import file_parts, image_from
from ._client import DEFAULT_BASE_URL, GeminiClient
from ._models import (
    JOB_SHARE,
    MODELS,
    Model,
    asked_size,
    default_size,
    excess_price,
    input_price,
    is_smaller,
    model_id,
    price,
    published_price,
    refuse_retired,
    reserved_price,
    resolve,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "JOB_SHARE",
    "MODELS",
    "GeminiClient",
    "JsonObject",
    "Model",
    "asked_size",
    "backoff",
    "default_size",
    "excerpt",
    "excess_price",
    "file_parts",
    "image_from",
    "input_price",
    "is_smaller",
    "mapping",
    "model_id",
    "objects",
    "parse_answer",
    "price",
    "published_price",
    "read_images",
    "refuse_retired",
    "reserved_price",
    "resolve",
    "with_retries",
]
