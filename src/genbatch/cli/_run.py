"""One batch from its first call to its result: shown, counted, and ended early if necessary.

1. The first signal (Ctrl-C, SIGTERM, a terminal that closes) starts no further call, drops calls
   waiting for the throttle, and waits for those in flight, whose images are paid for; the second
   cancels them.
   Jobs keep running at the service; waiting for them ends, and a later run collects them.
2. A deadline, an exhausted budget and a full disk end a run in the first of these ways, a refused
   key in the second. An exhausted quota ends the calls of its model.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import anyio

from genbatch import (
    Budget,
    Failure,
    GeminiClient,
    ImageRequest,
    ObjectStore,
    Outcome,
    OutcomeStream,
    Prompt,
    SavedImage,
    Stopped,
    Store,
    StoreError,
    Success,
    Throttle,
    Unauthorized,
    batch_api,
    generate_images,
)
from genbatch._bucket import BucketPath
from genbatch._money import Overrun
from genbatch._run import position_in
from genbatch._store import export
from genbatch._values import asked_size
from genbatch.batch_api import Jobs
from genbatch.inputs import InputError, PromptFiles, StandardInput
from genbatch.openai import OpenAIClient
from genbatch.testing import FakeGemini

from ._console import count, plain
from ._display import Display
from ._look import ProvenModels, looking
from ._options import DEMO, Options, kinds_to_retry
from ._result import ProgressFile, Result, by_run, is_not_made
from ._services import Clients, Services
from ._steer import Steering, what_is_left
from ._watch import watched

_REDRAW = 0.1  # seconds

R = TypeVar("R")
Prompts: TypeAlias = PromptFiles | StandardInput | Sequence[str | Prompt]
Images: TypeAlias = OutcomeStream[Any, SavedImage]
Seen: TypeAlias = Callable[[Outcome[Any, SavedImage]], Outcome[Any, SavedImage]]
Work: TypeAlias = Callable[["ShownBatch"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """A batch that is shown as it runs.

    Attributes:
        client: Makes the images.
        options: The options of the run.
        display: Shows it.
        result: Counts it.
        looks: Whether the first call of each model goes first.
        closed_last: What is entered in it is left after the client, whose connections are closed.
        store: Where the images are saved, once it is open.
    """

    client: GeminiClient | Services
    options: Options
    display: Display
    result: Result
    looks: bool
    closed_last: AsyncExitStack
    store: Store | None = None


# Around a batch: the event loop and the client


class NoKey(ValueError):
    """There is no API key."""


def run(function: Callable[[], Awaitable[R]], backend: str) -> R:
    """Run an asynchronous function on an event loop, and return its result."""
    return anyio.run(
        function,
        backend="trio" if backend == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if backend == "uvloop" else {},
    )


def client_of(base_url: str | None, otherwise: str = "", **settings: Any) -> GeminiClient:
    """Return a client with the key of the environment.

    Args:
        base_url: As for GeminiClient.
        otherwise: What else the error suggests if there is no key.
        settings: As for GeminiClient.

    Raises:
        NoKey: If there is none.
        ValueError: If a setting is out of range.
    """
    try:
        return GeminiClient(base_url=base_url, trust_env=True, **settings)
    except Unauthorized as error:  # before any call: there is no key to refuse
        raise NoKey(f"no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY){otherwise}") from error


def client_for(
    options: Options, clients: Clients, models: Collection[str], key: str | None = None
) -> AbstractAsyncContextManager[Any]:
    """Return what opens the clients of a batch against the services; as client_of.

    Args:
        options: The options of the run.
        clients: Those of its services.
        models: Those that its prompts name.
        key: In place of those of the environment.
    """

    settings: Any = {"timeout": options.timeout, "throttle": _throttles(options), "api_key": key}

    called = clients.called(models)

    def make(name: str) -> GeminiClient | OpenAIClient:
        base_url = options.base_url if name in called else None
        if name != "openai":
            return client_of(base_url, ", or try --demo without one", **settings)
        try:
            return OpenAIClient(base_url=base_url, trust_env=True, **settings)
        except Unauthorized as error:
            raise NoKey("no API key: set OPENAI_API_KEY") from error

    if clients.are_only_gemini(models):
        return make("gemini")
    return clients.entered(models, make, settings["throttle"])


def run_batch(
    work: Work,
    options: Options,
    client: AbstractAsyncContextManager[Any] | None,
    latency: float,
    *,
    looks: bool = False,
) -> Result:
    """Run a batch, and return its result.

    Args:
        work: What the batch makes.
        options: The options of the run.
        client: Opens the client of the service; None starts a fake of it for this run.
        latency: Duration of a call to that fake, in seconds.
        looks: Whether the first call of each model goes first.
    """
    result = Result()
    if client is None:
        options = replace(options, demo=True, price=0.0)

    async def batch() -> None:
        async with (
            AsyncExitStack() as last,
            client or _demo_client(options, latency, result) as entered,
        ):
            bounded = _bounded(options, entered, display)
            display.most = bounded.max_concurrent
            await work(ShownBatch(entered, bounded, display, result, looks, last))

    with Display(options) as display:
        with watched(options, display, result) if options.view else nullcontext():
            run(batch, options.backend)
    result.lost = display.lost_rows
    if display.is_interrupted:
        result.interrupted = result.interrupted or signal.SIGINT
    if result.progress is not None:
        result.progress.write(result.why_ended)
    return result


def _bounded(options: Options, client: GeminiClient | Services, display: Display) -> Options:
    """Return options with no more calls at once than there may be connections."""
    ends = 2 if options.demo else 1  # the fake has the other ends
    most = max(1, client.max_connections / ends)
    if options.max_concurrent <= most:
        return options
    if not options.quiet:
        calls = count(int(most), "call")
        display.note(f"At most {calls} in flight: the limit of open files allows no more.")
    return replace(options, max_concurrent=int(most))


@asynccontextmanager
async def _demo_client(
    options: Options, latency: float, result: Result
) -> AsyncGenerator[GeminiClient]:
    throttle = _throttles(options)
    async with (
        FakeGemini(latency=latency) as fake,
        GeminiClient("fake", vertexai=False, base_url=fake.url, throttle=throttle) as client,
    ):
        yield client
        result.server = counts_of(fake)


def _throttles(options: Options) -> Callable[[str], Throttle]:
    return lambda model: Throttle(pace=options.pace, patience=options.patience)


def counts_of(fake: FakeGemini) -> str:
    """Return what a fake service has counted, on a line."""
    stats = fake.stats
    calls, images = count(stats.calls, "call"), count(stats.images, "image")
    return f"server: {calls}, {images}, peak {stats.peak}"


# What a batch makes: an image of each prompt, or another take


async def make_images(
    prompts: Prompts, batch: ShownBatch, *, models: Mapping[str, str] | None = None
) -> None:
    """Make an image of every prompt.

    Args:
        prompts: Of the run.
        batch: The run.
        models: What short names of models stand for; the folder keeps that.
    """
    options, result = batch.options, batch.result
    if isinstance(options.output, BucketPath):
        await _make_in_bucket(prompts, batch)
        return
    store = Store(
        options.output,
        fresh=options.fresh,
        name=options.name,
        redo_missing=options.redo_missing,
        retry_failed=kinds_to_retry(options.retry_failed),
    )
    batch = replace(batch, store=await batch.closed_last.enter_async_context(store))
    if models:
        await store.run_in_thread(store.archive.pin, models)
    await count_earlier_runs(store, batch)
    generate: Callable[..., AbstractAsyncContextManager[Images]] = generate_images
    if options.via != "live":
        generate = partial(
            batch_api.generate_images,  # client_for has refused any other client
            live=options.via != "batch",
            watch=batch.display.show_jobs,
        )
    client, proven = await in_order(store, batch)
    result.progress = ProgressFile(options.output)
    outcomes = generate(
        client,
        prompts,
        store=store,
        max_concurrent=options.max_concurrent,
        budget=result.budget,
        on_event=result.progress.on_event,
        **options.of_images,
    )
    if isinstance(prompts, StandardInput) and prompts.is_terminal:
        batch.display.make_room()
    position = position_in(prompts)

    def at_its_index(outcome: Any) -> Any:
        index = position(outcome.index)
        return outcome if index == outcome.index else replace(outcome, index=index)

    await watch(outcomes, batch, proven, at_its_index)
    if options.via != "live":
        result.in_jobs = await _in_jobs(store)
    result.end(result.read if isinstance(prompts, StandardInput) else len(prompts))


async def _make_in_bucket(prompts: Prompts, batch: ShownBatch) -> None:
    """Make an image of every prompt that no other process makes, into a bucket."""
    options, result = batch.options, batch.result
    retried = kinds_to_retry(options.retry_failed)
    store = ObjectStore(str(options.output), retry_failed=retried)
    await batch.closed_last.enter_async_context(store)
    budget = result.budget = Budget(options.budget, max_images=options.max_images)
    is_bounded = options.budget is not None or options.max_images is not None
    if is_bounded and not options.quiet:
        usd, images = await store.spent()
        earlier = f"${usd:.2f} for {count(images, 'image')}, by all processes"
        batch.display.note(f"Spent in this bucket before: {earlier}.")
    outcomes = generate_images(
        batch.client,
        prompts,
        store=store,
        max_concurrent=options.max_concurrent,
        budget=budget,
        **options.of_images,
    )
    await watch(outcomes, batch, None)
    result.end(result.read if isinstance(prompts, StandardInput) else len(prompts))


def check_folder(folder: Path, namespace: str) -> None:
    """Refuse a folder without a run, which a Store would create, or with only a demo's images."""
    row = next(export(folder), None)
    if row and not namespace and row["namespace"] == DEMO:
        raise ValueError(f"the images in {plain(folder)} were made by a demo: add --demo")


