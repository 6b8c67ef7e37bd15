"""A paid call, from its reservation to the durable file: the page where money is spent.

    check the breaker · wait for the first call of the model, where one goes first · wait for
    another batch that makes the same image · ask the client, which waits its turn and then for
    each attempt: reserve · note in the journal · send · settle · file, fsync, row · outcome

1. An attempt is reserved in the budget and noted in the journal before it is sent.
2. Both are undone only if it cannot have been paid; what is unknown stays counted.
3. From an image's arrival to its row nothing is cancelled: it is paid.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from logging import WARNING, getLogger
from typing import Protocol

from anyio import get_cancelled_exc_class

from genbatch._logs import log, log_context
from genbatch._money import Account, Attempt, Budget, check_price
from genbatch._store import PendingImage, Plan, Store
from genbatch._values import Image, ImageRequest, SavedImage, asked_size, is_smaller
from genbatch._watch import Watch, check_listener, watching
from genbatch.events import OnEvent

from ._breaker import RunBreaker
from ._service import Service

_log = getLogger("genbatch.run")


class ImageMaker(Protocol):
    """Makes images of requests that have none yet: PaidCalls, or a queue of batch jobs."""

    @property
    def service(self) -> Service:
        """What it makes them with."""

    @property
    def breaker(self) -> RunBreaker:
        """What has stopped it."""

    async def save_image(self, store: Store, plan: Plan, request: ImageRequest) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""


@dataclass(frozen=True, slots=True)
class PaidCalls:
    """What all calls of a batch share.

    Attributes:
        service: Makes the images.
        budget: Bounds what they cost.
        price: US dollars an image, in place of the price table's.
        on_event: Listens to the calls, beside what listens to all of the client's.
        breaker: What has stopped the batch.
        account: What they are paid from in place of the budget, where processes share one.

    Raises:
        TypeError: If on_event is no function, or an asynchronous one.
    """

    service: Service
    budget: Budget
    price: float | None
    on_event: OnEvent | None = None
    breaker: RunBreaker = field(default_factory=RunBreaker)
    account: Account | None = None

    def __post_init__(self) -> None:
        check_price(self.price)
        check_listener(self.on_event)
        self.breaker.has_several_keys = self.service.is_several
        if self.service.look is not None:
            self.breaker.is_first = self.service.look.is_first

    def watching(self, request: ImageRequest) -> AbstractContextManager[Watch | None]:
        """Watch the call of a request in the block."""
        return watching(request, request.service, self.service.on_event, self.on_event)

    async def save_image(self, store: Store, plan: Plan, request: ImageRequest) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""
        if (look := self.service.look) is None:
            return await self._save_image(store, plan, request)
        async with look.turn(request.model, self.breaker.check):
            return await self._save_image(store, plan, request)

    async def _save_image(self, store: Store, plan: Plan, request: ImageRequest) -> SavedImage:
        self.breaker.check(request.model)
        with log_context(key=plan.key), self.watching(request) as watch:
            try:
                async with store.pending(plan) as pending:
                    if isinstance(pending, SavedImage):
                        return pending
                    saved = await pending.save(await self.make_image(request, pending))
                    if watch is not None:
                        watch.saved(saved)
                    return saved
            finally:
                if messages := self.breaker.take_refusals():
                    await store.forget_refusals(messages)

    async def make_unsaved(self, request: ImageRequest) -> Image:
        """Make an image that is not to be saved."""
        self.breaker.check(request.model)
        with self.watching(request) as watch:
            image = await self.make_image(request)
            if watch is not None:
                watch.image = image
            return image

    async def make_image(self, request: ImageRequest, pending: PendingImage | None = None) -> Image:
        """Make an image; its attempts are noted where it is to be saved."""
        self.breaker.check(request.model)
        attempts = _Attempts(self, request.model, pending)
        with self.breaker.observe(request.model):
            image = await self.service.generate_image(request, attempts, self.price)
        warn_if_smaller(request, image)
        return image


def warn_if_smaller(request: ImageRequest, image: Image | SavedImage) -> None:
    """Log an image that is smaller than was asked for; what was made of a request."""
    size = asked_size(request)
    if is_smaller(size, image.width, image.height):
        message = "the image has %d x %d pixels, and %s was asked for"
        log(_log, WARNING, message, image.width, image.height, size)


@dataclass(frozen=True, slots=True)
class _Attempts:
    """The account of one call, whose client enters attempt around each that it sends."""

    calls: PaidCalls
    model: str
    pending: PendingImage | None

    @asynccontextmanager
    async def attempt(self, price: float | None, model: str = "") -> AsyncIterator[Attempt]:
        self.calls.breaker.check(self.model)
        pending, attempt, is_noted = self.pending, None, False
        try:
            account = self.calls.account or self.calls.budget
            async with account.attempt(price, model) as attempt:
                self.calls.breaker.check(self.model)  # again: it may have waited for room
                if pending is not None:
                    await pending.note_attempt(attempt.price)
                    is_noted = True
                with self._observed(attempt):
                    yield attempt
        finally:
            if pending is not None and attempt is not None and is_noted:
                if attempt.overrun is not None:
                    pending.call.overrun = (self.model, *attempt.overrun)
                # Neither paid nor possibly paid. A cancelled one may have been.
                if not (attempt.images or attempt.maybe_images):
                    await pending.forget_attempt()

    @contextmanager
    def _observed(self, attempt: Attempt) -> Iterator[None]:
        """Learn from an attempt; a cancelled one is free where the key was refused."""
        try:
            yield
        except get_cancelled_exc_class():
            if self.calls.breaker.is_key_useless:
                attempt.maybe_images = 0
            raise
        except Exception as exc:
            self.calls.breaker.attempt_failed(exc)
            if (look := self.calls.service.look) is not None:
                look.attempt_failed(self.model, exc)
            raise
