"""The result of a batch, its exit code, and the last lines that report it.

What the batch made goes to stdout; what failed and what is left to do goes to stderr. The progress
of the last run of a folder is in ``.genbatch/progress.json``, for ``status --json``: no run reads
it, and one whose disk refuses it goes on. One that was killed has left what it last wrote, a few
seconds before, with no reason for its end.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio

from genbatch import (
    Budget,
    BudgetExhausted,
    Failure,
    Outcome,
    OutcomeStream,
    Progress,
    Prompt,
    QuotaExhausted,
    RateLimited,
    SavedImage,
    Stopped,
    StoreError,
    Success,
    Unauthorized,
)
from genbatch._run import FIRST_REFUSED, Looked
from genbatch._store import FINAL, HIDDEN, RunCost, Spent, read_file, replace_file
from genbatch._values import is_smaller
from genbatch.events import Event, RateLimitHit, RetryScheduled
from genbatch.gemini import job_share, model_id, price
from genbatch.inputs import InputError

from ._console import QuietConsole, clock, count, plain
from ._options import Options
from ._words import as_typed

_INTERVAL = 5.0  # seconds between writes
_PROGRESS = "progress.json"
_UNKNOWN = dict.fromkeys(("last_progress", "stop_reason", "eta", "rejected", "retries"))

_NOTHING = Spent(0.0, 0.0, 0, 0)

_MOST_RUNS = 5  # shown one by one
_MANY = 10  # failures: more scroll out of view
_MISSING = "ImageMissing"
_IN_JOBS = "GenbatchError"  # a live call for a prompt that is still in a job
_SETTINGS = ("FileNotFoundError", "OSError", "PermissionError", "TypeError", "ValueError")
_LONGER = {
    "RateLimited": ", with a longer --patience if need be",
    "TimedOut": ", with a longer --timeout if need be",
}

# Errors that stop calls before they are made: the prompt has not failed, a later run makes it.
_NOT_MADE = (BudgetExhausted, QuotaExhausted, Stopped, StoreError, Unauthorized)


def is_not_made(error: Exception) -> bool:
    """Return whether an error stopped a call before it was made, and says nothing of its prompt."""
    is_over = isinstance(error, RateLimited) and error.scope == "model"  # no patience is left
    return is_over or isinstance(error, _NOT_MADE)


@dataclass(slots=True)
class ProgressFile:
    """Counts rejections and retries of a run, and writes its progress.

    Attributes:
        folder: Where its images go.
        rejected: Attempts that the service rejected for now (429).
        retries: Attempts made again after other errors.
        last: The progress that was last seen.
    """

    folder: Path
    rejected: int = 0
    retries: int = 0
    last: Progress | None = None

    def on_event(self, event: Event) -> None:
        """Count an event."""
        self.rejected += isinstance(event, RateLimitHit)
        self.retries += isinstance(event, RetryScheduled)

    async def follow(self, outcomes: OutcomeStream[Any, Any]) -> None:
        """Write the progress of a batch every few seconds, until cancelled."""
        while True:
            self.last = outcomes.progress
            await anyio.to_thread.run_sync(self.write)
            await anyio.sleep(_INTERVAL)

    def write(self, stop_reason: str | None = None) -> None:
        """Write what is known now."""
        if self.last is None:
            return
        each = ("total", "done", "succeeded", "failed", "in_flight", "waiting", "elapsed")
        row = {
            "last_progress": {"at": time.time()}
            | {name: getattr(self.last, name) for name in each},
            "stop_reason": stop_reason,
            "eta": self.last.eta,
            "rejected": self.rejected,
            "retries": self.retries,
        }
        with suppress(StoreError):
            replace_file(self.folder / HIDDEN / _PROGRESS, iter([json.dumps(row)]))


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the fields of the last run of a folder, each None where it is not known."""
    found = None
    with suppress(OSError, ValueError):
        found = json.loads(read_file(folder / HIDDEN / _PROGRESS) or b"")
    return {name: found.get(name) if isinstance(found, dict) else None for name in _UNKNOWN}


