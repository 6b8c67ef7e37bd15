"""A coordinator and its workers in one process, as far apart as task groups are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from genbatch import Prompt
from genbatch._bucket import Objects
from genbatch.ray._coordinator import Bounds, Coordinator
from genbatch.ray._worker import Work, Worker

MODEL = "gemini-nano-banana-2.1"
PRICE = 0.03363


class Local:
    """A link to a coordinator of the same process."""

    def __init__(self, coordinator: Coordinator, tasks: TaskGroup) -> None:
        self._coordinator = coordinator
        self._tasks = tasks

    async def ask(self, method: str, *args: object, **options: object) -> Any:
        return await getattr(self._coordinator, method)(*args, **options)

    def tell(self, method: str, *args: object) -> None:
        self._tasks.start_soon(getattr(self._coordinator, method), *args)


def bounds(store: Path, **changes: Any) -> Bounds:
    """Return bounds of two calls at once, with changes."""
    return Bounds(
        **{"store": str(store), "model": MODEL, "price": PRICE, "max_concurrent": 2} | changes
    )


def item(number: int) -> tuple[str, Prompt]:
    """Return a key and its prompt."""
    return f"{number:064x}", Prompt(f"fox {number}", model=MODEL)


@asynccontextmanager
async def fleet(
    store: Path,
    url: str,
    *,
    workers: int = 1,
    share: int = 8,
    retries: int = 0,
    own_price: float | None = None,
    **changes: Any,
) -> AsyncIterator[tuple[Coordinator, list[Worker]]]:
    """Run a coordinator with workers that call a server."""
    coordinator = Coordinator(bounds(store, **changes))
    client = {"base_url": url, "api_key": "a-key", "max_retries": retries}
    work = Work(str(store), share, own_price, client)
    async with anyio.create_task_group() as tasks:
        made = [Worker(work, Local(coordinator, tasks)) for _ in range(workers)]
        try:
            yield coordinator, made
        finally:
            with anyio.CancelScope(shield=True):
                for worker in made:
                    await worker.aclose()
        tasks.cancel_scope.cancel()


async def ledger(store: Path) -> dict[str, float]:
    """Return what the one run into a store has in writing."""
    [spent] = await anyio.to_thread.run_sync(lambda: Objects(store).ledger().values())
    return spent


async def saved_in(store: Path) -> int:
    """Return how many images a store has."""
    return len(await anyio.to_thread.run_sync(lambda: list(Objects(store).done())))
