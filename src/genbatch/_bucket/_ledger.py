"""SharedLedger: one budget over all processes, by compare-and-swap of one object.

1. What a process has spent, may have spent and reserves never exceeds its grant.
2. The grants of all processes together never exceed the budget.
3. A process that was killed counts with its grant: a few calls more than it made. A later process
   adds that to what has been spent, and forgets it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import random
from threading import Lock as ThreadLock
from typing import Any, TypeAlias

from anyio import Lock, current_time, sleep
from pydantic_core import from_json, to_json

from genbatch._money import Attempt, Budget
from genbatch._values import BudgetExhausted, StoreError

from ._claims import Claims, live_sessions
from ._objects import MONEY, Objects

Sums: TypeAlias = dict[str, float]  # of dollars and images

_SETTLED = "settled"  # the entry of all processes that have ended
_ROUNDING = 1e-9
_PATIENCE = 10.0  # seconds for others to give back what they do not use
_LOOK = 0.5  # seconds between looks whether they have
_MOST_LOOKED_AT = 16  # processes that may have been killed, the oldest first
_APART = 0.05  # seconds, at most, between two tries of processes that swap at once


class SharedLedger:
    """An account that pays from a budget, and is granted it from the store, some calls at a time.

    Args:
        budget: Of all processes together; its limits are the same in each.
        objects: Where the grants are.
        claims: Of this process, which tell whether another one lives.
        step: Calls per grant.
        run_in_thread: Runs what blocks.
    """

    def __init__(
        self,
        budget: Budget,
        objects: Objects,
        claims: Claims,
        step: int,
        run_in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        self.budget = budget
        self._objects = objects
        self._claims = claims
        self._session = claims.session
        self._step = step
        self._run_in_thread = run_in_thread
        self._reserved = {"dollars": 0.0, "images": 0.0}
        self._granted = {"dollars": 0.0, "images": 0.0}
        self._before = self._total()
        self._others = {"dollars": 0.0, "images": 0.0}
        self._refused: Sums | None = None  # what the others had when a grant was refused
        self._asking = Lock()
        self._writing = ThreadLock()  # held while the object is changed
        self._counting = ThreadLock()  # held for a moment only, by the event loop too
        self._can_swap = objects.place.can_swap()
        self._check()
        self._killed()  # from now on they are seen to give no sign of life

    @asynccontextmanager
    async def attempt(self, price: float | None, model: str = "") -> AsyncIterator[Attempt]:
        """Reserve the price of one attempt around the block, granted first.

        Raises:
            BudgetExhausted: If it could exceed the budget.
            StoreError: If the grant cannot be written.
        """
        reserved: Sums = {}
        try:
            async with self.budget.attempt(price, model) as attempt:
                reserved = {"dollars": attempt.price or 0.0, "images": float(attempt.room)}
                if not self._add(reserved, 1):
                    await self._cover(reserved)
                yield attempt
        finally:  # after the budget has counted what it came to
            self._add(reserved, -1)

    def give_back(self) -> None:
        """Give back what is granted and not used; this blocks."""
        with self._writing:
            with self._counting:
                used = self._used()
                # Never more than was granted: a call that waits for its grant is in what is used.
                lower = {name: min(used[name], self._granted[name]) for name in used}
                if all(self._granted[name] <= lower[name] + _ROUNDING for name in lower):
                    return
                self._granted = lower  # first: an attempt that begins now waits for its own grant

            def give(grants: dict[str, Sums]) -> bool:
                grants[self._session] = lower
                return True

            self._update(give)

    def settle(self) -> None:
        """Record what was spent, while nothing is running; this blocks."""
        used, killed = self._used(), self._killed()

        def fold(grants: dict[str, Sums]) -> bool:
            grants.pop(self._session, None)
            ended = [used, *(grants.pop(each) for each in killed if each in grants)]
            ended.append(grants.get(_SETTLED, dict.fromkeys(used, 0.0)))
            grants[_SETTLED] = {name: sum(each[name] for each in ended) for name in used}
            return True

        with self._writing:
            self._granted = used  # so that nothing is given back any more
            if self._can_swap:
                self._update(fold)
                for each in killed:
                    self._objects.place.remove(f"sessions/{each}.json")
            else:
                self._objects.note(self._session, used)

    async def _cover(self, reserved: Sums) -> None:
        if self._is_covered():
            return
        async with self._asking:
            if not self._is_covered():
                await self._ask(reserved)

    async def _ask(self, reserved: Sums) -> None:
        """Get a further grant; wait a little where others hold what they may give back."""
        until = current_time() + _PATIENCE
        while not await self._run_in_thread(self._is_granted, reserved):
            if self._others == self._refused or current_time() > until:
                self._refused = dict(self._others)
                raise self._exhausted()
            await sleep(_LOOK)

    def _is_granted(self, reserved: Sums) -> bool:
        with self._writing:
            granted: Sums = {}
            if not self._update(lambda grants: self._raise_grant(grants, reserved, granted)):
                return False
            self._granted = granted  # not before it is written
            return True

    def _raise_grant(self, grants: dict[str, Sums], reserved: Sums, granted: Sums) -> bool:
        """Raise the own grant to what is used and some calls more, as far as there is any left."""
        others = self._sum_others(grants)
        used = self._used()
        for name, limit in self._limits().items():
            more = self._step * reserved[name]
            if limit is not None:
                left = limit - others[name] - used[name]
                if left < -_ROUNDING:
                    return False
                more = min(more, left / (2 * len(grants) + 1))  # the last calls are shared out
            granted[name] = used[name] + max(0.0, more)
        grants[self._session] = granted
        return True

    def _update(self, change: Callable[[dict[str, Sums]], bool]) -> bool:
        """Change the grants of all processes, unless change returns False."""
        place = self._objects.place
        if not self._can_swap:
            grants = self._objects.ledger()
            if is_changed := change(grants):
                self._objects.note(self._session, grants[self._session])
            return is_changed
        while True:
            held = place.tagged(MONEY)
            grants = from_json(held[0]) if held else {}
            if not change(grants):
                return False
            data = to_json(grants)
            if place.create(MONEY, data) if held is None else place.swap(MONEY, data, held[1]):
                return True
            time.sleep(random() * _APART)  # noqa: S311 - no secret

    def _sum_others(self, grants: dict[str, Sums]) -> Sums:
        others = [each for session, each in grants.items() if session != self._session]
        self._others = {name: sum(each[name] for each in others) for name in self._reserved}
        return self._others

    def _exhausted(self) -> BudgetExhausted:
        total = {name: self._others[name] + value for name, value in self._used().items()}
        what = f"{total['images']:.0f} images, ${total['dollars']:.2f}, over all processes"
        limits = self._limits()
        if limits["images"] is not None and total["images"] > limits["images"]:
            return BudgetExhausted(f"max_images of {limits['images']:.0f} is reached: {what}")
        return BudgetExhausted(f"the budget of ${limits['dollars'] or 0:.2f} is used up: {what}")

    def _killed(self) -> list[str]:
        """Return processes that have ended without settling, as far as that is known."""
        held = self._objects.place.tagged(MONEY) if self._can_swap else None
        others = set(from_json(held[0]) if held else ()) - {self._session, _SETTLED}
        return [each for each in sorted(others)[:_MOST_LOOKED_AT] if self._claims.is_dead(each)]

    def _check(self) -> None:
        """Refuse a budget over several processes where the store cannot hold it together.

        Raises:
            StoreError: If there is a limit, other processes run, and it cannot be shared.
        """
        usd, most = self.budget.usd, self.budget.max_images
        if self._can_swap or (usd is None and most is None):
            return
        running = len(live_sessions(self._objects.place))
        if running > 1:
            share = f"${usd / running:.2f} each" if usd is not None else ""
            images = f"{(most or 0) // running} images each" if most is not None else ""
            raise StoreError(
                f"{self._objects.place.uri('')} cannot compare and swap, so one budget does not "
                f"hold over {running} processes: give each a folder of its own and a part, "
                f"{' and '.join(filter(None, (share, images)))}"
            )

    def _limits(self) -> dict[str, float | None]:
        return {"dollars": self.budget.usd, "images": self.budget.max_images}

    def _is_covered(self) -> bool:
        return all(used <= self._granted[name] + _ROUNDING for name, used in self._used().items())

    def _used(self) -> Sums:
        """Return what this process has spent, or may spend by what is running."""
        total = self._total()
        return {name: total[name] - self._before[name] + self._reserved[name] for name in total}

    def _total(self) -> Sums:
        budget = self.budget
        return {
            "dollars": budget.spent + budget.maybe_spent,
            "images": float(budget.images + budget.maybe_images),
        }

    def _add(self, reserved: Sums, sign: int) -> bool:
        """Count a reservation, and return whether the grant covers all that is used."""
        with self._counting:
            for name, value in reserved.items():
                self._reserved[name] += sign * value
            return self._is_covered()
