"""The run: a client, the core, a store and a budget, put together."""

from ._breaker import RunBreaker
from ._estimate import Estimate, estimate
from ._images import defaults_of, generate_images, generate_once, inside
from ._paid_call import PaidCalls, warn_if_smaller
from ._takes import make_takes, plan_takes

__all__ = [
    "Estimate",
    "PaidCalls",
    "RunBreaker",
    "defaults_of",
    "estimate",
    "generate_images",
    "generate_once",
    "inside",
    "make_takes",
    "plan_takes",
    "warn_if_smaller",
]
