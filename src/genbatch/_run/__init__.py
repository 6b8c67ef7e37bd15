"""The run: a client, the core, a store and a budget, put together."""

from ._breaker import FIRST_REFUSED, RunBreaker
from ._images import (
    defaults_of,
    generate_images,
    generate_once,
    input_of,
    inside,
    of_rows,
    position_in,
    request_of,
    service_of,
)
from ._look import FirstLook, Looked
from ._paid_call import PaidCalls, warn_if_smaller
from ._service import Generate, ImageClient, Service
from ._takes import Take, make_takes, plan_takes, takes_in

__all__ = [
    "FIRST_REFUSED",
    "FirstLook",
    "Generate",
    "ImageClient",
    "Looked",
    "PaidCalls",
    "RunBreaker",
    "Service",
    "Take",
    "defaults_of",
    "generate_images",
    "generate_once",
    "input_of",
    "inside",
    "make_takes",
    "of_rows",
    "plan_takes",
    "position_in",
    "request_of",
    "service_of",
    "takes_in",
    "warn_if_smaller",
]
