"""ParkingLot: where tasks wait until there may be something for them to do."""

from __future__ import annotations

import sys
from collections import deque

from anyio import Event


class ParkingLot:
    """Tasks waiting in line; nearly free while no task waits.

    Being unparked promises nothing: look again, and park again where there is nothing yet.

    Attributes:
        parked: Those who wait.
        waking: How many were unparked and have not run yet.
    """

    def __init__(self) -> None:
        self.parked: deque[Event] = deque()
        self.waking = 0

    async def park(self) -> None:
        """Wait to be unparked."""
        event = Event()
        self.parked.append(event)
        try:
            await event.wait()
            self.waking -= 1
        except BaseException:
            if event.is_set():
                self.waking -= 1
                self.unpark(1)  # pass the wake-up on: this task will not use it
            else:
                self.parked.remove(event)
            raise

    def unpark(self, most: int = sys.maxsize) -> None:
        """Wake the parked tasks, or at most so many of them, longest parked first."""
        while self.parked and most:
            self.parked.popleft().set()
            self.waking += 1
            most -= 1