async def in_order(store: Store, batch: ShownBatch) -> tuple[Any, ProvenModels | None]:
    """Return the client of a batch, which knows whether to look first, and the proven models."""
    if batch.options.demo:
        proven = None
    else:
        proven = ProvenModels(store, batch.client, batch.options)
        await proven.read()
    if not batch.looks:
        return batch.client, proven
    return looking(batch.client, proven, batch.options), proven


async def count_earlier_runs(store: Store, batch: ShownBatch) -> None:
    """Give the budget of a batch its limits, and the cost of earlier runs."""
    options, result = batch.options, batch.result
    budget = result.budget = Budget(options.budget, max_images=options.max_images)
    if options.budget is None and options.max_images is None:
        return
    spent = await store.spent()
    budget.spent, budget.images = spent.usd, spent.images
    if options.via != "live":  # batch_api counts the requests of open jobs itself
        prompts, usd = await _in_jobs(store)
        spent = spent._replace(
            maybe_images=spent.maybe_images - prompts, maybe_usd=spent.maybe_usd - usd
        )
    budget.maybe_spent, budget.maybe_images = spent.maybe_usd, spent.maybe_images
    result.earlier = spent
    for model, *overrun in await store.run_in_thread(store.archive.overruns):
        budget.expect(model, Overrun(*overrun))
    runs = await store.run_in_thread(store.archive.costs_by_run)
    if runs and not options.quiet:
        earlier = f"${spent.usd:.2f} for {count(spent.images, 'image')}"
        batch.display.note(f"Spent in this folder before: {earlier} ({by_run(runs)}).")


