"""Further takes: prompts of a directory asked for once more, the earlier images kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from genbatch._core import OutcomeStream, Workers, open_stream
from genbatch._logs import about
from genbatch._money import Budget
from genbatch._store import Plan, Store
from genbatch._values import Prompt, SavedImage
from genbatch.gemini import GeminiClient, Settings, model_id

from ._images import Run


@dataclass(frozen=True, slots=True)
class Take:
    """A take to be made.

    Attributes:
        index: Position of its prompt in the latest input.
        prompt: What is asked for.
        settings: What is asked for beside it.
        plan: Of the store.
    """

    index: int
    prompt: Prompt
    settings: dict[str, Any]
    plan: Plan


async def plan_takes(
    store: Store, indices: Iterable[int], *, namespace: str = "", **changes: Any
) -> list[Take]:
    """Plan a further take of each prompt, without a call.

    Args:
        store: That has the prompts; open.
        indices: Positions of the prompts in the latest input.
        namespace: Of that input.
        changes: Fields of the Prompt to change, the same for all.

    Raises:
        ValueError: If there is no such prompt, not all of its request is known, or the model cannot
            do what is asked for.
        StoreError: If the journal cannot be read.
    """
    if "model" in changes:
        changes["model"] = model_id(changes["model"])
    takes = []
    for index in indices:
        plan, prompt, settings = await store.further(index, namespace, **changes)
        Settings(**{"model": "flash"} | settings).overridden_by(prompt).checked()
        takes.append(Take(index, prompt, settings, plan))
    return takes


def make_takes(
    client: GeminiClient,
    store: Store,
    takes: Sequence[Take],
    *,
    max_concurrent: int = 5,
    budget: Budget | None = None,
    price: float | None = None,
) -> AbstractAsyncContextManager[OutcomeStream[Prompt, SavedImage]]:
    """Make planned takes and stream the outcomes, whose index is that in takes.

    Args:
        client: An open GeminiClient.
        store: That has planned them.
        takes: Those to make.
        max_concurrent: Most calls in flight, at least 1.
        budget: What the calls are paid from.
        price: US dollars an image, in place of the price table's.

    Stopping, cancellation, failure: as generate_images.
    """
    run = Run(client, Budget() if budget is None else budget, price)

    async def make(numbered: tuple[int, Prompt]) -> SavedImage:
        number, prompt = numbered
        take = takes[number]
        with about(index=take.index), run.stops.learning_of_disk():
            return await run.make(store, take.plan, prompt, take.settings)

    prompts = [take.prompt for take in takes]
    return open_stream(Workers(make, prompts, max_concurrent, None, False, numbered=True), False)
