"""What a cluster must have for a run, and errors that Ray raises without its own words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from genbatch._values import GenbatchError

_CPUS = 0.25  # of a worker, which mostly waits
_ROUNDING = 1e-9


def cpus_of_workers(
    workers: int, num_cpus: float | None, nodes: Sequence[float], *, can_grow: bool = False
) -> float:
    """Return the CPUs to reserve for each worker.

    Ray Data's own tasks, which read the rows and divide them into blocks, need a whole CPU of one
    node. Without it they would wait for ever while the workers wait for them.

    Args:
        workers: How many there are to be.
        num_cpus: As given; None for a quarter, or for none where the cluster has no room for it.
        nodes: CPUs of each node of the cluster.
        can_grow: Whether an autoscaler looks after it.

    Raises:
        ValueError: If num_cpus is negative, or the cluster has no room for them and cannot grow.
    """
    if num_cpus is not None and not 0 <= num_cpus < math.inf:
        raise ValueError(f"num_cpus must be >= 0, got {num_cpus}")
    wanted = _CPUS if num_cpus is None else num_cpus
    if _has_room(nodes, workers, wanted) or can_grow:
        return wanted
    if num_cpus is None and _has_room(nodes, workers, 0.0):
        return 0.0
    found = ", ".join(f"{cpus:g}" for cpus in nodes) or "none"
    asked = f"{workers} workers with num_cpus={wanted:g} each, and one whole CPU for Ray Data"
    if not _has_room(nodes, workers, 0.0):
        change = "add a node with at least one CPU"
    else:
        change = "give num_cpus=0 (workers mostly wait), fewer workers, or the cluster more CPUs"
    raise ValueError(f"{asked}, do not fit on the CPUs of the cluster's nodes ({found}): {change}")


def _has_room(nodes: Sequence[float], workers: int, num_cpus: float) -> bool:
    """Return whether workers fit, and leave a whole CPU on a node wherever Ray places them."""
    large = [cpus for cpus in nodes if cpus >= 1]
    if not num_cpus:
        return bool(large)
    fitting = sum(math.floor(cpus / num_cpus + _ROUNDING) for cpus in nodes)
    # So many workers, placed badly, could leave every node with less than a whole one.
    harmful = sum(math.floor((cpus - 1) / num_cpus + _ROUNDING) + 1 for cpus in large)
    return bool(large) and workers <= fitting and workers < harmful


def told_plainly(error: GenbatchError) -> GenbatchError:
    """Return an error whose message stays what it is.

    Ray adds advice about retries of its own to the arguments of an error, and raises, where the
    dataset is consumed, one of a class that it derives from the error's, whose message has all
    frames of Ray's.
    """
    message, kind = str(error), type(error)

    def derive(derived: Any, /, **_: object) -> None:
        derived.__str__ = lambda _: message

    own = {
        "__module__": kind.__module__,
        "__str__": lambda _: message,
        "__init_subclass__": classmethod(derive),
        "args": property(lambda _: (message,), lambda *_: None),
    }
    plain_kind: Any = type(kind.__name__, (kind,), own)
    plain: GenbatchError = plain_kind.__new__(plain_kind, message)
    vars(plain).update(vars(error))
    return plain
