"""Ledger: a budget that outlives its run, since every run records grants before it spends them.

1. What a run has spent, possibly spent and reserved never exceeds its record in the store.
2. So a run that was killed counts with its last grant: at most one step more than it spent.
3. What answers have brought beyond their price is recorded too, and later runs reserve as much.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import TypeAlias

from anyio import Lock

from genbatch._money import Attempt, Budget, Overrun

Spent: TypeAlias = dict[str, float]


class Ledger:
    """An account that pays from a budget and records every grant first.

    Args:
        budget: The budget of all runs into the store.
        earlier: What each earlier run has spent or was granted: ``dollars`` and ``images``; and the
            most that an answer has brought: ``most_images``, and by which ``ratio`` and ``excess``
            dollars it has exceeded its price.
        note: Writes this run's record durably.
        step: Attempts per grant, so that not every attempt is a write.
        model: Full id.
    """

    def __init__(
        self,
        budget: Budget,
        earlier: Collection[Spent],
        note: Callable[[Spent], Awaitable[None]],
        step: int,
        model: str,
    ) -> None:
        self.budget = budget
        budget.spent += math.fsum(each["dollars"] for each in earlier)
        budget.images += round(math.fsum(each["images"] for each in earlier))
        for each in earlier:
            images, ratio = round(each.get("most_images", 1)), each.get("ratio", 1.0)
            budget.expect(model, Overrun(images, ratio, each.get("excess", 0.0)))
        self._before = self._total()
        self._note = note
        self._step = step
        self._written = {"dollars": 0.0, "images": 0.0}
        self._reserved = {"dollars": 0.0, "images": 0.0}
        self._most: Spent = {}
        self._writing = Lock()

    @asynccontextmanager
    async def attempt(self, price: float | None, model: str = "") -> AsyncIterator[Attempt]:
        """Reserve the price of one attempt around the block, recorded first.

        Raises:
            BudgetExhausted: If it could exceed the budget.
            StoreError: If it cannot be written.
        """
        async with self.budget.attempt(price, model) as attempt:
            reserved = {"dollars": attempt.price or 0.0, "images": float(attempt.room)}
            self._add(reserved, 1)
            try:
                await self._cover(reserved)
                yield attempt
            finally:
                self._add(reserved, -1)
                self._learn(attempt)

    async def settle(self) -> None:
        """Record what was actually spent, while nothing is running."""
        async with self._writing:
            used = self._used()
            if used != self._written:
                # Set first: an attempt that begins during the write must wait for its own grant.
                self._written = used
                await self._note(used)

    async def _cover(self, reserved: Spent) -> None:
        """Write a further grant, unless what is written covers all that may be spent by now."""
        if self._is_covered():
            return
        async with self._writing:
            if self._is_covered():
                return
            limits = {"dollars": self.budget.usd, "images": self.budget.max_images}
            grant = dict(self._most)
            used_by = self._used()
            for name, limit in limits.items():
                used = used_by[name]
                grant[name] = used + self._step * reserved[name]
                if limit is not None:
                    grant[name] = min(grant[name], max(limit - self._before[name], used))
            await self._note(grant)
            self._written = grant

    def _is_covered(self) -> bool:
        used = self._used()
        return all(used[name] <= self._written.get(name, 0.0) + 1e-9 for name in used)

    def _learn(self, attempt: Attempt) -> None:
        """Remember what an answer has brought beyond one image and its price."""
        if (overrun := attempt.overrun) is not None:
            for name, value in zip(("most_images", "ratio", "excess"), overrun, strict=True):
                self._most[name] = max(self._most.get(name, 0.0), float(value))

    def _used(self) -> Spent:
        """Return what this run has spent, or may spend by what is running."""
        total = self._total()
        used = {name: total[name] - self._before[name] + self._reserved[name] for name in total}
        return {**used, **self._most}

    def _total(self) -> Spent:
        budget = self.budget
        return {
            "dollars": budget.spent + budget.maybe_spent,
            "images": float(budget.images + budget.maybe_images),
        }

    def _add(self, reserved: Spent, sign: int) -> None:
        for name, value in reserved.items():
            self._reserved[name] += sign * value
