"""The run: a client, the core, a store and a budget, put together."""

from ._breaker import RunBreaker
from ._images import (
    defaults_of,
    generate_images,
    generate_once,
    input_of,
    inside,
    request_of,
)
from ._paid_call import PaidCalls, warn_if_smaller
from ._service import Generate, ImageClient, Service
from ._takes import make_takes, plan_takes

__all__ = [
    "Generate",
    "ImageClient",
    "PaidCalls",
    "RunBreaker",
    "Service",
    "defaults_of",
    "generate_images",
    "generate_once",
    "input_of",
    "inside",
    "make_takes",
    "plan_takes",
    "request_of",
    "warn_if_smaller",
]
