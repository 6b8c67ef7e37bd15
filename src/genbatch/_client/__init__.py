"""What the clients of all services share: keys, JSON, input images, attempts and retries."""

from ._retry import Throttles, backoff, paid_image, with_retries
from ._wire import (
    MOST_TOKENS,
    JsonObject,
    Secret,
    check_options,
    excerpt,
    find_base_url,
    find_key,
    images_of,
    is_fake,
    mapping,
    no_whole_image,
    objects,
    parse_answer,
    read_images,
)

__all__ = [
    "MOST_TOKENS",
    "JsonObject",
    "Secret",
    "Throttles",
    "backoff",
    "check_options",
    "excerpt",
    "find_base_url",
    "find_key",
    "images_of",
    "is_fake",
    "mapping",
    "no_whole_image",
    "objects",
    "paid_image",
    "parse_answer",
    "read_images",
    "with_retries",
]
