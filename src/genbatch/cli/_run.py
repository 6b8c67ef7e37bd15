"""Running one batch: outcomes are shown and counted, and what ends a run early is noticed.

1. The first Ctrl-C or SIGTERM starts no further prompt and waits for the calls in flight, whose
   images are paid for; the second cancels them.
2. A daily quota and a full disk stop a run in the first of these ways, a refused key in the second.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import anyio

from genbatch import (
    Failure,
    GeminiClient,
    Image,
    Outcome,
    OutcomeStream,
    Prompt,
    QuotaExhausted,
    SavedImage,
    StoreError,
    Success,
    Unauthorized,
    generate_images,
)
from genbatch._inputs import PromptFile

from ._display import Display

_REDRAW = 0.1  # seconds

Prompts: TypeAlias = PromptFile | Sequence[str | Prompt]
Images: TypeAlias = OutcomeStream[str | Prompt, SavedImage]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked of a batch."""

    save_dir: Path
    max_concurrent: int
    model: str = "flash"
    aspect_ratio: str | None = None
    image_size: str | None = None
    namespace: str = ""


@dataclass(slots=True)
class Result:
    """What came of a batch.

    Attributes:
        made: Images made in this run.
        resumed: Images that an earlier run had made.
        failed: Prompts that failed.
        cost: US dollars for the images made, as far as known.
        size_mb: Megabytes of all images.
        seconds: How long it took.
        stopped: The error that ended the run early, if any.
        interrupted: Number of the signal that ended it early, 0 if none.
    """

    made: int = 0
    resumed: int = 0
    failed: int = 0
    cost: float = 0.0
    size_mb: float = 0.0
    seconds: float = 0.0
    stopped: Exception | None = None
    interrupted: int = 0

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        if self.interrupted:
            return 128 + self.interrupted
        if self.stopped:
            return 3
        return 1 if self.failed else 0

    def add(self, outcome: Outcome[str | Prompt, SavedImage]) -> None:
        """Count an outcome."""
        match outcome:
            case Success(value=image):
                self.size_mb += image.size_mb
                self.resumed += image.resumed
                self.made += not image.resumed
                self.cost += 0.0 if image.resumed else image.cost or 0.0
            case Failure():
                self.failed += 1


class RunClient(GeminiClient):
    """Knows that the service refused the key or has no quota before another call can start."""

    refused = False

    async def generate_image(
        self,
        prompt: str | Prompt,
        *,
        model: str = "flash",
        aspect_ratio: str | None = None,
        image_size: str | None = None,
    ) -> Image:
        """Generate one image; see GeminiClient."""
        try:
            return await super().generate_image(
                prompt, model=model, aspect_ratio=aspect_ratio, image_size=image_size
            )
        except (Unauthorized, QuotaExhausted):
            self.refused = True
            raise


class _Source:
    """The prompts, up to where the run is stopped."""

    def __init__(self, prompts: Prompts, client: RunClient) -> None:
        self.prompts = prompts
        self.client = client
        self.stopped = False

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[str | Prompt]:
        for prompt in self.prompts:
            if self.stopped or self.client.refused:
                return
            yield prompt


async def run_batch(
    client: RunClient, prompts: Prompts, options: Options, display: Display
) -> Result:
    """Make an image of every prompt, show how it goes, and return what came of it."""
    result, source = Result(), _Source(prompts, client)
    began = time.monotonic()
    batch = generate_images(
        client,
        source,
        save_dir=options.save_dir,
        max_concurrent=options.max_concurrent,
        namespace=options.namespace,
        model=options.model,
        aspect_ratio=options.aspect_ratio,
        image_size=options.image_size,
    )
    async with batch as outcomes, anyio.create_task_group() as tasks:
        tasks.start_soon(_redraw, outcomes, display)
        tasks.start_soon(_heed_signals, result, source, display, tasks.cancel_scope)
        async for outcome in outcomes:
            _settle(outcome, result, source, display)
            if isinstance(result.stopped, Unauthorized):
                break
        tasks.cancel_scope.cancel()
    result.seconds = time.monotonic() - began
    return result


def _settle(
    outcome: Outcome[str | Prompt, SavedImage], result: Result, source: _Source, display: Display
) -> None:
    result.add(outcome)
    if not isinstance(outcome, Failure):
        return
    if not isinstance(outcome.error, Unauthorized | QuotaExhausted | StoreError):
        display.failure(outcome)
        return
    source.stopped = True
    result.stopped = result.stopped or outcome.error


async def _redraw(outcomes: Images, display: Display) -> None:
    with display:
        while True:
            display.show(outcomes.progress)
            await anyio.sleep(_REDRAW)


async def _heed_signals(
    result: Result, source: _Source, display: Display, scope: anyio.CancelScope
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
            source.stopped = True
            display.note("Stopping: waiting for the calls in flight. Ctrl-C again cancels them.")
