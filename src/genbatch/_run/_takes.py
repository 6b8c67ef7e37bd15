"""Further takes: prompts of a directory asked for once more, the earlier images kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from genbatch._core import OutcomeStream, Workers, open_stream
from genbatch._logs import log_context
from genbatch._money import Budget
from genbatch._store import Plan, Store, further_in
from genbatch._values import ImageRequest, Prompt, SavedImage
from genbatch.events import OnEvent

from ._paid_call import PaidCalls
from ._service import Generate, ImageClient, Service


@dataclass(frozen=True, slots=True)
class Take:
    """A take to be made.

    Attributes:
        index: Number of its prompt.
        request: What is asked for.
        plan: Of the store.
    """

    index: int
    request: ImageRequest
    plan: Plan


async def plan_takes(
    client: ImageClient | Generate,
    store: Store,
    indices: Iterable[int],
    *,
    namespace: str = "",
    **changes: Any,
) -> list[Take]:
    """Plan a further take of each prompt, without a call.

    Args:
        client: That is to make them.
        store: That has the prompts; open.
        indices: Numbers of the prompts.
        namespace: Of that input.
        changes: Fields of the ImageRequest to change, the same for all.

    Raises:
        ValueError: If there is no such prompt, not all of its request is known, or the model cannot
            do what is asked for.
        StoreError: If the journal cannot be read.
    """
    service = Service(client)
    found = [(index, *await store.further(index, namespace, **changes)) for index in indices]
    return [_take(service, *each, changes) for each in found]


def takes_in(
    client: ImageClient | Generate | type,
    directory: str | os.PathLike[str],
    indices: Sequence[int],
    *,
    namespace: str = "",
    variants: int = 1,
    **changes: Any,
) -> list[Take]:
    """Plan further takes as plan_takes, from the journal of a directory; this blocks.

    Args:
        client: That is to make them; it need not be open.
        directory: That has the prompts.
        indices: As for plan_takes.
        namespace: As for plan_takes.
        variants: How many of each; where it has a seed, the further ones take the next ones.
        changes: As for plan_takes.
    """
    service, found = Service(client), further_in(directory, indices, namespace, variants, changes)
    return [_take(service, *each, changes) for each in found]


def _take(
    service: Service, index: int, plan: Plan, request: ImageRequest, changes: Mapping[str, Any]
) -> Take:
    # The level of the first take is not asked of another model that does not have it.
    prompt = request.prompt if "thinking" not in changes else None
    if "model" in changes:  # which may be another service's
        request = replace(request, service="")
    return Take(index, service.resolve(request, prompt), plan)


def make_takes(
    client: ImageClient | Generate,
    store: Store,
    takes: Sequence[Take],
    *,
    max_concurrent: int = 5,
    budget: Budget | None = None,
    price: float | None = None,
    on_event: OnEvent | None = None,
) -> AbstractAsyncContextManager[OutcomeStream[Prompt, SavedImage]]:
    """Make planned takes and stream the outcomes, whose index is that in takes.

    Args:
        client: As for generate_images.
        store: That has planned them.
        takes: Those to make.
        max_concurrent: Most calls in flight, at least 1.
        budget: What the calls are paid from.
        price: US dollars an image, in place of the price table's.
        on_event: As for generate_images.

    Stopping, cancellation, failure: as generate_images.
    """
    calls = PaidCalls(Service(client), Budget() if budget is None else budget, price, on_event)

    async def make(numbered: tuple[int, Prompt]) -> SavedImage:
        take = takes[numbered[0]]
        with log_context(index=take.index), calls.breaker.observe_store():
            return await calls.save_image(store, take.plan, take.request)

    prompts = [take.request.prompt for take in takes]
    workers = Workers(make, prompts, max_concurrent, None, False, numbered=True)
    calls.breaker.drop_waiting = workers.drop_waiting
    return open_stream(workers, False)