async def _in_jobs(store: Store) -> tuple[int, float]:
    """Return the number of prompts in running jobs, and US dollars for them."""
    return await store.run_in_thread(Jobs(store.archive).open_attempts)


# Watching a batch to its end


async def watch(
    images: AbstractAsyncContextManager[Images],
    batch: ShownBatch,
    proven: ProvenModels | None,
    seen: Seen = lambda outcome: outcome,
) -> None:
    """Read a batch to its end, show it, and end it early if necessary.

    Args:
        images: The outcomes, not entered yet.
        batch: Gets the counts.
        proven: Gets the models that have made an image.
        seen: Gets each outcome first, and returns the one to count.
    """
    result, options = batch.result, batch.options
    size = asked_size(ImageRequest("any text", **options.settings))
    async with images as outcomes, anyio.create_task_group() as tasks:
        tasks.start_soon(_redraw, outcomes, batch)
        tasks.start_soon(Steering(outcomes, batch).follow)
        if result.progress is not None:
            tasks.start_soon(result.progress.follow, outcomes)
        tasks.start_soon(_watch_signals, outcomes, batch, tasks.cancel_scope)
        if options.deadline is not None:
            tasks.start_soon(_watch_deadline, options.deadline, outcomes, batch)
        try:
            async for outcome in outcomes:
                outcome = seen(outcome)
                result.add(outcome, size)
                if isinstance(outcome, Success) and not outcome.value.resumed:
                    await _note_success(outcome.value, batch, proven)
                _drain_if_useless(outcome, outcomes)
                await batch.display.outcome(outcome, result)
                has_one_key = not getattr(batch.client, "is_several", False)
                if isinstance(result.stopped, Unauthorized) and not result.made and has_one_key:
                    break  # the calls in flight are refused as well
        except InputError as error:  # a bad line on standard input, or a file that has changed
            result.stopped = result.stopped or error
        progress = outcomes.progress
        if result.progress is not None:
            result.progress.last = progress
        result.read = progress.started if progress.total is None else progress.total
        tasks.cancel_scope.cancel()


