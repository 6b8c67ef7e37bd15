"""A ledger of the service's own, with published prices as literals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from genbatch.testing import Call, Fault, several_images

# US dollars a token of prompt, of thoughts, and of an image, as published.
RATES = {
    "gemini-nano-banana-2.1": (1.50e-6, 7.50e-6, 30e-6),
    "gemini-3-pro-image": (2e-6, 12e-6, 120e-6),
}


class Till:
    """What the service bills, whatever its answers say of it; it knows no file of prices.

    Args:
        edits: Which of these answers a call gets is random.
        thoughts: How many tokens of them an answer has is random too.
        images: How many an answer has.
    """

    def __init__(
        self,
        edits: Sequence[Fault] = (Fault(),),
        thoughts: Sequence[int] = (0, 337, 2000),
        images: int = 1,
    ) -> None:
        self.billed = 0.0
        self._images = several_images(images)
        self._edits, self._thoughts = edits, thoughts
        self._pick = random.Random(0)

    def fault(self, call: Call) -> Fault:
        told = self._pick.choice(self._edits)
        thoughts = self._pick.choice(self._thoughts)

        def edit(answer: dict[str, Any]) -> dict[str, Any]:
            assert self._images.edit is not None
            answer = self._images.edit(answer)
            usage = answer["usageMetadata"]
            usage["thoughtsTokenCount"] = thoughts
            for_prompt, for_thoughts, for_image = RATES[call.model]
            cost = for_prompt * usage["promptTokenCount"] + for_thoughts * thoughts
            cost += for_image * usage["candidatesTokenCount"]
            self.billed += cost * (0.5 if call.key else 1)  # a row of a batch job
            return told.edit(answer) if told.edit else answer

        return Fault(edit=edit)
