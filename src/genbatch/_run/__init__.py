"""The run: a client, the core, a store and a budget, put together."""

from ._breaker import RunBreaker
from ._estimate import Estimate, estimate
from ._images import GenerateOnce, defaults_of, generate_images, inside
from ._paid_call import PaidCalls
from ._takes import make_takes, plan_takes

__all__ = [
    "Estimate",
    "GenerateOnce",
    "PaidCalls",
    "RunBreaker",
    "defaults_of",
    "estimate",
    "generate_images",
    "inside",
    "make_takes",
    "plan_takes",
]