@dataclass(slots=True)
class Result:
    """The result of a batch.

    Attributes:
        budget: The cost of its calls, and of earlier runs if a budget limits them all.
        earlier: The cost of those earlier runs.
        paths: Their files, where the run is a look.
        has_looked: Whether it has left out what was not to be looked at.
        made: Images made in this run.
        resumed: Images that an earlier run had made.
        failures: Prompts that failed, by kind of error.
        dropped: Prompts handed over without an image because the run was stopping.
        not_made: Those and the ones never handed over, once the run has ended.
        read: Prompts read, if the total is unknown.
        size_mb: Megabytes of all images.
        smaller: Images of this run that are smaller than was asked for.
        began: Start of the run, by the monotonic clock.
        seconds: Duration of the run.
        stopped: The error that ended the run early, if any.
        interrupted: Number of the signal that ended it early, 0 if none.
        rest: The command that makes the rest, if it is not the same command again.
        lost: Why rows could not be written, None if they were.
        in_jobs: Prompts in jobs that are still running, and US dollars for them.
        server: What a demo's server counted, empty for the real service.
        progress: Keeps its progress in the folder, None in a bucket.
    """

    budget: Budget = field(default_factory=Budget)
    earlier: Spent = _NOTHING
    paths: list[Path] = field(default_factory=list)
    has_looked: bool = False
    made: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    not_made: int = 0
    read: int = 0
    size_mb: float = 0.0
    smaller: int = 0
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    stopped: Exception | None = None
    interrupted: int = 0
    rest: str = ""
    lost: Exception | None = None
    in_jobs: tuple[int, float] = (0, 0.0)
    server: str = ""
    progress: ProgressFile | None = None

    @property
    def why_ended(self) -> str:
        """Why the batch ended, ``"done"`` if it was read to its end."""
        if self.interrupted:
            return f"interrupted by {signal.Signals(self.interrupted).name}"
        return as_typed(plain(self.stopped)) if self.stopped else "done"

    @property
    def failed(self) -> int:
        """Prompts that failed."""
        return self.failures.total()

    @property
    def cost(self) -> float:
        """US dollars for the images of this run whose prices are known."""
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
        """Note that the batch has ended, and how many prompts it had."""
        self.seconds = time.monotonic() - self.began
        self.not_made = prompts - self.made - self.resumed - self.failed

    def add(self, outcome: Outcome[str | Prompt, SavedImage], size: str | None = None) -> None:
        """Count an outcome; size is what prompts without their own ask for."""
        match outcome:
            case Success(value=image):
                asked = Prompt.of(outcome.prompt).image_size or size
                is_small = is_smaller(asked, image.width, image.height)
                self.smaller += is_small and not image.resumed
                self.size_mb += image.size_mb
                self.resumed += image.resumed
                self.made += not image.resumed
            case Failure(error=error) if is_not_made(error):
                self.dropped += 1
                if isinstance(error, Looked):
                    self.has_looked = True
                elif not (self.is_ending or self.has_looked):
                    self.stopped = error
            case Failure(error=error):
                self.failures[type(error).__name__] += 1


def report(result: Result, options: Options) -> int:
    """Print the result of a batch and return the exit code."""
    out, notes = QuietConsole(stderr=options.as_json), QuietConsole(stderr=True)
    if not any((result.made, result.resumed, result.failed, result.not_made, result.exit_code)):
        if not options.quiet:
            out.say("Nothing to do: no prompts.")  # on standard input
        return 0
    if not options.quiet:
        _print_figures(out, result, options)
    for line in _failures(result, options):
        notes.say(*line)
    if result.smaller and not result.server:  # what a fake draws is small
        told = f"{count(result.smaller, 'image')} smaller than asked for"
        notes.say((told, "yellow"), ": results.jsonl has width and height of each")
    if result.lost is not None:
        notes.error(f"rows are missing from standard output: {plain(result.lost)}")
    if (reason := _reason(result, options.output)) is not None:
        notes.error(reason)
    return result.exit_code


def by_run(runs: Sequence[RunCost]) -> str:
    """Return what each run has paid, the latest last, and when it began."""
    told = [f"{datetime.fromtimestamp(run.began):%Y-%m-%d %H:%M} ${run.usd:.2f}" for run in runs]
    if len(told) > _MOST_RUNS:
        return ", ".join([f"{len(told) - _MOST_RUNS + 1} earlier runs", *told[1 - _MOST_RUNS :]])
    return ", ".join(told)


