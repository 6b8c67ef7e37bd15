"""Throttle: keeping calls within a service's limits, told or found out."""

from ._limits import describe_rate, parse_interval
from ._throttle import Throttle, throttled

__all__ = ["Throttle", "describe_rate", "parse_interval", "throttled"]
