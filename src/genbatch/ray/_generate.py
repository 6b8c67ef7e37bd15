"""generate: from a dataset of prompts to a dataset of images, with a coordinator and workers."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import replace
from logging import INFO, Formatter, NullHandler, StreamHandler, getLogger
from typing import Any, Unpack

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ray
from genbatch._bucket import Objects
from genbatch._money import Budget
from genbatch._run import Service, defaults_of
from genbatch._values import GenbatchError, ImageSettings, Stopped, takes_settings
from genbatch.gemini import GeminiClient, reserved_price

from ._cluster import cpus_of_workers, told_plainly
from ._coordinator import Bounds, Coordinator
from ._progress import NAMESPACE, absolute, coordinator_name
from ._rows import COLUMNS, RowRequests, check_rows, missing, resumed, table_of, with_results
from ._worker import Work, Worker

_BLOCKS_AT_ONCE = 3  # per worker: while the last calls of one finish, the next is running
_SMALLEST_BLOCK = 8  # rows


@takes_settings
def generate(
    dataset: Dataset,
    *,
    store: str | os.PathLike[str],
    max_concurrent: int,
    workers: int,
    prompt_column: str = "prompt",
    id_column: str | None = None,
    namespace: str = "",
    budget: float | None = None,
    max_images: int | None = None,
    price: float | None = None,
    pace: str | None = None,
    base_url: str | None = None,
    max_retries: int = 3,
    timeout: float | None = None,
    num_cpus: float | None = None,
    **settings: Unpack[ImageSettings],
) -> Dataset:
    """Make an image for each row of a dataset, and add its location to the row.

    The dataset is read immediately, to find equal prompts and rows that are done, and again when
    the result is consumed: call ``dataset.materialize()`` first if reading it is expensive.

    Args:
        dataset: Has a column of prompts.
        store: Where to save the images: a directory that all machines share, or the URL of a
            bucket (S3, GCS, Azure). One run at a time.
        max_concurrent: Most calls in flight, over all workers.
        workers: Number of actors that make them. A coordinator admits max_concurrent calls over
            all of them; each has at most twice its share of rows in progress.
        prompt_column: Column of the prompts.
        id_column: Column that distinguishes rows with equal prompts; a part of their keys.
        namespace: Equal prompts in different namespaces are different images. A fake service on the
            driver's machine has namespaces of its own.
        budget: Spending limit in US dollars of all runs into the store, None for none.
        max_images: Most images to pay for in all these runs, None for no bound.
        price: US dollars per image, overriding the price table.
        pace: Highest start rate over all workers, such as ``"300/min"``; None to learn it.
        base_url: Base URL of the service, as for GeminiClient. The key is not an argument: each
            worker reads it from its environment.
        max_retries: Most retries per call, as for GeminiClient.
        timeout: Seconds per attempt, as for GeminiClient.
        num_cpus: CPUs that Ray reserves per worker, which mostly waits: at least 0. None for a
            quarter, or 0 where the cluster has no room for that.
        settings: See ImageSettings.

    Returns:
        A lazy dataset: the rows, in no order, with the columns ``key``, ``uri``, ``sha256``,
        ``mime_type``, ``model``, ``cost``, and for rows without an image ``error_kind`` and
        ``error``. Image bytes do not pass through Ray.

    Raises:
        ValueError: If workers is below 1 or above max_concurrent, the model does not support a
            setting, a column is missing or already exists, two rows are equal, or budget is given
            and no price is known; or if the cluster has too few CPUs, and no autoscaler.
        TypeError: If a prompt is not a string, or an argument has the wrong type.
        StoreError: If the store cannot be used.
        ImportError: If the store's URL needs a package that is not installed.

    Failure: A failed call becomes a row with an error, and is retried by the next run. An error
    that stops the run is raised where the dataset is consumed, once calls in flight are saved:
    Unauthorized, QuotaExhausted, BudgetExhausted, Stopped if the service keeps failing, StoreError.
    It is an instance of that class and of Ray's RayTaskError; its ``cause`` is the bare error.

    Resuming: Rows whose images are in the store are taken from it. Ray may rerun a block; every
    row is looked up before it is paid for, so only what was in flight at a crash is paid twice.
    """
    _check_counts(max_concurrent, workers)
    num_cpus = cpus_of_workers(workers, num_cpus, _nodes(), can_grow=_can_grow())
    defaults = defaults_of(Service(GeminiClient), settings, Budget(budget), price)
    expected = reserved_price(defaults) if price is None else price
    space = _namespace(namespace, base_url)
    requests = RowRequests(prompt_column, id_column, space, defaults)
    _check_columns(dataset, requests)
    where = absolute(store)
    bounds = Bounds(where, defaults.model, expected, max_concurrent, budget, max_images, pace)
    Coordinator(bounds)  # so that invalid ones are raised now
    # As many in flight as being looked up, waiting for their turn, or being saved.
    rows = 2 * math.ceil(max_concurrent / workers)
    client = {"base_url": base_url, "max_retries": max_retries, "timeout": timeout}
    work = Work(where, rows, price, client)
    return _dataset(dataset, requests, bounds, work, workers, num_cpus)


def _dataset(
    dataset: Dataset,
    requests: RowRequests,
    bounds: Bounds,
    work: Work,
    workers: int,
    num_cpus: float,
) -> Dataset:
    """Return the result: done rows from the store, and the rest from workers."""
    index = table_of(Objects(bounds.store).done())
    known = check_rows(dataset, requests, index)
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    ref = ray.put(index)
    looking = {"fn_kwargs": {"requests": requests, "index": ref}, **options}
    made = dataset.map_batches(missing, **looking) if known.any() else dataset
    bounds = replace(bounds, rows=len(known), resumed=int(known.sum()))
    if not known.all() or not len(known):
        blocks = max(_SMALLEST_BLOCK, work.rows)
        made = made.repartition(target_num_rows_per_block=blocks).map_batches(
            RayWorker,
            fn_constructor_kwargs={
                "work": work,
                "requests": requests,
                "coordinator": _start(bounds, workers),
            },
            compute=ActorPoolStrategy(
                size=workers,
                max_tasks_in_flight_per_actor=_BLOCKS_AT_ONCE + 1,
                max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE,
            ),
            num_cpus=num_cpus,
            **options,
        )
        if known.any():
            made = dataset.map_batches(resumed, **looking).union(made)
    else:
        made = dataset.map_batches(resumed, **looking)
    made.context.raise_original_map_exception = True  # or the error could not be told by its class
    return made


class RayWorker:
    """A Ray actor around a Worker; several of its blocks run at once."""

    def __init__(self, work: Work, requests: RowRequests, coordinator: Any) -> None:
        self._worker = Worker(work, _RayLink(coordinator))
        self._requests = requests

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Return a block with its results."""
        requests = self._requests.of(block)
        wanted = [each for each in requests if not isinstance(each, ValueError)]
        try:
            made = iter(await self._worker.make(wanted) if wanted else [])
        except GenbatchError as error:
            raise told_plainly(error) from None
        results = [each if isinstance(each, ValueError) else next(made) for each in requests]
        keys = [None if isinstance(each, ValueError) else each[0] for each in requests]
        return with_results(block, keys, results)


