"""The progress of the last run of a folder, in ``.genbatch/progress.json``, for ``status --json``.

It is for people and monitors: no run reads it, and a run whose disk refuses it goes on. A run that
was killed has left what it last wrote, a few seconds before, with no reason for its end.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from genbatch import OutcomeStream, Progress, StoreError
from genbatch._store import HIDDEN, read_file, replace_file
from genbatch.events import Event, RateLimitHit, RetryScheduled

_INTERVAL = 5.0  # seconds between writes
_NAME = "progress.json"
_UNKNOWN = dict.fromkeys(("last_progress", "stop_reason", "eta", "rejected", "retries"))


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
            replace_file(self.folder / HIDDEN / _NAME, iter([json.dumps(row)]))


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the fields of the last run of a folder, each None where it is not known."""
    found = None
    with suppress(OSError, ValueError):
        found = json.loads(read_file(folder / HIDDEN / _NAME) or b"")
    return {name: found.get(name) if isinstance(found, dict) else None for name in _UNKNOWN}
