"""The last lines of a run: what it made on stdout, what is left to do on stderr."""

from __future__ import annotations

import signal

from genbatch.gemini._models import price

from ._display import QuietConsole, clock, plain
from ._run import Options, Result


def report(result: Result, options: Options, server: str | None = None) -> int:
    """Print what came of a batch and return the exit code.

    Args:
        result: What came of it.
        options: What was asked of it.
        server: What a demo's server counted; its images cost nothing.
    """
    out = QuietConsole()
    images = _count(result.made + result.resumed, "image")
    line = f"{images} in {plain(options.save_dir)}, {result.failed} failed"
    if result.not_made:
        line += f", {result.not_made} not made"
    if result.resumed:
        line += f", {result.resumed} already there"
    out.say((line, "bold"))
    figures = [_duration(result.seconds), f"{result.size_mb:.1f} MB"]
    if server and result.made:
        expected = price(options.model, options.image_size)
        figures.append(f"${result.made * (expected or 0):.2f} on the real service")
    elif result.cost:
        figures.append(f"${result.cost:.2f}")
    out.say(", ".join(figures))
    calls, dollars = result.maybe_paid
    if calls and not server:
        out.say(f"perhaps ${dollars:.2f} more, for {_count(calls, 'call')} without an image")
    if server:
        out.say(server)
    if (reason := _reason(result)) is not None:
        QuietConsole(stderr=True).error(reason)
    return result.exit_code


def _reason(result: Result) -> str | None:
    """Return why a batch did not make everything, None if it did."""
    resume = f"finished images are kept, {result.resume}"
    if result.interrupted:
        why = f"interrupted by {signal.Signals(result.interrupted).name}"
    elif result.stopped:
        why = f"stopped: {plain(result.stopped).rstrip('.')}"
    elif result.failed:
        why, resume = f"{_count(result.failed, 'prompt')} failed, see above", result.resume
    else:
        return None
    calls, _ = result.maybe_paid
    lost = f"; {_count(calls, 'call')} may have been paid without an image" if calls else ""
    return f"{why}; {resume}{lost}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
