"""Running one batch: outcomes are shown and counted, and what ends a run early is noticed.

1. The first signal (Ctrl-C, SIGTERM, a terminal that closes) starts no further call, drops those
   that wait for their turn, and waits for those in flight, whose images are paid for; the second
   cancels them.
   Jobs go on at the service: what waits for them is dropped, and collected by a further run.
2. A deadline, a used-up budget and a full disk end a run in the first of these ways, a refused key
   in the second. A used-up quota ends the calls of its model.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, TypeAlias

import anyio

from genbatch import (
    Budget,
    Failure,
    GeminiClient,
    Outcome,
    OutcomeStream,
    Prompt,
    QuotaExhausted,
    SavedImage,
    Stopped,
    Store,
    Unauthorized,
    batch_api,
    generate_images,
)
from genbatch.batch_api import Jobs
from genbatch.inputs import InputError, PromptFiles, StandardInput

from ._display import Display
from ._result import NOT_MADE, Options, Result

_REDRAW = 0.1  # seconds

Prompts: TypeAlias = PromptFiles | StandardInput | Sequence[str | Prompt]
Images: TypeAlias = OutcomeStream[str | Prompt, SavedImage]


async def run_batch(
    prompts: Prompts, client: GeminiClient, options: Options, display: Display
) -> Result:
    """Make an image of every prompt, show how it goes, and return what came of it."""
    store = Store(
        options.save_dir,
        fresh=options.fresh,
        name=options.name,
        redo_missing=options.redo_missing,
        retry_failed=options.retry_failed,
    )
    async with store:
        result = await begin(store, options)
        generate: Callable[..., AbstractAsyncContextManager[Images]] = generate_images
        if options.via != "live":
            generate = partial(
                batch_api.generate_images, live=options.via != "batch", watch=display.tell_of_jobs
            )
        batch = generate(
            client,
            prompts,
            store=store,
            max_concurrent=options.max_concurrent,
            namespace=options.namespace,
            model=options.model,
            aspect_ratio=options.aspect_ratio,
            image_size=options.image_size,
            budget=result.budget,
            price=options.price,
        )
        if isinstance(prompts, StandardInput) and prompts.is_terminal:
            display.make_room()
        await watch(batch, result, client, options, display)
        if options.via != "live":
            result.in_jobs = await _in_jobs(store)
    result.end(result.read if isinstance(prompts, StandardInput) else len(prompts))
    return result


async def begin(store: Store, options: Options) -> Result:
    """Return a result whose budget knows what earlier runs into the directory have paid."""
    result = Result(Budget(options.budget, max_images=options.max_images))
    if options.budget is not None or options.max_images is not None:
        budget, spent = result.budget, await store.spent()
        budget.spent, budget.images = spent.usd, spent.images
        if options.via != "live":  # which counts itself what jobs have open
            open_, usd = await _in_jobs(store)
            spent = spent._replace(
                maybe_images=spent.maybe_images - open_, maybe_usd=spent.maybe_usd - usd
            )
        budget.maybe_spent, budget.maybe_images = spent.maybe_usd, spent.maybe_images
        result.earlier = spent
    return result


async def _in_jobs(store: Store) -> tuple[int, float]:
    """Return how many prompts are in jobs that go on, and US dollars for them."""
    return await store.hop(Jobs(store.archive).open_attempts)


async def watch(
    batch: AbstractAsyncContextManager[OutcomeStream[Any, SavedImage]],
    result: Result,
    client: GeminiClient,
    options: Options,
    display: Display,
    seen: Callable[[Outcome[Any, SavedImage]], Outcome[Any, SavedImage]] = lambda outcome: outcome,
) -> None:
    """Read a batch to its end, show it, and notice what ends it early.

    Args:
        batch: To be entered here.
        result: Counts its outcomes.
        client: Makes its calls.
        options: What the user asked of it.
        display: Shows how it goes.
        seen: Gets each outcome first, and returns what counts.
    """
    async with batch as outcomes, anyio.create_task_group() as tasks:
        tasks.start_soon(_redraw, outcomes, client, result, display)
        tasks.start_soon(_heed_signals, result, outcomes, options, display, tasks.cancel_scope)
        if options.deadline is not None:
            tasks.start_soon(_heed_deadline, options.deadline, result, outcomes, options, display)
        try:
            async for outcome in outcomes:
                outcome = seen(outcome)
                result.add(outcome)
                _heed(outcome, outcomes)
                await display.outcome(outcome, result)
                if isinstance(result.stopped, Unauthorized):
                    break
        except InputError as error:  # a line of standard input, or a file that has changed
            result.stopped = result.stopped or error
        progress = outcomes.progress
        result.read = progress.started if progress.total is None else progress.total
        tasks.cancel_scope.cancel()


def _heed(outcome: Outcome[str | Prompt, SavedImage], outcomes: Images) -> None:
    """End a batch that a failure ends, but for its calls in flight."""
    if isinstance(outcome, Failure) and isinstance(outcome.error, NOT_MADE):
        if not isinstance(outcome.error, QuotaExhausted):  # another model may have some left
            outcomes.drain()


async def _redraw(outcomes: Images, client: GeminiClient, result: Result, display: Display) -> None:
    try:
        while True:
            display.show(outcomes.progress, result, client.throttles)
            await anyio.sleep(_REDRAW)
    finally:
        display.end()


async def _heed_deadline(
    seconds: float, result: Result, outcomes: Images, options: Options, display: Display
) -> None:
    await anyio.sleep(seconds)
    if not result.is_ending:
        result.stopped = Stopped(f"the deadline of {seconds:g} s has passed")
        outcomes.drain()
        display.note(f"The deadline has passed: {_what_is_left(options)}.")


async def _heed_signals(
    result: Result,
    outcomes: Images,
    options: Options,
    display: Display,
    scope: anyio.CancelScope,
) -> None:
    # On Windows not every event loop can: there, KeyboardInterrupt ends the run at once.
    with suppress(NotImplementedError), anyio.open_signal_receiver(*_signals()) as signals:
        async for number in signals:
            if result.interrupted:
                display.hurry()
                scope.cancel()
                return
            result.interrupted = number
            outcomes.drain()
            display.note(f"Stopping: {_what_is_left(options)}. Ctrl-C again cancels them.")


def _what_is_left(options: Options) -> str:
    """Return what a run that ends early does with what was sent."""
    jobs = "" if options.via == "live" else "leaving the jobs at the service, "
    return f"{jobs}waiting for the calls in flight"


def _signals() -> list[signal.Signals]:
    """Return the signals that end a run."""
    ending = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as nohup has it
        ending.append(hangup)
    return ending