def _print_figures(out: QuietConsole, result: Result, options: Options) -> None:
    images = count(result.made + result.resumed, "image")
    line = f"{images} in {plain(options.output)}, {result.failed:,} failed"
    if result.not_made:
        line += f", {result.not_made:,} not made"
    if result.resumed:
        line += f", {result.resumed:,} already there"
    out.say((line, "bold"))
    if result.resumed and not result.made:
        out.say("-n N or genbatch redo make further pictures of the same prompts")
    size = f"{result.size_mb:.1f} MB" if result.size_mb >= 0.1 else f"{result.size_mb * 1e3:.0f} KB"
    figures = [_duration(result.seconds), size]
    if result.server and result.made:
        expected = price(options.model, options.image_size)  # a demo is of Gemini
        each = (expected or 0) * (
            1 if options.via == "live" else job_share(model_id(options.model))
        )
        figures.append(f"${result.made * each:.2f} on the real service")
    elif result.cost:
        figures.append(f"${result.cost:.2f}")
    out.say(", ".join(figures))
    calls, dollars = result.maybe_paid
    if calls and not result.server:
        out.say(f"up to ${dollars:.2f} more, for {count(calls, 'call')} without an image")
    if result.server:
        out.say(result.server)


def _failures(result: Result, options: Options) -> Iterator[list[str | tuple[str, str]]]:
    """Yield a line for each kind of failure with advice, the most frequent first."""
    for kind, number in result.failures.most_common():
        advice = _advice(kind, is_run=not result.rest)
        if kind == "Rejected" and _stopped_by_refusals(result):
            advice = "the same command asks those again that were refused in the words below"
        yield [(f"{number:,} {kind}", "red"), f": {advice}"]
    if result.failed > _MANY:
        folder = plain(options.output)
        yield [f"genbatch status {folder} counts them, {folder}/results.jsonl has a row for each"]


def _advice(kind: str, *, is_run: bool) -> str:
    """Return the advice for a kind of failure, of run or of redo."""
    if kind == "DamagedImage":
        again = f"ask again with --retry-failed={kind}" if is_run else "try again"
        return f"paid for, and kept in damaged/: {again}"
    if not is_run:
        return "try another --prompt" if kind in FINAL else "may be temporary: try again"
    if kind in FINAL:
        return f"change the prompts, or retry them with --retry-failed={kind}"
    if kind == _MISSING:
        return "the files are missing: --redo-missing makes, and pays for, them again"
    if kind == _IN_JOBS:
        return "collect them with --via batch, or cancel the jobs with genbatch jobs"
    if kind in _SETTINGS:
        return "fix the errors above, then run the same command again"
    return f"run the same command again{_LONGER.get(kind, '')}"


def _stopped_by_refusals(result: Result) -> bool:
    """Return whether equal refusals have stopped a model: they are not held against the prompts."""
    stopped = result.stopped
    return isinstance(stopped, Stopped) and (stopped.scope, stopped.status) == ("model", 400)


def _reason(result: Result, folder: Path) -> str | None:
    """Return why a batch is incomplete, None if it is not."""
    resume = f"the rest: {result.rest}" if result.rest else _resume(result)
    if result.interrupted:
        why = f"interrupted by {signal.Signals(result.interrupted).name}"
    elif result.stopped:
        said = plain(result.stopped)
        named = said if isinstance(result.stopped, InputError) else as_typed(said)
        why = f"stopped: {named.rstrip('.')}"
    elif result.failed:
        why = f"{count(result.failed, 'prompt')} failed, see above"
    else:
        return None
    parts = [why]
    if result.is_ending:
        parts.append(f"finished images are kept, {resume}")
    elif result.rest:
        parts.append(resume)
    elif again := _retried(result):
        parts.append(f"the same command retries {again:,}")
    in_jobs, _ = result.in_jobs
    if in_jobs:
        jobs = f"genbatch jobs {plain(folder)}"
        parts.append(f"{count(in_jobs, 'prompt')} in jobs still running at the service ({jobs})")
    calls, _ = result.maybe_paid
    if calls:
        parts.append(f"{count(calls, 'call')} may have been billed without an image")
    return "; ".join(parts)


def _resume(result: Result) -> str:
    """Return how to make the rest."""
    if isinstance(result.stopped, Stopped) and FIRST_REFUSED in str(result.stopped):
        return "the same command resumes; --no-look goes on where only that prompt is to blame"
    if not isinstance(result.stopped, BudgetExhausted):
        return "the same command resumes"
    is_full = "max_images" in str(result.stopped)
    return f"the same command with a larger {'--max-images' if is_full else '--budget'} resumes"


def _retried(result: Result) -> int:
    """Return how many of the failed prompts a rerun retries."""
    for_good = (*FINAL, _MISSING)
    return sum(number for kind, number in result.failures.items() if kind not in for_good)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
