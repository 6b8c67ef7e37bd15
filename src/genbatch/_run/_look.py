"""FirstLook: the first call of each model ends before the others begin.

A wrong key, region or setting then costs one call. What says nothing of them lets the others go: an
image, a block, an answer without an image, and from its first attempt on a service that fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from genbatch._core import ParkingLot, waiting
from genbatch._values import GenbatchError, Stopped, Unavailable


class Looked(Stopped):
    """As many calls as were asked for have been made; nothing was sent for this one."""


@dataclass(slots=True)
class _Gate:
    """What the calls of one model wait for."""

    is_open: bool = False
    is_taken: bool = False
    ended: ParkingLot = field(default_factory=ParkingLot)

    def open(self) -> None:
        """Let all calls go."""
        self.is_open = True
        self.ended.unpark()


class FirstLook:
    """The order of the first calls of a run; a client that has one as ``look`` gives it to runs.

    Args:
        is_proven: Whether the calls of a model need not wait.
        most: Most calls to make, None for all; the others are Looked.
    """

    def __init__(
        self, is_proven: Callable[[str], bool] = lambda model: False, most: int | None = None
    ) -> None:
        self._is_proven = is_proven
        self._most = most
        self._begun = self._ended = 0
        self._looked = ParkingLot()
        self._gates: dict[str, _Gate] = {}

    def is_first(self, model: str) -> bool:
        """Return whether the first call of a model is in flight, and others wait for it."""
        gate = self._gates.get(model)
        return gate is not None and gate.is_taken and not gate.is_open

    def attempt_failed(self, model: str, error: Exception) -> None:
        """Let the others go where a service fails that was reached: the call may take minutes."""
        is_reached = getattr(error, "is_reached", True)
        if isinstance(error, Unavailable | TimeoutError) and is_reached and self.is_first(model):
            self._gates[model].open()

    @asynccontextmanager
    async def turn(self, model: str, check: Callable[[str], None]) -> AsyncIterator[None]:
        """Wait for the first call of a model, and make the call in the block.

        Args:
            model: Full id.
            check: Raises what has stopped the calls of a model.

        Raises:
            Looked: If no further call is to be made; those that are have ended then.
            Stopped: If the batch drains while this waits, and nothing has stopped the model.
        """
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = _Gate(self._is_proven(model))
        if self._most is None:
            async with self._turn_at(gate, model, check):
                yield
            return
        if self._begun >= self._most:
            while self._ended < self._begun:
                with waiting():
                    await self._looked.park()
            raise Looked("only the images to look at were to be made")
        self._begun += 1
        try:
            async with self._turn_at(gate, model, check):
                yield
        finally:
            self._ended += 1
            self._looked.unpark()

    @asynccontextmanager
    async def _turn_at(
        self, gate: _Gate, model: str, check: Callable[[str], None]
    ) -> AsyncIterator[None]:
        try:
            while gate.is_taken and not gate.is_open:
                with waiting():
                    await gate.ended.park()
        except Stopped:
            check(model)
            raise
        if gate.is_open:
            yield
            return
        gate.is_taken = True
        try:
            yield
        except GenbatchError:
            gate.open()  # those that wait meet what it has told the breaker
            raise
        else:
            gate.open()
        finally:  # any other error is a prompt's own, before anything was sent: the next goes first
            gate.is_taken = False
            gate.ended.unpark(1)
