"""What a coordinator and its workers tell each other; all of it can be pickled, and is small."""

from __future__ import annotations

from dataclasses import dataclass

from genbatch._values import BudgetExhausted, QuotaExhausted, Stopped, StoreError, Unauthorized

STOPS = (Unauthorized, QuotaExhausted, BudgetExhausted, Stopped, StoreError)
BEAT = 2.0  # seconds between signs of life of a batch
DEAD_AFTER = 10.0  # seconds without one


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all calls of a run share.

    Attributes:
        store: Where images and the ledger are.
        model: Full id.
        price: US dollars that one attempt is expected to cost, None where unknown.
        max_concurrent: Most calls in flight over all workers.
        usd: Most US dollars that all runs into the store may spend, None for no bound.
        max_images: Most images that they may pay for, None for no bound.
        pace: Starts at most, such as ``"300/min"``; None finds out.
    """

    store: str
    model: str
    price: float | None
    max_concurrent: int
    usd: float | None = None
    max_images: int | None = None
    pace: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of an attempt.

    Attributes:
        error: None where an image came.
        cost: Of the image, US dollars, None where unknown.
        answered: Whether the service answered as it should, though without an image.
    """

    error: Exception | None = None
    cost: float | None = None
    answered: bool = False
