"""HeldCalls: a generate whose calls end when they are told to."""

from __future__ import annotations

import anyio
from anyio import Event


class HeldCalls:
    """Calls that wait until their prompt is released, and what became of them.

    Attributes:
        started: Prompts in the order in which their calls started.
        completed: Those whose calls have returned.
        cancelled: Those whose calls were cancelled.
    """

    def __init__(self, factor: int = 1) -> None:
        self._factor = factor
        self.started: list[int] = []
        self.completed: list[int] = []
        self.cancelled: list[int] = []
        self._released: dict[int, Event] = {}

    def release(self, *prompts: int) -> None:
        """Let the calls for these prompts return, now or as soon as they start."""
        for prompt in prompts:
            self._event(prompt).set()

    def _event(self, prompt: int) -> Event:
        return self._released.setdefault(prompt, Event())

    async def generate(self, prompt: int) -> int:
        """Return the prompt times the factor, once it is released."""
        self.started.append(prompt)
        try:
            await self._event(prompt).wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(prompt)
            raise
        self.completed.append(prompt)
        return prompt * self._factor
