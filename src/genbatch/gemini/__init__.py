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
from ._client import DEFAULT_BASE_URL, GeminiClient, server_of
from ._models import (
    MODELS,
    Model,
    default_size,
    job_price,
    job_share,
    model_id,
    price,
    published_price,
    reserved_price,
    resolve,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "MODELS",
    "GeminiClient",
    "JsonObject",
    "Model",
    "backoff",
    "default_size",
    "excerpt",
    "file_parts",
    "image_from",
    "job_price",
    "job_share",
    "mapping",
    "model_id",
    "objects",
    "parse_answer",
    "price",
    "published_price",
    "read_images",
    "reserved_price",
    "resolve",
    "server_of",
    "with_retries",
]
