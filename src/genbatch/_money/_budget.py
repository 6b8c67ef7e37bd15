"""Budget: what a run has spent, and never a call that could exceed what it may spend.

Each attempt of a call reserves its expected price before it starts, and settles when it ends: with
what it cost, with nothing if it cannot have been billed, and with the whole price, apart from the
rest, if nobody knows: a lost connection, a cancelled call. A call that has no room now, but may
have once others settle, waits for them.

What is spent, possibly spent and reserved together never exceeds the limit by expected prices; a
bill above its expectation shows in what is spent, and leaves less for the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from logging import WARNING, getLogger
from typing import Protocol

from genbatch._core import ParkingLot, waiting
from genbatch._logs import log
from genbatch._values import BudgetExhausted, DamagedImage, GenbatchError

_log = getLogger("genbatch.run")

_ROUNDING = 1e-9  # US dollars: sums of prices are not exact


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of a call, as its budget sees it: perhaps billed until it is settled.

    Attributes:
        price: US dollars reserved for it, None where no price is known.
        cost: US dollars of the images that came.
        images: How many came.
        maybe_images: 1 while it may have been billed without an image, else 0.
    """

    price: float | None
    cost: float = 0.0
    images: int = 0
    maybe_images: int = 1

    def cost_of(self, images: int) -> float | None:
        """Return what counts for an answer with images that does not say what it cost."""
        return None if self.price is None else self.price * images

    def paid(self, cost: float | None, images: int = 1) -> None:
        """Say that images came, even damaged ones, and what they cost together if it is known."""
        self.images, self.maybe_images = images, 0
        self.cost = (self.cost_of(images) or 0.0) if cost is None else cost

    def failed(self, error: Exception) -> None:
        """Say what came instead of an image."""
        if isinstance(error, DamagedImage):
            self.paid(error.cost, error.images)
        elif isinstance(error, GenbatchError) and not error.maybe_paid:
            self.maybe_images = 0


class Account(Protocol):
    """What a call is paid from; a Budget is one."""

    def attempt(self, price: float | None) -> AbstractAsyncContextManager[Attempt]:
        """Reserve the price of one attempt around the block."""


class Budget:
    """What calls have cost and may cost; share one among batches to bound them together.

    Args:
        usd: Most US dollars to spend, None for no bound.
        max_images: Most images to pay for, None for no bound.

    Attributes:
        spent: US dollars for images that came, damaged ones too, as far as prices are known.
        maybe_spent: US dollars of attempts that may have been billed but returned no image.
        images: Images paid for.
        maybe_images: Attempts that may have been billed but returned no image.

    Raises:
        ValueError: If a bound is negative.
    """

    def __init__(self, usd: float | None = None, *, max_images: int | None = None) -> None:
        if usd is not None and not usd >= 0:
            raise ValueError(f"budget must be >= 0 US dollars, got {usd}")
        if max_images is not None and max_images < 0:
            raise ValueError(f"max_images must be >= 0, got {max_images}")
        self.usd = usd
        self.max_images = max_images
        self.spent = 0.0
        self.maybe_spent = 0.0
        self.images = 0
        self.maybe_images = 0
        self._running = 0
        self._reserved = 0.0
        self._settled = ParkingLot()
        self._is_told = False

    @asynccontextmanager
    async def attempt(self, price: float | None) -> AsyncIterator[Attempt]:
        """Reserve the price of one attempt around the block.

        Args:
            price: US dollars that it is expected to cost, None where unknown.

        Raises:
            BudgetExhausted: If it could exceed the budget, whatever the running ones come to.
            ValueError: If a bound in US dollars is set and the price is unknown.
        """
        if price is None and self.usd is not None:
            raise ValueError("a budget needs a price: give the price of an image of this model")
        attempt, reserved = Attempt(price), price or 0.0
        await self._make_room(reserved)
        self._running += 1
        self._reserved += reserved
        try:
            yield attempt
        except Exception as exc:
            attempt.failed(exc)
            raise
        finally:
            self._running -= 1
            self._reserved = self._reserved - reserved if self._running else 0.0
            self.images += attempt.images
            self.spent += attempt.cost
            self.maybe_images += attempt.maybe_images
            self.maybe_spent += attempt.maybe_images * reserved
            self._settled.unpark()
            if attempt.maybe_images:
                message = "a call may have been paid without an image, $%.4f"
                log(_log, WARNING, message, reserved, price=reserved)

    async def _make_room(self, price: float) -> None:
        while not self._has_room(price, self._running, self._reserved):
            if not self._has_room(price, 0, 0.0):
                raise self._exhausted()
            with waiting():
                await self._settled.park()

    def _has_room(self, price: float, running: int, reserved: float) -> bool:
        images = self.images + self.maybe_images + running
        dollars = self.spent + self.maybe_spent + reserved + price
        return (self.max_images is None or images < self.max_images) and (
            self.usd is None or dollars <= self.usd + _ROUNDING
        )

    def _exhausted(self) -> BudgetExhausted:
        error = BudgetExhausted(self._why())
        if not self._is_told:
            self._is_told = True
            log(_log, WARNING, "no further call is paid", error=error)
        return error

    def _why(self) -> str:
        billed = f"{self.images} images, ${self.spent:.2f}"
        if self.maybe_images:
            billed += f", and perhaps {self.maybe_images} more calls, ${self.maybe_spent:.2f}"
        if self.max_images is not None and self.images + self.maybe_images >= self.max_images:
            return f"max_images of {self.max_images} is reached: {billed}"
        return f"the budget of ${self.usd:.2f} is used up: {billed}"
