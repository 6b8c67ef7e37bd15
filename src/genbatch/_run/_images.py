"""generate_images: a client, a stream and a store, put together."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from logging import DEBUG, getLogger
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, overload

from anyio import CapacityLimiter

from genbatch._core import OutcomeStream, T, Workers, open_stream
from genbatch._logs import about, tell
from genbatch._money import Account, Budget
from genbatch._store import Batch, Plan, Store, digests_of_texts
from genbatch._values import Image, Prompt, SavedImage
from genbatch.gemini import GeminiClient, Settings
from genbatch.gemini import price as price_of

from ._completion import Completion
from ._stops import Stops

_log = getLogger("genbatch.store")

PT = TypeVar("PT", bound=str | Prompt)


class _Options(TypedDict, total=False):
    """The options that every form of generate_images takes alike."""

    max_concurrent: int
    limiter: CapacityLimiter | None
    ordered: bool
    fail_fast: bool
    namespace: str
    model: str
    aspect_ratio: str | None
    image_size: str | None
    thinking: str | None
    temperature: float | None
    seed: int | None
    system_instruction: str | None
    generation_config: Mapping[str, Any] | None
    budget: Budget | None
    price: float | None


@overload
def generate_images(
    client: GeminiClient,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: None = None,
    store: None = None,
    **options: Unpack[_Options],
) -> AbstractAsyncContextManager[OutcomeStream[PT, Image]]: ...


@overload
def generate_images(
    client: GeminiClient,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: str | os.PathLike[str],
    **options: Unpack[_Options],
) -> AbstractAsyncContextManager[OutcomeStream[PT, SavedImage]]: ...


@overload
def generate_images(
    client: GeminiClient,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    store: Store,
    **options: Unpack[_Options],
) -> AbstractAsyncContextManager[OutcomeStream[PT, SavedImage]]: ...


def generate_images(
    client: GeminiClient,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: str | os.PathLike[str] | None = None,
    store: Store | None = None,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    ordered: bool = False,
    fail_fast: bool = False,
    namespace: str = "",
    model: str = "flash",
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    thinking: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    system_instruction: str | None = None,
    generation_config: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    price: float | None = None,
) -> AbstractAsyncContextManager[OutcomeStream[PT, Any]]:
    """Generate an image for each prompt and stream the outcomes.

    Args:
        client: An open GeminiClient.
        prompts: Strings or Prompts, pulled lazily; see stream.
        save_dir: Directory to save the images in, created if missing.
        store: An open Store to save them in, instead of save_dir.
        max_concurrent: Most calls in flight, at least 1. With a limiter the smaller bound wins.
        limiter: Shared with other batches or the app. With max_concurrent the smaller bound wins.
        ordered: Hand outcomes over in input order.
        fail_fast: Stop at the first failure.
        namespace: Images of one namespace are never taken for those of another.
        model: ``"flash"``, ``"pro"``, ``"lite"``, or any full model id. This and the settings below
            hold for every prompt that does not bring its own.
        aspect_ratio: Such as ``"16:9"``; the model's default where None.
        image_size: ``"1K"``, ``"2K"`` or ``"4K"``; the model's default where None.
        thinking: ``"minimal"``, ``"medium"`` or ``"high"``; the model's default where None.
        temperature: How freely to sample; the model's default where None.
        seed: Asks for repeatable sampling.
        system_instruction: Told to the model before each prompt.
        generation_config: Other fields of the request; see GeminiClient.generate_image.
        budget: What the calls are paid from; one that could exceed it is not made, and its prompt
            fails with BudgetExhausted.
        price: US dollars an image, in place of the price table's.

    Yields:
        A receive stream of outcomes. Their value is an Image or, where images are saved, a
        SavedImage, whose file is on disk, durable, before the outcome is seen.

    Raises:
        ValueError: If both save_dir and store are given, the model cannot do what the settings ask
            for, budget is in US dollars and no price of it is known, or as stream. What a prompt's
            own settings ask for fails that prompt alone.
        TypeError: If generation_config is no mapping, or as stream.
        StoreError: On entering, if save_dir cannot be used; see Store.

    Resuming: A prompt whose image stands in the directory already, wherever the prompt stood then,
    is not called again: its outcome is marked ``resumed``. One that was refused for good fails
    again without a call, and one whose image has been deleted with ImageMissing; see Store. What
    failed otherwise is tried again.

    Stopping: A refused key, a disk that takes no image, and 20 failures of the service in a row end
    all calls, a used-up quota those of its model: the prompts left fail with the error that stopped
    them and without a call.

    Ordering, backpressure, cancellation, failure: as stream. An image that has arrived is saved
    whatever is cancelled.
    """
    if save_dir is not None and store is not None:
        raise ValueError("give save_dir or store, not both")
    settings = Settings(
        model=model,
        aspect_ratio=aspect_ratio,
        image_size=image_size,
        thinking=thinking,
        temperature=temperature,
        seed=seed,
        system_instruction=system_instruction,
        generation_config=generation_config,
    ).checked()  # raises now, not once for each prompt
    if budget is None:
        budget = Budget()
    elif budget.usd is not None and price is None and price_of(settings.model, image_size) is None:
        raise ValueError(f"no price of {settings.model} is known: give price=, US dollars an image")
    run, complete = Run(client, budget, price), Completion(settings)
    place = store if save_dir is None else Store(save_dir)
    if place is None:
        generate: Callable[..., Awaitable[Any]] = _Generate(run, complete)
    else:
        batch = Batch(place, namespace)
        generate = GenerateOnce(run, complete, place, batch, namespace)
    workers = Workers(generate, prompts, max_concurrent, limiter, fail_fast, numbered=True)
    outcomes = open_stream(workers, ordered)
    if place is None:
        return outcomes
    return inside(nullcontext() if place is store else place, batch, workers, outcomes)


class Maker(Protocol):
    """Makes images of requests that have none yet; a Run does so with a call each."""

    @property
    def stops(self) -> Stops:
        """What has stopped it."""

    async def make(
        self, place: Store, plan: Plan, request: Prompt, others: dict[str, Any]
    ) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""


@dataclass(frozen=True, slots=True)
class Run:
    """What all calls of a batch share."""

    client: GeminiClient
    budget: Budget
    price: float | None
    stops: Stops = field(default_factory=Stops)

    async def make(
        self, place: Store, plan: Plan, request: Prompt, others: dict[str, Any]
    ) -> SavedImage:
        """Make an image and save it, unless another batch has done so meanwhile."""
        self.stops.check(str(request.model))
        with about(key=plan.key):
            async with place.making(plan) as making:
                if making.saved is not None:
                    return making.saved
                image = await self.ask(request, others, making.noting(self.budget))
                return await making.save(image)

    async def ask(self, request: Prompt, others: dict[str, Any], account: Account) -> Image:
        """Make an image, paid from an account."""
        model = str(request.model)
        self.stops.check(model)
        with self.stops.learning(model):
            return await self.client.generate_image(
                request, **others, budget=self.stops.guard(model, account), price=self.price
            )


class _Generate:
    """How an image comes of each prompt of a batch."""

    def __init__(self, run: Run, complete: Completion) -> None:
        self._run = run
        self._complete = complete

    async def __call__(self, numbered: tuple[int, str | Prompt]) -> Image:
        index, prompt = numbered
        request, others = self._complete(prompt)
        with about(index=index):
            return await self._run.ask(request, others, self._run.budget)


class GenerateOnce:
    """The same, saved, and from an earlier run where it has been made."""

    def __init__(
        self, run: Maker, complete: Completion, place: Store, batch: Batch, namespace: str
    ) -> None:
        self._run = run
        self._complete = complete
        self._place = place
        self._batch = batch
        self._digest = digests_of_texts(namespace, *complete("any text"))

    async def __call__(self, numbered: tuple[int, str | Prompt]) -> SavedImage:
        index, prompt = numbered
        plan = self._batch.recall(self._digest(prompt), index) if isinstance(prompt, str) else None
        if plan is not None and plan.saved is not None:
            return _resumed(index, plan.key, plan.saved)  # most of a resumed run, so first
        request, others = self._complete(prompt)
        with about(index=index), self._run.stops.learning_of_disk():
            if plan is None:
                plan = await self._batch.plan(index, request, others)
            if plan.saved is not None:
                return _resumed(index, plan.key, plan.saved)
            if plan.error is not None:
                tell(_log, DEBUG, "not asked again", key=plan.key, error=plan.error)
                raise plan.error
            return await self._run.make(self._place, plan, request, others)


def _resumed(index: int, key: str, saved: SavedImage) -> SavedImage:
    if _log.isEnabledFor(DEBUG):  # tens of thousands in a second come by here
        path = str(saved.path)
        tell(_log, DEBUG, "resumed from %s", path, index=index, key=key, path=path)
    return saved


@asynccontextmanager
async def inside(
    place: AbstractAsyncContextManager[object],
    batch: Batch,
    workers: Workers[Any, Any],
    outcomes: AbstractAsyncContextManager[T],
) -> AsyncGenerator[T]:
    """Enter both, the outcomes inside the place they are saved in, and end the batch there."""
    async with place:
        try:
            async with outcomes as entered:
                yield entered
        finally:
            await batch.end(whole=workers.source.read_to_end)
