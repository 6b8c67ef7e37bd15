"""generate_images: a client, a stream and a store, put together."""

from __future__ import annotations

import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from logging import DEBUG, getLogger
from typing import Any, TypeVar, Unpack, overload

from anyio import CapacityLimiter

from genbatch._bucket import Divided, ObjectBatch, ObjectStore
from genbatch._core import OutcomeStream, T, Workers, iterable_of, open_stream
from genbatch._logs import log, log_context
from genbatch._money import Budget, check_price
from genbatch._store import Batch, BatchInput, Store, digests_of_texts
from genbatch._values import (
    Image,
    ImageRequest,
    ImageSettings,
    Prompt,
    SavedImage,
    check_type,
    prompt_of_row,
    takes_settings,
)
from genbatch.events import OnEvent

from ._paid_call import ImageMaker, PaidCalls
from ._service import Generate, ImageClient, Service

_log = getLogger("genbatch.store")

PT = TypeVar("PT", bound=str | Prompt | Mapping[Any, Any])


class _Options(ImageSettings, total=False):
    """The options that every form of generate_images takes alike."""

    max_concurrent: int
    limiter: CapacityLimiter | None
    ordered: bool
    fail_fast: bool
    namespace: str
    budget: Budget | None
    price: float | None
    on_event: OnEvent | None
    prompt_column: str | None


@overload
def generate_images(
    client: ImageClient | Generate,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: None = None,
    store: None = None,
    **options: Unpack[_Options],
) -> AbstractAsyncContextManager[OutcomeStream[PT, Image]]: ...


@overload
def generate_images(
    client: ImageClient | Generate,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: str | os.PathLike[str],
    **options: Unpack[_Options],
) -> AbstractAsyncContextManager[OutcomeStream[PT, SavedImage]]: ...


@overload
def generate_images(
    client: ImageClient | Generate,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    store: Store | ObjectStore,
    **options: Unpack[_Options],
) -> AbstractAsyncContextManager[OutcomeStream[PT, SavedImage]]: ...


@takes_settings
def generate_images(
    client: ImageClient | Generate,
    prompts: Iterable[PT] | AsyncIterable[PT],
    *,
    save_dir: str | os.PathLike[str] | None = None,
    store: Store | ObjectStore | None = None,
    max_concurrent: int = 5,
    limiter: CapacityLimiter | None = None,
    ordered: bool = False,
    fail_fast: bool = False,
    namespace: str = "",
    budget: Budget | None = None,
    price: float | None = None,
    on_event: OnEvent | None = None,
    prompt_column: str | None = None,
    **settings: Unpack[ImageSettings],
) -> AbstractAsyncContextManager[OutcomeStream[PT, Any]]:
    """Generate an image for each prompt and stream the outcomes.

    Args:
        client: An open GeminiClient, or any ImageClient; or an ``async def generate(prompt)`` that
            returns an Image or its bytes.
        prompts: Strings or Prompts, pulled lazily; see stream. Or with prompt_column, rows.
        save_dir: Directory to save the images in, created if missing.
        store: An open Store to save them in, instead of save_dir; or an ObjectStore, opened for
            this batch if it is not open. The budget then bounds all processes together.
        max_concurrent: Most calls in flight, at least 1. With a limiter the smaller bound wins.
        limiter: Shared with other batches or the app. With max_concurrent the smaller bound wins.
        ordered: Hand outcomes over in input order.
        fail_fast: Stop at the first failure.
        namespace: Images of one namespace are never taken for those of another.
        budget: What the calls are paid from; one that could exceed it is not made, and its prompt
            fails with BudgetExhausted.
        price: US dollars an image, in place of the price table's.
        on_event: Called with each event of the batch's calls; see genbatch.events. An on_event of
            the client's is called as well.
        prompt_column: Where prompts are the rows of a table, such as dictionaries: the column of
            the prompt. Those that a Prompt has by name are settings, the others metadata.
        settings: See ImageSettings; they apply to every prompt that does not override them.

    Yields:
        A receive stream of outcomes. Their value is an Image or, where images are saved, a
        SavedImage, whose file is on disk, durable, before the outcome is seen.

    Raises:
        ValueError: If both save_dir and store are given, the model cannot do what the settings ask
            for or google-genai does not send one of them, budget is in US dollars and no price of
            it is known, or as stream. What a prompt's own settings ask for fails that prompt alone.
        TypeError: If there is no such setting, generation_config is not a mapping, client is none,
            on_event is no function or an asynchronous one, or as stream.
        Rejected: If the model is known to have been shut down.
        StoreError: On entering, if save_dir cannot be used; see Store.

    Resuming: A prompt whose image is in the directory already, at whatever index, is not called
    again: its outcome is marked ``resumed``. One that was refused for good fails
    again without a call, and one whose image has been deleted with ImageMissing; see Store. What
    failed otherwise is tried again.

    Stopping: A refused key, a disk that takes no image, and 20 failures of the service or malformed
    answers in a row end all calls, a used-up quota those of its model: the prompts left fail with
    the error that stopped them and without a call.

    Ordering, backpressure, cancellation, failure: as stream. An image that has arrived is saved
    whatever is cancelled.
    """
    if save_dir is not None and store is not None:
        raise ValueError("give save_dir or store, not both")
    if not isinstance(save_dir, str | os.PathLike | None):
        raise TypeError(f"save_dir must be a path, got {type(save_dir).__name__}")
    if store is not None and not isinstance(store, ObjectStore):
        check_type("store", store, Store, hint=": for a directory, give save_dir=")
    service = service_of(client, namespace, prompt_column)
    defaults = defaults_of(service, settings, budget, price)
    calls = PaidCalls(service, Budget() if budget is None else budget, price, on_event)
    if isinstance(store, ObjectStore):
        return _in_bucket(
            store, calls, defaults, prompts, max_concurrent, limiter, ordered, fail_fast, namespace,
            prompt_column,
        )  # fmt: skip
    place = store if save_dir is None else Store(save_dir)
    if place is None:
        generate: Callable[..., Awaitable[Any]] = _generate(calls, defaults)
    else:
        batch = Batch(place, namespace, input_of(service, prompts, defaults, prompt_column))
        generate = generate_once(calls, defaults, place, batch, namespace)
    generate = of_rows(generate, prompts, prompt_column)
    workers = Workers(generate, prompts, max_concurrent, limiter, fail_fast, numbered=True)
    calls.breaker.drop_waiting = workers.drop_waiting
    outcomes = open_stream(workers, ordered)
    if place is None:
        return outcomes
    return inside(nullcontext() if place is store else place, batch, workers, outcomes)