class RayCoordinator(Coordinator):
    """A Ray actor around a Coordinator, whose log Ray shows where the driver runs."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(bounds)
        log = getLogger("genbatch")
        log.setLevel(INFO)
        if all(isinstance(each, NullHandler) for each in log.handlers):
            handler = StreamHandler()
            handler.setFormatter(Formatter("%(asctime)s %(name)s %(message)s"))
            log.addHandler(handler)


class _RayLink:
    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    async def ask(self, method: str, *args: object, **options: object) -> Any:
        try:
            return await getattr(self._coordinator, method).remote(*args, **options)
        except RayError as exc:
            reason = str(exc).partition("\n")[0]
            raise Stopped(f"the coordinator is gone, run again to resume: {reason}") from None

    def tell(self, method: str, *args: object) -> None:
        with suppress(Exception):  # it may follow the arrival of a paid image
            getattr(self._coordinator, method).remote(*args)


def _start(bounds: Bounds, workers: int) -> Any:
    """Start the coordinator, an actor on the driver's node, which ends with the driver."""
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    calls = 1000 + 4 * bounds.max_concurrent + 8 * _BLOCKS_AT_ONCE * workers
    actor: Any = ray.remote(RayCoordinator)
    named = {"name": coordinator_name(), "namespace": NAMESPACE}
    return actor.options(
        num_cpus=0, max_concurrency=calls, scheduling_strategy=beside, **named
    ).remote(bounds)


def _nodes() -> list[float]:
    """Return the CPUs of each node of the cluster."""
    return [float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def _can_grow() -> bool:
    """Return whether an autoscaler looks after the cluster, as far as it tells."""
    with suppress(Exception):  # not a public interface of Ray's
        from ray._private.state import state

        config: Any = state.get_cluster_config()
        return bool(config is not None and config.node_group_configs)
    return False


def _namespace(namespace: str, base_url: str | None) -> str:
    """Return the namespace of the keys: what a fake service makes is never taken for real."""
    try:
        is_fake = GeminiClient("none", base_url=base_url).is_fake()
    except ValueError:  # on Vertex, say; the workers tell what is wrong
        return namespace
    return f"fake {namespace}".rstrip() if is_fake else namespace


def _check_counts(max_concurrent: int, workers: int) -> None:
    for name, value in (("max_concurrent", max_concurrent), ("workers", workers)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if max_concurrent < workers:
        found = f"{max_concurrent} < {workers}"
        raise ValueError(f"max_concurrent must be >= workers, one call for each, got {found}")


def _check_columns(dataset: Dataset, requests: RowRequests) -> None:
    columns = dataset.columns() or []
    for name in filter(None, (requests.prompt_column, requests.id_column)):
        if name not in columns:
            raise ValueError(f"the dataset has no column {name!r}: it has {', '.join(columns)}")
    if taken := [name for name in COLUMNS if name in columns]:
        raise ValueError(f"the dataset has a column {taken[0]!r} already: rename or drop it")
