"""generate_images: a client, a stream and a store, put together."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, TypedDict, TypeVar, Unpack, overload

from anyio import CapacityLimiter

from ._image import Image, SavedImage
from ._outcome import T
from ._prompt import Prompt
from ._store import Store
from ._stream import OutcomeStream, open_stream
from ._workers import Workers
from .gemini import GeminiClient
from .gemini._models import model_id

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

    Yields:
        A receive stream of outcomes. Their value is an Image or, where images are saved, a
        SavedImage, whose file is on disk, durable, before the outcome is seen.

    Raises:
        ValueError: If both save_dir and store are given, model cannot be one, or as stream.
        TypeError: As stream.
        StoreError: On entering, if save_dir cannot be created or written to.

    Resuming: An image that stands in the directory already, of the same index and request, is not
    made again: its outcome is marked ``resumed``.

    Ordering, backpressure, cancellation, failure: as stream. An image that has arrived is saved
    whatever is cancelled.
    """
    if save_dir is not None and store is not None:
        raise ValueError("give save_dir or store, not both")
    model_id(model)  # raises now, not once for each prompt
    place = store if save_dir is None else Store(save_dir)

    async def generate(index: int, prompt: PT) -> Image | SavedImage:
        request = Prompt.of(prompt)
        request = replace(
            request,
            model=model_id(request.model or model),
            aspect_ratio=request.aspect_ratio or aspect_ratio,
            image_size=request.image_size or image_size,
        )
        if place is None:
            return await client.generate_image(request)
        stem = await place.plan(index, request, namespace)
        if (saved := await place.find(stem)) is not None:
            return saved
        return await place.save(stem, await client.generate_image(request))

    workers = Workers(generate, prompts, max_concurrent, limiter, fail_fast, numbered=True)
    outcomes = open_stream(workers, ordered)
    return outcomes if place is store or place is None else _inside(place, outcomes)


@asynccontextmanager
async def _inside(place: Store, outcomes: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    """Enter both, the outcomes inside the place they are saved in."""
    async with place, outcomes as entered:
        yield entered
