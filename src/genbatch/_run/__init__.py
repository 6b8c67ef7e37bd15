"""The run: a client, the core, a store and a budget, put together."""

from ._completion import Completion, split
from ._estimate import Estimate, estimate
from ._images import GenerateOnce, Run, generate_images, inside
from ._stops import Stops
from ._takes import make_takes, plan_takes

__all__ = [
    "Completion",
    "Estimate",
    "GenerateOnce",
    "Run",
    "Stops",
    "estimate",
    "generate_images",
    "inside",
    "make_takes",
    "plan_takes",
    "split",
]
