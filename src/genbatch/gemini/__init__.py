"""The Gemini client: one prompt in, one image out, over google-genai."""

from ._answer import JsonObject, excerpt, file_parts, image_from, mapping, objects, parse_answer
from ._client import GeminiClient, read_images
from ._models import (
    MODELS,
    Model,
    default_size,
    input_price,
    job_price,
    job_share,
    model_id,
    price,
    published_price,
    reserved_price,
    resolve,
)
from ._retry import backoff, with_retries
from ._settings import DEFAULT_BASE_URL

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
    "input_price",
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
    "with_retries",
]