@asynccontextmanager
async def _in_bucket(
    store: ObjectStore,
    calls: PaidCalls,
    defaults: ImageRequest,
    prompts: Any,
    max_concurrent: int,
    limiter: CapacityLimiter | None,
    ordered: bool,
    fail_fast: bool,
    namespace: str,
    prompt_column: str | None,
) -> AsyncGenerator[OutcomeStream[Any, SavedImage]]:
    """Run a batch whose images are saved in a bucket, and divided among its processes."""
    service = calls.service

    def request(row: Any) -> ImageRequest:
        prompt = row if prompt_column is None else prompt_of_row(row, prompt_column)
        return request_of(service, prompt, defaults)

    asked = input_of(service, prompts, defaults, prompt_column)
    batch = ObjectBatch(store, namespace, asked, request, service.is_fake)
    async with nullcontext() if store.is_open else store:
        account = await store.account(calls.budget, max_concurrent)
        calls = replace(calls, account=account)
        generate = generate_once(calls, defaults, store, batch, namespace)
        generate = of_rows(generate, prompts, prompt_column)
        source = iterable_of(prompts) if ordered else Divided(batch, iterable_of(prompts))
        workers: Workers[Any, SavedImage] = Workers(
            generate, source, max_concurrent, limiter, fail_fast, numbered=True
        )
        calls.breaker.drop_waiting = workers.drop_waiting
        async with inside(nullcontext(), batch, workers, open_stream(workers, ordered)) as outcomes:
            yield outcomes


def service_of(
    client: ImageClient | Generate, namespace: str, prompt_column: str | None
) -> Service:
    """Return the service of a batch, and check what does not depend on it.

    Raises:
        TypeError: If client is none, or an argument of another type.
    """
    check_type("namespace", namespace, str)
    if prompt_column is not None:
        check_type("prompt_column", prompt_column, str)
    if isinstance(client, type):
        name = client.__name__
        raise TypeError(f"client must be an open client, got the class {name}: pass {name}()")
    return Service(client)


def defaults_of(
    service: Service, settings: ImageSettings, budget: Budget | None, price: float | None
) -> ImageRequest:
    """Return the request that all prompts of a batch have in common, whatever its text.

    Raises:
        ValueError: If the model cannot do what the settings ask for, the service would refuse it,
            or a budget in US dollars is given and no price is known.
        TypeError: If there is no such setting, or one is of the wrong type.
        Rejected: If the model is known to have been shut down.
    """
    if budget is not None:
        check_type("budget", budget, Budget, hint=": give Budget(usd=...)")
    check_price(price)
    named: ImageSettings = {"model": service.default_model, **settings}
    defaults = service.resolve(ImageRequest.of("any text", named))
    service.check(defaults)
    if price is None and budget is not None and budget.usd is not None:
        if service.price(defaults) is None:
            raise ValueError(
                f"no price of {defaults.model} is known: give price=, US dollars an image"
            )
    return defaults