async def _note_success(image: SavedImage, batch: ShownBatch, proven: ProvenModels | None) -> None:
    if batch.options.look is not None:
        batch.result.paths.append(image.path)
    if proven is not None and image.model is not None:
        with suppress(StoreError):  # a save has reported the disk already
            await proven.note(image.model)


def _drain_if_useless(outcome: Outcome[str | Prompt, SavedImage], outcomes: Images) -> None:
    """Drain a batch whose outcome says that no further call can succeed."""
    if isinstance(outcome, Failure) and is_not_made(outcome.error):
        if getattr(outcome.error, "scope", "") != "model":  # another one may go on
            outcomes.drain()


async def _redraw(outcomes: Images, batch: ShownBatch) -> None:
    try:
        while True:
            batch.display.show(outcomes.progress, batch.result, batch.client.throttles)
            await anyio.sleep(_REDRAW)
    # Calls in flight are paid for: whatever it is, the run goes on without a bar.
    except Exception as error:  # noqa: BLE001
        batch.display.give_up(error)
    finally:
        batch.display.end()


async def _watch_deadline(seconds: float, outcomes: Images, batch: ShownBatch) -> None:
    await anyio.sleep(seconds)
    if not batch.result.is_ending:
        batch.result.stopped = Stopped(f"the deadline of {seconds:g} s has passed")
        outcomes.drain()
        batch.display.note(f"The deadline has passed: {what_is_left(batch.options)}.")


async def _watch_signals(outcomes: Images, batch: ShownBatch, scope: anyio.CancelScope) -> None:
    # Some event loops on Windows cannot: there, KeyboardInterrupt ends the run at once.
    with suppress(NotImplementedError), anyio.open_signal_receiver(*_signals()) as signals:
        async for number in signals:
            if batch.result.interrupted:
                batch.display.hurry()
                scope.cancel()
                return
            batch.result.interrupted = number
            outcomes.drain()
            left = what_is_left(batch.options)
            batch.display.note(f"Stopping: {left}. Ctrl-C again cancels them.")


def _signals() -> list[signal.Signals]:
    """Return the signals that end a run."""
    ending = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup ignores it
        ending.append(hangup)
    return ending
