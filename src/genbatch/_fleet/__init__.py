"""Many workers, one coordinator: a run over machines, whatever starts it there."""

from ._coordinator import Coordinator
from ._messages import Bounds
from ._worker import Link, Work, Worker

__all__ = ["Bounds", "Coordinator", "Link", "Work", "Worker"]