def request_of(service: Service, prompt: str | Prompt, defaults: ImageRequest) -> ImageRequest:
    """Return the request for a prompt of a batch.

    Raises:
        ValueError: If the prompt is blank, or its model cannot do what it asks for.
        TypeError: If it is not a prompt.
        Rejected: If its model is known to have been shut down.
    """
    request = defaults.with_prompt(prompt)
    if isinstance(prompt, str):
        return request
    if prompt.model is not None:  # it may be another service's
        request = replace(request, service="")
    return service.resolve(request, prompt)


def position_in(prompts: object) -> Callable[[int], int]:
    """Return what tells the place of a prompt in the input that prompts are a part of."""
    positions = getattr(prompts, "input_positions", None)
    return _same if positions is None else positions.__getitem__


def _same(index: int) -> int:
    return index


def input_of(
    service: Service,
    prompts: Iterable[Any] | AsyncIterable[Any],
    defaults: ImageRequest,
    prompt_column: str | None = None,
) -> BatchInput:
    """Return what is known of prompts, or of rows with a column of them, before they are read."""
    source, position = getattr(prompts, "source", None), position_in(prompts)
    size = None
    with suppress(Exception):  # a length in name only
        size = len(prompts) if isinstance(prompts, Sized) else None
    # Others may not like to be read twice, such as what shows how far it was read.
    can_be_read_again = isinstance(prompts, Sequence) or isinstance(source, str)

    def requests() -> Iterator[tuple[int, ImageRequest]]:
        with suppress(Exception):  # the batch meets it itself, when it comes there
            for index, row in enumerate(prompts):  # type: ignore[arg-type]  # no asynchronous one
                with suppress(Exception):
                    index = position(index)
                    prompt = row if prompt_column is None else prompt_of_row(row, prompt_column)
                    yield index, request_of(service, prompt, defaults)

    return BatchInput(
        source if isinstance(source, str) else "",
        size,
        requests if can_be_read_again and size is not None else None,
        service.canonical,
    )


def _generate(
    calls: PaidCalls, defaults: ImageRequest
) -> Callable[[tuple[int, str | Prompt]], Awaitable[Image]]:
    """Return what makes the image of each prompt of a batch."""

    async def generate(numbered: tuple[int, str | Prompt]) -> Image:
        index, prompt = numbered
        with log_context(index=index):
            return await calls.make_unsaved(request_of(calls.service, prompt, defaults))

    return generate


def generate_once(
    maker: ImageMaker, defaults: ImageRequest, place: Any, batch: Any, namespace: str
) -> Callable[[tuple[int, str | Prompt]], Awaitable[SavedImage]]:
    """Return the same, saved, and from an earlier run where it has been made."""
    digest_of = digests_of_texts(namespace, maker.service.canonical(defaults))
    fakes: dict[str, bool] = {}  # by model

    async def is_fake(request: ImageRequest) -> bool:
        if request.model not in fakes:
            fakes[request.model] = await place.run_in_thread(maker.service.is_fake, request)
        return fakes[request.model]

    async def generate(numbered: tuple[int, str | Prompt]) -> SavedImage:
        index, prompt = numbered
        plan = batch.recall(digest_of(prompt), index) if isinstance(prompt, str) else None
        if plan is not None and plan.saved is not None and not plan.fake:
            return _resumed(index, plan.key, plan.saved)  # most of a resumed run, so first
        request = request_of(maker.service, prompt, defaults)
        with log_context(index=index), maker.breaker.observe_store():
            if plan is None:
                plan = await batch.plan(index, request)
            if plan.fake and not await is_fake(request):
                plan = plan._replace(saved=None, error=None)  # a placeholder: it was never made
            if plan.saved is not None:
                return _resumed(index, plan.key, plan.saved)
            if plan.error is not None:
                log(_log, DEBUG, "not asked again", key=plan.key, error=plan.error)
                raise plan.error
            return await maker.save_image(place, plan, request)

    return generate


def of_rows(
    generate: Callable[[tuple[int, Any]], Awaitable[T]], prompts: object, prompt_column: str | None
) -> Callable[[tuple[int, Any]], Awaitable[T]]:
    """Return what makes the image of each row of a table, or of each prompt of a part."""
    position = position_in(prompts)
    if prompt_column is None and position is _same:
        return generate

    async def generate_row(numbered: tuple[int, Any]) -> T:
        index, row = numbered
        prompt = row if prompt_column is None else prompt_of_row(row, prompt_column)
        return await generate((position(index), prompt))

    return generate_row


def _resumed(index: int, key: str, saved: SavedImage) -> SavedImage:
    if _log.isEnabledFor(DEBUG):  # tens of thousands in a second come by here
        path = str(saved.path)
        log(_log, DEBUG, "resumed from %s", path, index=index, key=key, path=path)
    return saved


@asynccontextmanager
async def inside(
    place: AbstractAsyncContextManager[object],
    batch: Batch | ObjectBatch,
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
