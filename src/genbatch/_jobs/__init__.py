"""Requests on their way through the service's batch queue."""

from ._by_job import ByJob
from ._job import Limits
from ._queue import Queue

__all__ = ["ByJob", "Limits", "Queue"]
