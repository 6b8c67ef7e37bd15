"""Budget: what a run has spent, and never a call that could exceed what it may spend.

Each attempt of a call reserves the most that it should cost before it starts, and settles when it
ends: with what it cost, with nothing if it cannot have been billed, and with the whole reservation,
apart from the rest, if nobody knows: a lost connection, a cancelled call. A call that has no room
now, but may have once others settle, waits for them.

1. What is spent, possibly spent and reserved together never exceeds the limit, as long as no answer
   costs more than was reserved for it.
2. One that does, for a second image or for more thoughts, is counted in full, and raises all later
   reservations of its model: only what was in flight when it came can exceed the limit.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from logging import WARNING, getLogger
from numbers import Real
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

from genbatch._core import LoopGuard, ParkingLot, waiting
from genbatch._logs import log
from genbatch._values import (
    BudgetExhausted,
    DamagedImage,
    GenbatchError,
    Image,
    SavedImage,
    check_type,
)
from genbatch._watch import current_watch
from genbatch.events import CallsStopped

_log = getLogger("genbatch.run")

_ROUNDING = 1e-9  # US dollars: sums of prices are not exact


class Overrun(NamedTuple):
    """How far answers of a model have exceeded what they were to bring and to cost at most.

    Attributes:
        images: Most images in one answer.
        ratio: Of the dearest answer to its price.
        excess: US dollars of the dearest answer beyond its price.
    """

    images: int = 1
    ratio: float = 1.0
    excess: float = 0.0

    def raised(self, price: float) -> float:
        """Return what to reserve where an answer should cost a price at most."""
        # Further images cost the same beside any prompt; a larger image costs its share more.
        return max(price * self.ratio, price + self.excess)

    def joined(self, other: Overrun) -> Overrun:
        """Return the larger of both in all respects."""
        return Overrun(
            max(self.images, other.images),
            max(self.ratio, other.ratio),
            max(self.excess, other.excess),
        )


def dollars(told: object) -> float | None:
    """Return a price or a cost that a client tells, None where it is no amount of US dollars."""
    if type(told) is float:  # mostly
        return told if 0 <= told < math.inf else None
    if not isinstance(told, Real | Decimal) or isinstance(told, bool):
        return None
    try:
        amount = float(told)
    except (ValueError, OverflowError):
        return None
    return amount if 0 <= amount < math.inf else None


def check_price(price: object) -> None:
    """Refuse a price that is no amount of US dollars; None is none.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is below zero, or not finite.
    """
    if price is not None and dollars(price) is None:
        check_type("price", price, float)
        raise ValueError(f"price must be >= 0 US dollars, got {price}")


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of a call, as its budget sees it: perhaps billed until it is settled.

    Attributes:
        expected: US dollars that an answer with one image costs at most, None where no price is
            known.
        price: US dollars reserved for it: more where answers of its model have cost more.
        room: Images reserved for it: more where answers of its model have had more.
        cost: US dollars of the images that came.
        images: How many came.
        maybe_images: 1 while it may have been billed without an image, else 0.
        is_estimated: Whether the cost is what was reserved, for want of an answer that tells.
        image: What came, None without one.
        error: Why nothing came, where an answer says so.
    """

    expected: float | None
    price: float | None
    room: int = 1
    cost: float = 0.0
    images: int = 0
    maybe_images: int = 1
    is_estimated: bool = False
    image: Image | SavedImage | None = None
    error: Exception | None = None

    def cost_of(self, images: int) -> float | None:
        """Return what counts for an answer with images that does not say what it cost."""
        if self.price is None or self.expected is None:
            return None
        return max(self.price, self.expected * images)

    @property
    def bill(self) -> tuple[float | None, bool]:
        """What counts for it, None where unknown, and whether that is estimated."""
        if self.maybe_images:
            return self.price, True
        is_unknown = self.is_estimated and self.price is None
        return None if is_unknown else self.cost, self.is_estimated

    @property
    def overrun(self) -> Overrun | None:
        """How far what came exceeds one image and its price, None where it does not."""
        excess = self.cost - self.expected if self.expected else 0.0
        if self.images <= 1 and excess <= _ROUNDING:
            return None
        ratio = self.cost / self.expected if self.expected else 1.0
        return Overrun(max(1, self.images), max(1.0, ratio), max(0.0, excess))

    def paid(self, cost: float | None, images: int = 1) -> None:
        """Say that images came, even damaged ones, and what they cost together if it is known."""
        self.images, self.maybe_images = images, 0
        known = dollars(cost)
        self.is_estimated = known is None
        self.cost = (self.cost_of(images) or 0.0) if known is None else known

    def brought(self, image: Image) -> Image:
        """Say that an image came, and return it with its cost: as reserved if it does not tell."""
        self.image = image
        self.paid(image.cost, image.images)
        return image if image.cost is not None else replace(image, cost=self.cost_of(image.images))

    def failed(self, error: Exception) -> None:
        """Say what came instead of an image."""
        self.error = error
        if isinstance(error, DamagedImage):
            self.paid(error.cost, error.images)
        elif isinstance(error, GenbatchError) and not error.maybe_paid:
            self.maybe_images = 0


