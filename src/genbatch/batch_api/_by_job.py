"""ByJob: how an image comes of a request by a job, and live where that is wanted too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyio import CapacityLimiter

from genbatch._core import waiting
from genbatch._logs import about
from genbatch._run import Run, Stops
from genbatch._store import Making, Plan, Store
from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    Prompt,
    QuotaExhausted,
    RateLimited,
    SavedImage,
    Stopped,
    TimedOut,
    Unauthorized,
    Unavailable,
)

from ._queue import Queue

# What a live call may make good.
_PASSING = (RateLimited, Unavailable, TimedOut, InvalidResponse)


class ByJob:
    """Makes images of requests that have none yet.

    Args:
        run: Makes those that are made live.
        queue: Has the jobs.
        live: Most of them at once, 0 for none.
    """

    def __init__(self, run: Run, queue: Queue, live: int) -> None:
        self._run = run
        self._queue = queue
        self._live = CapacityLimiter(live) if live else None

    @property
    def stops(self) -> Stops:
        """What has stopped the batch, or some of its models."""
        return self._run.stops

    async def make(
        self, place: Store, plan: Plan, request: Prompt, others: dict[str, Any]
    ) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""
        model = str(request.model)
        self.stops.check(model)
        with about(key=plan.key), self._queue.arrival() as arrived:
            async with place.making(plan) as making:
                if making.saved is not None:
                    return making.saved
                call = making.unsaved()
                try:
                    with _learning(self.stops, model):
                        account = self.stops.guard(model, self._run.budget)
                        return await self._queue.make(call, request, others, account, arrived)
                except GenbatchError as error:
                    if self._live is None or not _may_pass(error):
                        raise
                    if not await self._queue.settled(call):
                        raise
                return await self._make_live(making, request, others, self._live)

    async def _make_live(
        self, making: Making, request: Prompt, others: dict[str, Any], limiter: CapacityLimiter
    ) -> SavedImage:
        with waiting():
            await limiter.acquire()
        try:
            image = await self._run.ask(request, others, making.noting(self._run.budget))
            return await making.save(image)
        finally:
            limiter.release()


def _may_pass(error: GenbatchError) -> bool:
    """Return whether a live call may make good what a job has not."""
    # With a status: the service takes no such job. Without: nobody wants the image any more.
    is_refused = isinstance(error, Stopped) and error.status is not None
    return is_refused or isinstance(error, _PASSING)


@contextmanager
def _learning(stops: Stops, model: str) -> Iterator[None]:
    """Learn what ends all jobs; that many of one fail says nothing of the next."""
    try:
        yield
    except (Stopped, Unauthorized, QuotaExhausted):
        with stops.learning(model):
            raise
