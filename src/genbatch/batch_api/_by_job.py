"""ByJob: how an image comes of a request by a job, and live where that is wanted too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from genbatch._core import waiting
from genbatch._logs import about
from genbatch._run import PaidCalls, RunBreaker
from genbatch._store import Plan, Store
from genbatch._values import (
    GenbatchError,
    ImageRequest,
    InvalidResponse,
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
        calls: Make the images that are made live.
        queue: Has the jobs.
        live: Most live calls at once, 0 for none.
    """

    def __init__(self, calls: PaidCalls, queue: Queue, live: int) -> None:
        self._calls = calls
        self._queue = queue
        self._live = CapacityLimiter(live) if live else None

    @property
    def breaker(self) -> RunBreaker:
        """What has stopped the batch, or some of its models."""
        return self._calls.breaker

    async def save_image(self, store: Store, plan: Plan, request: ImageRequest) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""
        self.breaker.check(request.model)
        with about(key=plan.key), self._queue.arrival() as arrived:
            async with store.pending(plan) as pending:
                if pending.saved is not None:
                    return pending.saved
                call = pending.call
                try:
                    with _observe(self.breaker, request.model):
                        return await self._queue.make(call, request, self.breaker, arrived)
                except GenbatchError as error:
                    if self._live is None or not _may_pass(error):
                        raise
                    if not await self._queue.settled(call):
                        raise
                with waiting():
                    await self._live.acquire()
                try:
                    return await pending.save(await self._calls.make_image(request, pending))
                finally:
                    self._live.release()


def _may_pass(error: GenbatchError) -> bool:
    """Return whether a live call may make good what a job has not."""
    # With a status: the service takes no such job. Without: nobody wants the image any more.
    is_refused = isinstance(error, Stopped) and error.status is not None
    return is_refused or isinstance(error, _PASSING)


@contextmanager
def _observe(breaker: RunBreaker, model: str) -> Iterator[None]:
    """Learn what ends all jobs; that many of one fail says nothing of the next."""
    try:
        yield
    except (Stopped, Unauthorized, QuotaExhausted):
        with breaker.observe(model):
            raise