class Account(Protocol):
    """What a call is paid from; a Budget is one."""

    def attempt(self, price: float | None, model: str = "") -> AbstractAsyncContextManager[Attempt]:
        """Reserve the price of one attempt of a model around the block."""


class Budget:
    """What calls have cost and may cost; share one among batches to bound them together.

    Args:
        usd: Most US dollars to spend, None for no bound.
        spent: US dollars that count as spent already, such as those of a ledger of your own.
        max_images: Most images to pay for, None for no bound.

    Attributes:
        spent: US dollars for images that came, damaged ones too, as far as prices are known.
        maybe_spent: US dollars of attempts that may have been billed but returned no image.
        images: Images paid for.
        maybe_images: Attempts that may have been billed but returned no image.
        in_jobs: Those of them that are in batch jobs, by directory and number: another batch with
            this budget does not count them again.

    Raises:
        ValueError: If a number is negative.
        TypeError: If one is no number.
    """

    def __init__(
        self, usd: float | None = None, *, spent: float = 0.0, max_images: int | None = None
    ) -> None:
        if usd is not None:
            check_type("usd", usd, float)
        if max_images is not None:
            check_type("max_images", max_images, int)
        check_type("spent", spent, float)
        if usd is not None and not usd >= 0:
            raise ValueError(f"budget must be >= 0 US dollars, got {usd}")
        if not spent >= 0:
            raise ValueError(f"spent must be >= 0 US dollars, got {spent}")
        if max_images is not None and max_images < 0:
            raise ValueError(f"max_images must be >= 0, got {max_images}")
        self._usd = usd
        self.max_images = max_images
        self.spent = spent
        self.maybe_spent = 0.0
        self.images = 0
        self.maybe_images = 0
        self.in_jobs: set[tuple[Path, int]] = set()
        self._running = 0
        self._reserved = 0.0
        self._reserved_images = 0
        self._overruns: dict[str, Overrun] = {}
        self._settled = ParkingLot()
        self._guard = LoopGuard(self)
        self._is_told = False

    @property
    def usd(self) -> float | None:
        """Most US dollars to spend; it may be set while calls are made, which go on."""
        return self._usd

    @usd.setter
    def usd(self, usd: float | None) -> None:
        if usd is not None:
            check_type("usd", usd, float)
            if not usd >= 0:
                raise ValueError(f"budget must be >= 0 US dollars, got {usd}")
        self._usd, self._is_told = usd, False
        self._settled.unpark()

    def expect(self, model: str, overrun: Overrun) -> None:
        """Reserve for a model what its answers have brought elsewhere, such as in earlier runs.

        Args:
            model: Full id.
            overrun: How far they have exceeded what was reserved for them.
        """
        self._overruns[model] = self._overruns.get(model, Overrun()).joined(overrun)

    @asynccontextmanager
    async def attempt(self, price: float | None, model: str = "") -> AsyncIterator[Attempt]:
        """Reserve the price of one attempt around the block.

        Args:
            price: Most US dollars that it should cost, None where unknown.
            model: Whose earlier answers may have cost more than that.

        Raises:
            BudgetExhausted: If it could exceed the budget, whatever the running ones come to.
            ValueError: If a bound in US dollars is set and the price is unknown.
            RuntimeError: If the budget is in use in another event loop.
        """
        if price is None and self.usd is not None:
            raise ValueError("a budget needs a price: give price=, US dollars an image")
        with self._guard:
            reserved, images = await self._make_room(price or 0.0, model)
            attempt = Attempt(price, None if price is None else reserved, images)
            watch = current_watch()
            if watch is not None:
                number, began = watch.attempt_started(attempt.price), perf_counter()
            self._running += 1
            self._reserved += reserved
            self._reserved_images += images
            error: BaseException | None = None
            try:
                yield attempt
            except BaseException as exc:
                error = exc
                if isinstance(exc, Exception):
                    attempt.failed(exc)
                raise
            finally:
                self._running -= 1
                self._reserved = self._reserved - reserved if self._running else 0.0
                self._reserved_images -= images
                if attempt.overrun is not None:
                    self.expect(model, attempt.overrun)
                self.images += attempt.images
                self.spent += attempt.cost
                self.maybe_images += attempt.maybe_images
                self.maybe_spent += attempt.maybe_images * reserved
                self._settled.unpark()
                if attempt.maybe_images:
                    message = "a call may have been paid without an image, $%.4f"
                    log(_log, WARNING, message, reserved, price=reserved)
                if watch is not None:
                    image, error = attempt.image, error or attempt.error
                    watch.attempt_ended(number, *attempt.bill, perf_counter() - began, image, error)
                attempt.error = error = None  # their tracebacks hold this frame

    async def _make_room(self, price: float, model: str) -> tuple[float, int]:
        """Wait until there is room for an attempt; return US dollars and images to reserve."""
        while True:
            # Anew after each wait: what has come meanwhile may have raised them.
            overrun = self._overruns.get(model, Overrun())
            dollars, images = overrun.raised(price), overrun.images
            if self._has_room(dollars + self._reserved, images + self._reserved_images):
                return dollars, images
            if not self._has_room(dollars, images):
                raise self._exhausted(images)
            with waiting():
                await self._settled.park()

    def _has_room(self, dollars: float, images: int) -> bool:
        has_images = self._has_images(images)
        spent = self.spent + self.maybe_spent
        return has_images and (self.usd is None or spent + dollars <= self.usd + _ROUNDING)

    def _has_images(self, images: int) -> bool:
        paid = self.images + self.maybe_images
        return self.max_images is None or paid + images <= self.max_images

    def _exhausted(self, images: int) -> BudgetExhausted:
        error = BudgetExhausted(self._why(images))
        if not self._is_told:
            self._is_told = True
            log(_log, WARNING, "no further call is paid", error=error)
            if (watch := current_watch()) is not None:
                watch.tell(CallsStopped(watch.call, error))
        return error

    def _why(self, images: int) -> str:
        billed = f"{_count(self.images, 'image')}, ${self.spent:.2f}"
        if self.maybe_images:
            more = _count(self.maybe_images, "more call")
            billed += f", and perhaps {more}, ${self.maybe_spent:.2f}"
        if not self._has_images(1):
            return f"max_images of {self.max_images} is reached: {billed}"
        if not self._has_images(images):
            beyond = f"max_images of {self.max_images}"
            return f"an answer with {images} images could exceed {beyond}: {billed}"
        return f"the budget of ${self.usd:.2f} is used up: {billed}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
