"""Making: the call of one request, its attempts noted before they are sent, and its image saved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from logging import ERROR, INFO, getLogger
from time import perf_counter

from genbatch._core import current_turn
from genbatch._logs import about, tell
from genbatch._money import Account, Attempt
from genbatch._values import Image, SavedImage, StoreError

from ._archive import Call
from ._batch import Place

_log = getLogger("genbatch.store")


class Making:
    """The call of a request; made by Store.making.

    Attributes:
        call: The call, until its image has come.
        saved: The image, where it was made meanwhile and no call is needed.
    """

    def __init__(self, place: Place, begun: Call | SavedImage) -> None:
        self._place = place
        self._began = perf_counter()
        self.call = begun if isinstance(begun, Call) else None
        self.saved = begun if isinstance(begun, SavedImage) else None

    def noting(self, account: Account) -> Account:
        """Return an account that has each attempt of the call in the journal while it may be paid.

        So a later run knows of those of which no end is known.

        Args:
            account: That the attempts are paid from.
        """
        return _Noting(self._place, self.unsaved(), account)

    async def save(self, image: Image) -> SavedImage:
        """Save the image that the call brought, and return when it is durable.

        Raises:
            StoreError: If it cannot be written now. It is kept in memory, and written when the
                disk takes another, or when the store is left.

        Cancellation: strikes when the image is saved, since it is paid for.
        """
        call, self.call = self.unsaved(), None
        mine = current_turn.get(None)
        elapsed = perf_counter() - self._began - (mine.seconds if mine else 0.0)
        return await self._place.hop(self._save, call, image, elapsed)

    def _save(self, call: Call, image: Image, elapsed: float) -> SavedImage:
        """Save it and tell the log, both in a thread: handlers may block, and none is cancelled."""
        try:
            saved = self._place.archive.save(call, image, elapsed)
        except StoreError as error:
            tell(_log, ERROR, "an image is not saved, and kept in memory", error=error)
            raise
        cost = "cost unknown" if saved.cost is None else f"${saved.cost:.4f}"
        with about(model=saved.model, cost=saved.cost, elapsed=elapsed):
            tell(_log, INFO, "saved %s, %s", saved.path, cost, path=str(saved.path))
        return saved

    def unsaved(self) -> Call:
        """Return the call, which has brought no image yet.

        Raises:
            RuntimeError: If it has.
        """
        if self.call is None:
            raise RuntimeError("this call has brought its image already")
        return self.call


@dataclass(frozen=True, slots=True)
class _Noting:
    place: Place
    call: Call
    account: Account

    @asynccontextmanager
    async def attempt(self, price: float | None) -> AsyncIterator[Attempt]:
        self.call.attempt = None  # the row of an earlier one stays where that may have been paid
        attempt: Attempt | None = None
        try:
            async with self.account.attempt(price) as attempt:
                await self.place.hop(self.place.archive.send, self.call, price)
                yield attempt
        except Exception:
            await self._settle(attempt)
            raise
        if not attempt.images:
            await self._settle(attempt)

    async def _settle(self, attempt: Attempt | None) -> None:
        """Forget an attempt that brought no image and cannot have been paid."""
        if attempt is not None and not attempt.maybe_images:
            await self.place.hop(self.place.archive.unsend, self.call)
