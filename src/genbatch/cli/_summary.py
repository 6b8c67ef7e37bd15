"""The last lines of a run: what it made on stdout, what failed and what is left to do on stderr."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from genbatch import BudgetExhausted
from genbatch._store import FINAL
from genbatch.gemini import JOB_SHARE, price

from ._console import QuietConsole, clock, count, plain
from ._result import Options, Result

_MANY = 10  # failures: more than stay in view
_MISSING = "ImageMissing"
_IN_JOBS = "GenbatchError"  # of live calls for what a job may still bring, and of nothing else
_SETTINGS = ("FileNotFoundError", "OSError", "PermissionError", "TypeError", "ValueError")
_LONGER = {
    "RateLimited": ", and waits longer with --patience",
    "TimedOut": ", and waits longer with --timeout",
}


def report(result: Result, options: Options, server: str | None = None) -> int:
    """Print what came of a batch and return the exit code.

    Args:
        result: What came of it.
        options: What was asked of it.
        server: What a demo's server counted; its images cost nothing.
    """
    out, notes = QuietConsole(stderr=options.as_json), QuietConsole(stderr=True)
    if not any((result.made, result.resumed, result.failed, result.not_made, result.exit_code)):
        if not options.quiet:
            out.say("Nothing to do: no prompts.")  # came from standard input
        return 0
    if not options.quiet:
        _print_figures(out, result, options, server)
    for line in _failures(result, options):
        notes.say(*line)
    if result.lost is not None:
        notes.error(f"rows are missing from standard output: {plain(result.lost)}")
    if (reason := _reason(result, options.save_dir)) is not None:
        notes.error(reason)
    return result.exit_code


def _print_figures(out: QuietConsole, result: Result, options: Options, server: str | None) -> None:
    images = count(result.made + result.resumed, "image")
    line = f"{images} in {plain(options.save_dir)}, {result.failed} failed"
    if result.not_made:
        line += f", {result.not_made} not made"
    if result.resumed:
        line += f", {result.resumed} already there"
    out.say((line, "bold"))
    figures = [_duration(result.seconds), f"{result.size_mb:.1f} MB"]
    if server and result.made:
        expected = price(options.model, options.image_size)
        each = (expected or 0) * (1 if options.via == "live" else JOB_SHARE)
        figures.append(f"${result.made * each:.2f} on the real service")
    elif result.cost:
        figures.append(f"${result.cost:.2f}")
    out.say(", ".join(figures))
    calls, dollars = result.maybe_paid
    if calls and not server:
        out.say(f"perhaps ${dollars:.2f} more, for {count(calls, 'call')} without an image")
    if server:
        out.say(server)


def _failures(result: Result, options: Options) -> Iterator[list[str | tuple[str, str]]]:
    """Yield a line for each kind of failure, with what to do about it, most of them first."""
    for kind, number in result.failures.most_common():
        advice = _advice(kind, is_run=not result.rest)
        yield [(f"{number:,} {kind}", "red"), f": {advice}"]
    if result.failed > _MANY:
        folder = plain(options.save_dir)
        yield [f"genbatch status {folder} counts them, {folder}/results.jsonl has a row for each"]


def _advice(kind: str, *, is_run: bool) -> str:
    """Return what to do about a kind of failure.

    Args:
        kind: Name of the error.
        is_run: Whether it is run that would ask again, not redo.
    """
    if not is_run:
        return "another --prompt may do" if kind in FINAL else "may pass: ask again"
    if kind in FINAL:
        return f"change the prompts, or --retry-failed={kind} asks again"
    if kind == _MISSING:
        return "the files are gone: --redo-missing makes, and pays, them again"
    if kind == _IN_JOBS:
        return "--via batch collects them, or genbatch jobs ends those"
    if kind in _SETTINGS:
        return "correct what is said above, then run the same command again"
    return f"the same command tries again{_LONGER.get(kind, '')}"


def _reason(result: Result, folder: Path) -> str | None:
    """Return why a batch did not make everything, None if it did."""
    resume = f"the rest: {result.rest}" if result.rest else _resume(result)
    if result.interrupted:
        why = f"interrupted by {signal.Signals(result.interrupted).name}"
    elif result.stopped:
        why = f"stopped: {plain(result.stopped).rstrip('.')}"
    elif result.failed:
        why = f"{count(result.failed, 'prompt')} failed, see above"
    else:
        return None
    parts = [why]
    if result.is_ending:
        parts.append(f"finished images are kept, {resume}")
    elif result.rest:
        parts.append(resume)
    elif again := _asked_again(result):
        parts.append(f"the same command asks again for {again:,}")
    in_jobs, _ = result.in_jobs
    if in_jobs:
        jobs = f"genbatch jobs {plain(folder)}"
        parts.append(f"{count(in_jobs, 'prompt')} in jobs that go on at the service ({jobs})")
    calls, _ = result.maybe_paid
    if calls:
        parts.append(f"{count(calls, 'call')} may have been paid without an image")
    return "; ".join(parts)


def _resume(result: Result) -> str:
    """Return what makes the rest."""
    if not isinstance(result.stopped, BudgetExhausted):
        return "the same command resumes"
    budget = result.budget
    calls = budget.images + budget.maybe_images
    is_full = budget.max_images is not None and calls >= budget.max_images
    return f"the same command with a larger {'--max-images' if is_full else '--budget'} resumes"


def _asked_again(result: Result) -> int:
    """Return how many of the prompts that failed a rerun asks for again."""
    for_good = (*FINAL, _MISSING)
    return sum(number for kind, number in result.failures.items() if kind not in for_good)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
