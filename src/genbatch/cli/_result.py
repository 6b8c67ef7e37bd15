"""What a batch was asked to be, and what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from genbatch import (
    Budget,
    BudgetExhausted,
    Failure,
    Outcome,
    Prompt,
    QuotaExhausted,
    SavedImage,
    Stopped,
    StoreError,
    Success,
    Unauthorized,
)
from genbatch._store import DEFAULT_TEMPLATE, Spent
from genbatch.inputs import InputError

_NOTHING = Spent(0.0, 0.0, 0, 0)

# What ends calls before they are made: the prompt has not failed, a later run makes it.
NOT_MADE = (BudgetExhausted, QuotaExhausted, Stopped, StoreError, Unauthorized)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked of a batch, and of what is said of it."""

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
    quiet: bool = False
    as_json: bool = False
    via: str = "live"


@dataclass(slots=True)
class Result:
    """What came of a batch.

    Attributes:
        budget: What the calls have cost, those of earlier runs included where it bounds this one.
        earlier: What those have cost then.
        made: Images made in this run.
        resumed: Images that an earlier run had made.
        failures: Prompts that failed, by kind of error.
        dropped: Prompts that were handed over without an image because the run stopped.
        not_made: Those and the ones that were not handed over, once the run has ended.
        read: Prompts read, where nobody knows how many there are.
        size_mb: Megabytes of all images.
        began: When it did, by the monotonic clock.
        seconds: How long it took.
        stopped: The error that ended the run early, if any.
        interrupted: Number of the signal that ended it early, 0 if none.
        rest: The command that makes what was not made, where it is another than this one.
        lost: Why rows could not be written, None if they were.
        in_jobs: Prompts in jobs that go on at the service, and US dollars for them.
    """

    budget: Budget = field(default_factory=Budget)
    earlier: Spent = _NOTHING
    made: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    not_made: int = 0
    read: int = 0
    size_mb: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    stopped: Exception | None = None
    interrupted: int = 0
    rest: str = ""
    lost: OSError | None = None
    in_jobs: tuple[int, float] = (0, 0.0)

    @property
    def failed(self) -> int:
        """Prompts that failed."""
        return self.failures.total()

    @property
    def cost(self) -> float:
        """US dollars for the images of this run, as far as prices are known."""
        return self.budget.spent - self.earlier.usd

    @property
    def maybe_paid(self) -> tuple[int, float]:
        """Calls of this run that may have been billed without an image, and US dollars for them."""
        budget, earlier = self.budget, self.earlier
        in_jobs, dollars = self.in_jobs
        calls = budget.maybe_images - earlier.maybe_images - in_jobs
        return max(0, calls), max(0.0, budget.maybe_spent - earlier.maybe_usd - dollars)

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        if self.interrupted:
            return 128 + self.interrupted
        if self.stopped:
            return 2 if isinstance(self.stopped, InputError) else 3
        if self.failed:
            return 1
        return 3 if self.lost else 0

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
            case Failure(error=error) if isinstance(error, NOT_MADE):
                self.dropped += 1
                if not self.is_ending:
                    self.stopped = error
            case Failure(error=error):
                self.failures[type(error).__name__] += 1
