"""Ledger: a budget that outlives its run, since each run writes what it may spend before it does.

1. What a run has spent, possibly spent and reserved never exceeds what stands in the store for it.
2. So a run that was killed counts with what it was granted: at most a step more than it spent.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from anyio import Lock

from genbatch._money import Attempt, Budget

Spent: TypeAlias = dict[str, float]


class Ledger:
    """An account that pays from a budget and has it in writing first.

    Args:
        budget: Of all runs into the store.
        earlier: What they have spent, or were granted: ``dollars`` and ``images``.
        note: Writes the same of this run, durably.
        step: Attempts granted at once, so that not each is a write.
    """

    def __init__(
        self,
        budget: Budget,
        earlier: list[Spent],
        note: Callable[[Spent], Awaitable[None]],
        step: int,
    ) -> None:
        self.budget = budget
        budget.spent += math.fsum(each["dollars"] for each in earlier)
        budget.images += round(math.fsum(each["images"] for each in earlier))
        self._before = self._total()
        self._note = note
        self._step = step
        self._written = {"dollars": 0.0, "images": 0.0}
        self._reserved = {"dollars": 0.0, "images": 0.0}
        self._writing = Lock()

    @asynccontextmanager
    async def attempt(self, price: float | None) -> AsyncIterator[Attempt]:
        """Reserve the price of one attempt around the block, in writing.

        Raises:
            BudgetExhausted: If it could exceed the budget.
            StoreError: If it cannot be written.
        """
        async with self.budget.attempt(price) as attempt:
            reserved = {"dollars": price or 0.0, "images": 1.0}
            self._add(reserved, 1)
            try:
                await self._cover(reserved)
                yield attempt
            finally:
                self._add(reserved, -1)

    async def settle(self) -> None:
        """Write down what was really spent, while nothing is running."""
        async with self._writing:
            used = self._used()
            if used != self._written:
                # First: what begins during the write is covered by neither, and must wait for it.
                self._written = used
                await self._note(used)

    async def _cover(self, reserved: Spent) -> None:
        """Write a further grant, unless what is written covers all that may be spent by now."""
        if not self._is_covered():
            async with self._writing:
                if not self._is_covered():
                    used, budget = self._used(), self.budget
                    grant = {name: used[name] + self._step * reserved[name] for name in used}
                    if budget.usd is not None:
                        rest = max(budget.usd - self._before["dollars"], used["dollars"])
                        grant["dollars"] = min(grant["dollars"], rest)
                    if budget.max_images is not None:
                        rest = max(budget.max_images - self._before["images"], used["images"])
                        grant["images"] = min(grant["images"], rest)
                    await self._note(grant)
                    self._written = grant

    def _is_covered(self) -> bool:
        used = self._used()
        return all(used[name] <= self._written[name] + 1e-9 for name in used)

    def _used(self) -> Spent:
        """Return what this run has spent, or may spend by what is running."""
        total = self._total()
        return {name: total[name] - self._before[name] + self._reserved[name] for name in total}

    def _total(self) -> Spent:
        budget = self.budget
        return {
            "dollars": budget.spent + budget.maybe_spent,
            "images": float(budget.images + budget.maybe_images),
        }

    def _add(self, reserved: Spent, sign: int) -> None:
        for name, value in reserved.items():
            self._reserved[name] += sign * value
