"""Throttle: keeps calls within a service's limits, given or learned."""

from ._limits import describe_rate, parse_interval
from ._throttle import Throttle, throttled

__all__ = ["Throttle", "describe_rate", "parse_interval", "throttled"]
