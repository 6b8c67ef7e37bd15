"""LoopGuard: refuses what is used from two event loops at once.

What wakes tasks, or counts them, belongs to the event loop that they run in: used from a second one
meanwhile, it would wait for ever, or count wrongly. One loop after another is fine.
"""

from __future__ import annotations

from anyio import NoEventLoopError
from anyio.lowlevel import current_token


def current_loop() -> object:
    """Return the running event loop, None outside any."""
    try:
        return current_token().native_token
    except NoEventLoopError:
        return None


class LoopGuard:
    """What is used belongs to the event loop of its first use until its last use ends.

    Enter it for as long as a use lasts.

    Args:
        owner: What it guards, for the message.
    """

    __slots__ = ("_holder", "_owner", "_uses")

    def __init__(self, owner: object) -> None:
        self._owner = type(owner).__name__
        self._holder: dict[str, object] = {}  # for its setdefault, which no thread interrupts
        self._uses = 0

    @property
    def is_held_elsewhere(self) -> bool:
        """Whether it is in use in another event loop than this one."""
        loop = current_loop()
        return loop is not None and self._holder.get("loop", loop) is not loop

    def check(self) -> None:
        """Raise RuntimeError where it is in use in another event loop."""
        if self.is_held_elsewhere:
            raise self._error()

    def __enter__(self) -> None:
        loop = current_loop()
        if self._holder.setdefault("loop", loop) is not loop:
            raise self._error()
        self._uses += 1

    def __exit__(self, *_: object) -> None:
        self._uses -= 1
        if not self._uses:
            self._holder.clear()

    def _error(self) -> RuntimeError:
        return RuntimeError(
            f"{self._owner} is in use in another event loop: use it in one at a time, "
            f"or make one {self._owner} for each"
        )
