"""How far the runs on a cluster have come, asked of their coordinators."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

import ray

from ._coordinator import FleetProgress

NAMESPACE = "genbatch"  # of the names of coordinators
_PREFIX = "coordinator-"
_PATIENCE = 5.0  # seconds


def coordinator_name() -> str:
    """Return a name for a coordinator, by which others on the cluster find it."""
    return _PREFIX + secrets.token_hex(8)


def progress(store: str | os.PathLike[str] | None = None) -> list[FleetProgress]:
    """Return how far runs have come, from any process that is connected to the cluster.

    Args:
        store: Where the images of the run are saved, as given to generate; None for all runs.

    Returns:
        One for each run that goes on; none where none does.
    """
    where = None if store is None else absolute(store)
    found = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] != NAMESPACE or not actor["name"].startswith(_PREFIX):
            continue
        with suppress(RayError, ValueError):  # it has ended meanwhile
            coordinator: Any = ray.get_actor(actor["name"], namespace=NAMESPACE)
            found.append(ray.get(coordinator.state.remote(), timeout=_PATIENCE))
    return [each for each in found if where in (None, each.store)]


def absolute(store: str | os.PathLike[str]) -> str:
    """Return where a store is, whatever directory a process works in."""
    where = os.fspath(store)
    return where if "://" in where else os.path.abspath(where)
