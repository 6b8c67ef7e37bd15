"""Taking turns: one step of work per pass of the event loop, however many calls are ready."""

from __future__ import annotations

import anyio


class Turns:
    """A queue in which every task waits for a pass of the event loop of its own.

    Eight answers that arrive at once would be read and parsed in a single pass, and stall
    everything else in the loop for the sum. A turn begins a step: what its task does next, until
    it awaits, has the pass to itself among all the steps that began with a turn.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = anyio.Lock()

    async def take(self) -> None:
        """Wait for a turn: one pass, and one more for each task that waits already.

        Cancellation: Shielded, as it is short: what a task was woken for is not lost on the way.
        A native ``Task.cancel()`` strikes.
        """
        with anyio.CancelScope(shield=True):
            # Taking a free lock takes a pass too, and a lock that is handed over wakes its next
            # holder in the pass after: so steps never share one, though nobody holds it for long.
            await self._lock.acquire()
        self._lock.release()
