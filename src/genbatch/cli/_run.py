"""Running one batch: outcomes are shown and counted, and what ends a run early is noticed.

1. The first Ctrl-C or SIGTERM starts no further call, drops those that wait for their turn, and
   waits for those in flight, whose images are paid for; the second cancels them.
2. A deadline, a used-up budget and a full disk end a run in the first of these ways, a refused key
   in the second. A used-up quota ends the calls of its model.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from genbatch import (
    Budget,
    BudgetExhausted,
    Failure,
    GeminiClient,
    Outcome,
    OutcomeStream,
    Prompt,
    QuotaExhausted,
    SavedImage,
    Stopped,
    Store,
    StoreError,
    Success,
    Unauthorized,
    generate_images,
)
from genbatch._inputs import PromptFile
from genbatch._store._journal import Spent
from genbatch._store._names import DEFAULT_TEMPLATE

from ._display import Display

_REDRAW = 0.1  # seconds

Prompts: TypeAlias = PromptFile | Sequence[str | Prompt]
Images: TypeAlias = OutcomeStream[str | Prompt, SavedImage]

_NOTHING = Spent(0.0, 0.0, 0, 0)

# What ends calls before they are made: the prompt has not failed, a later run makes it.
_NOT_MADE = (BudgetExhausted, QuotaExhausted, Stopped, StoreError, Unauthorized)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked of a batch."""

    save_dir: Path
    max_concurrent: int
    model: str = "flash"
    aspect_ratio: str | None = None
    image_size: str | None = None
    namespace: str = ""
    budget: float | None = None
    max_images: int | None = None
    price: float | None = None
    deadline: float | None = None
    fresh: bool = False
    name: str = DEFAULT_TEMPLATE
    redo_missing: bool = False
    retry_failed: bool | Collection[str] = False


@dataclass(slots=True)
class Result:
    """What came of a batch.

    Attributes:
        budget: What the calls have cost, those of earlier runs included where it bounds this one.
        earlier: What those have cost then.
        made: Images made in this run.
        resumed: Images that an earlier run had made.
        failed: Prompts that failed.
        not_made: Prompts whose call was not made, or not to its end, because the run stopped.
        size_mb: Megabytes of all images.
        began: When it did, by the monotonic clock.
        seconds: How long it took.
        stopped: The error that ended the run early, if any.
        interrupted: Number of the signal that ended it early, 0 if none.
        resume: How to make what was not made.
    """

    budget: Budget = field(default_factory=Budget)
    earlier: Spent = _NOTHING
    made: int = 0
    resumed: int = 0
    failed: int = 0
    not_made: int = 0
    size_mb: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    stopped: Exception | None = None
    interrupted: int = 0
    resume: str = "the same command resumes"

    @property
    def cost(self) -> float:
        """US dollars for the images of this run, as far as prices are known."""
        return self.budget.spent - self.earlier.usd

    @property
    def maybe_paid(self) -> tuple[int, float]:
        """Calls of this run that may have been billed without an image, and US dollars for them."""
        budget, earlier = self.budget, self.earlier
        calls = budget.maybe_images - earlier.maybe_images
        return calls, budget.maybe_spent - earlier.maybe_usd

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        if self.interrupted:
            return 128 + self.interrupted
        if self.stopped:
            return 3
        return 1 if self.failed else 0

    @property
    def is_ending(self) -> bool:
        """Whether something has ended the run early."""
        return bool(self.interrupted or self.stopped)

    def end(self, prompts: int) -> None:
        """Note that the batch has ended, which had so many prompts."""
        self.seconds = time.monotonic() - self.began
        self.not_made = prompts - self.made - self.resumed - self.failed

    def add(self, outcome: Outcome[str | Prompt, SavedImage]) -> None:
        """Count an outcome."""
        match outcome:
            case Success(value=image):
                self.size_mb += image.size_mb
                self.resumed += image.resumed
                self.made += not image.resumed
            case Failure(error=error) if isinstance(error, _NOT_MADE):
                if not self.is_ending:
                    self.stopped = error
            case Failure():
                self.failed += 1


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
        batch = generate_images(
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
        await watch(batch, result, client, options, display)
    result.end(len(prompts))
    return result


async def begin(store: Store, options: Options) -> Result:
    """Return a result whose budget knows what earlier runs into the directory have paid."""
    result = Result(Budget(options.budget, max_images=options.max_images))
    if options.budget is not None or options.max_images is not None:
        budget, spent = result.budget, await store.spent()
        budget.spent, budget.images = spent.usd, spent.images
        budget.maybe_spent, budget.maybe_images = spent.maybe_usd, spent.maybe_images
        result.earlier = spent
    return result


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
        tasks.start_soon(_heed_signals, result, outcomes, display, tasks.cancel_scope)
        if options.deadline is not None:
            tasks.start_soon(_heed_deadline, options.deadline, result, outcomes, display)
        async for outcome in outcomes:
            outcome = seen(outcome)
            result.add(outcome)
            _heed(outcome, outcomes, display)
            if isinstance(result.stopped, Unauthorized):
                break
        tasks.cancel_scope.cancel()


def _heed(outcome: Outcome[str | Prompt, SavedImage], outcomes: Images, display: Display) -> None:
    if not isinstance(outcome, Failure):
        return
    if not isinstance(outcome.error, _NOT_MADE):
        display.failure(outcome)
    elif not isinstance(outcome.error, QuotaExhausted):  # another model may have some left
        outcomes.drain()


async def _redraw(outcomes: Images, client: GeminiClient, result: Result, display: Display) -> None:
    with display:
        while True:
            display.show(outcomes.progress, result.cost, client.throttles.values())
            await anyio.sleep(_REDRAW)


async def _heed_deadline(
    seconds: float, result: Result, outcomes: Images, display: Display
) -> None:
    await anyio.sleep(seconds)
    if not result.is_ending:
        result.stopped = Stopped(f"the deadline of {seconds:g} s has passed")
        outcomes.drain()
        display.note("The deadline has passed: waiting for the calls in flight.")


async def _heed_signals(
    result: Result, outcomes: Images, display: Display, scope: anyio.CancelScope
) -> None:
    # On Windows not every event loop can: there, KeyboardInterrupt ends the run at once.
    with (
        suppress(NotImplementedError),
        anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
    ):
        async for number in signals:
            if result.interrupted:
                scope.cancel()
                return
            result.interrupted = number
            outcomes.drain()
            display.note("Stopping: waiting for the calls in flight. Ctrl-C again cancels them.")
