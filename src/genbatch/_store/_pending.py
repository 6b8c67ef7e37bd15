"""PendingImage: a request whose image is being made, from before its call to its file and row."""

from __future__ import annotations

from logging import ERROR, INFO, getLogger
from time import perf_counter

from genbatch._core import current_turn
from genbatch._logs import about, tell
from genbatch._values import Image, SavedImage, StoreError

from ._archive import Call
from ._batch import Place

_log = getLogger("genbatch.store")


class PendingImage:
    """A request whose image is being made; made by Store.pending.

    Attributes:
        saved: The image, where it was made meanwhile and no call is needed.
    """

    def __init__(self, place: Place, begun: Call | SavedImage) -> None:
        self._place = place
        self._began = perf_counter()
        self._call = begun if isinstance(begun, Call) else None
        self.saved = begun if isinstance(begun, SavedImage) else None

    @property
    def is_open(self) -> bool:
        """Whether the image has not come yet."""
        return self._call is not None

    @property
    def call(self) -> Call:
        """The call that is to make the image.

        Raises:
            RuntimeError: If the image has come.
        """
        if self._call is None:
            raise RuntimeError("this call has brought its image already")
        return self._call

    async def note_attempt(self, price: float | None) -> None:
        """Note in the journal that an attempt is about to be sent, which may be paid.

        So a later run knows of those of which no end is known. The row of an earlier attempt stays
        where that may have been paid.
        """
        self.call.attempt = None
        await self._place.hop(self._place.archive.send, self.call, price)

    async def forget_attempt(self) -> None:
        """Take the latest attempt back: it brought no image and cannot have been paid."""
        await self._place.hop(self._place.archive.unsend, self.call)

    async def save(self, image: Image) -> SavedImage:
        """Save the image that the call brought, and return when it is durable.

        Raises:
            StoreError: If it cannot be written now. It is kept in memory, and written when the
                disk takes another, or when the store is left.

        Cancellation: strikes when the image is saved, since it is paid for.
        """
        call, self._call = self.call, None
        turn = current_turn.get(None)
        elapsed = perf_counter() - self._began - (turn.seconds if turn else 0.0)
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
