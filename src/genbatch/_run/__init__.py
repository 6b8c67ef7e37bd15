"""The run: a client, the core, a store and a budget, put together."""

from ._breaker import RunBreaker
from ._images import (
    defaults_of,
    generate_images,
    generate_once,
    inside,
    of_rows,
    request_of,
    service_of,
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
    "inside",
    "make_takes",
    "of_rows",
    "plan_takes",
    "request_of",
    "service_of",
    "warn_if_smaller",
]
