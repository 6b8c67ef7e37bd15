"""Sample: some of many, each as likely as any other, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class Sample(Generic[T]):
    """Chooses uniformly, without replacement, of what it is offered; a reservoir.

    Args:
        size: How many to choose, all where fewer are offered.
        seed: The same one makes the same choice of the same number of items.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size = size
        self._random = Random(seed)  # noqa: S311 - no secret
        self._seen = 0
        self._chosen: list[tuple[int, T]] = []

    @property
    def items(self) -> list[T]:
        """What is chosen of all that was offered, in that order."""
        return [item for _, item in sorted(self._chosen, key=lambda each: each[0])]

    def offer(self, number: int, items: Callable[[], Iterable[T]]) -> None:
        """Offer so many items, which are asked for only if one is chosen."""
        rest: Iterator[T] | None = None
        passed = 0
        for offset in range(number):
            slot = self._slot(self._seen)
            if slot is not None:
                rest = rest or iter(items())
                item = next(islice(rest, offset - passed, None))
                passed = offset + 1
                self._chosen[slot : slot + 1] = [(self._seen, item)]
            self._seen += 1

    def _slot(self, index: int) -> int | None:
        """Return the place that an item takes among those chosen, None if it is not."""
        slot = index if index < self._size else int(self._random.random() * (index + 1))
        return slot if slot < self._size else None
