"""The journal's jobs: files of requests in the service's batch queue.

1. A request is an attempt of its job, in the journal from before it can be sent until it has its
   image or cannot have been paid.
2. A job is live until all its results are in the journal: until then any of its attempts may still
   get an image, so none of them is sent again.
3. An image and the end of its attempt are one transaction.

Everything here blocks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from genbatch._store import (
    HIDDEN,
    JOURNAL,
    Archive,
    BegunCall,
    Plan,
    check_types,
    disk_error,
    key_of,
    make_private,
    note_failure,
    open_in_jobs,
    reading,
)
from genbatch._values import GenbatchError

_SPOOLS = "jobs"  # the directory of unsent requests, in the hidden one

_OF_LIVE = (int, str, str, str, str, str, float)
_OF_JOB = (str, str, str, str, int, int, float, float)
_OF_PENDING = (int, int, str, int, str, str, float, str, int)
_LIVE = ("id", "label", "model", "file", "name", "state", "began")
_JOBS = """
SELECT label, job.name, model, state, requests, count(attempt.id), job.began, ended
FROM job LEFT JOIN attempt ON attempt.job = job.id GROUP BY job.id ORDER BY job.id
"""
_PENDING = """
SELECT attempt.id, item, digest, ordinal, attempt.name, attempt.prompt, price,
    coalesce(attempt.prompt, item.prompt),
    (SELECT coalesce(max(take), 0) + 1 FROM image WHERE image.item = attempt.item)
FROM attempt JOIN item ON item.id = attempt.item WHERE job = ?
"""
_OPEN = """
SELECT attempt.id, coalesce(price, 0.0) FROM attempt JOIN job ON job.id = attempt.job
WHERE ended IS NULL
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the journal of a directory.

    Attributes:
        label: Our name for it, unique: the service's display name.
        name: The service's name for it, such as ``"batches/x1"``; None while unknown.
        model: Full id.
        state: Its latest known state: NEW, PENDING, RUNNING, SUCCEEDED, PARTIALLY_SUCCEEDED,
            FAILED, CANCELLED, EXPIRED, or GONE.
        requests: How many requests it has.
        open: How many of them have no image, but may still get one or may have been paid.
        began: When it was submitted.
        ended: When all its results were collected, None before.
    """

    label: str
    name: str | None
    model: str
    state: str
    requests: int
    open: int
    began: datetime
    ended: datetime | None


class JobRequest(NamedTuple):
    """A request of a job that has no image yet.

    Attributes:
        call: As for a live call.
        price: Estimated US dollars, None if unknown.
        content: What is asked for, as JSON; only where its job was sent.
    """

    call: BegunCall
    price: float | None
    content: str = ""


class Jobs:
    """The jobs of an open archive.

    Attributes:
        spools: The directory of request files, created by live.
    """

    def __init__(self, archive: Archive) -> None:
        self._journal = archive.journal
        self.spools = archive.directory / HIDDEN / _SPOOLS

    def live(self) -> list[dict[str, Any]]:
        """Return the columns of the jobs that may still return images; forget those never sent.

        Request files that a killed process has left are removed.
        """
        self._sweep()
        with self._journal.writing() as journal:
            unsent = "SELECT id FROM job WHERE file IS NULL AND name IS NULL AND ended IS NULL"
            journal.execute(f"DELETE FROM attempt WHERE job IN ({unsent})")  # noqa: S608
            journal.execute(f"DELETE FROM job WHERE id IN ({unsent})")  # noqa: S608
            columns = ", ".join(_LIVE)
            rows = journal.execute(f"SELECT {columns} FROM job WHERE ended IS NULL ORDER BY id")  # noqa: S608
            return [dict(zip(_LIVE, _sound(row, _OF_LIVE), strict=True)) for row in rows]

    def _sweep(self) -> None:
        try:
            make_private(self.spools)
            for path in self.spools.iterdir():
                path.unlink()
        except OSError as exc:
            raise disk_error(f"cannot write to {self.spools}", self.spools, exc) from exc

    def of(self, item: int) -> int | None:
        """Return the number of the job that may still return an item's image, None without one."""
        with self._journal.writing(durable=False) as journal:
            row = journal.job_of(item)
        return None if row is None else int(row[0])

    def open_attempts(self) -> tuple[int, float]:
        """Return how many requests of live jobs are open, and US dollars for them."""
        with self._journal.writing(durable=False) as journal:
            return open_in_jobs(journal)

    def open_prices(self) -> list[tuple[int, float]]:
        """Return the number of each attempt that is open in a live job, and US dollars for it."""
        with self._journal.writing(durable=False) as journal:
            return journal.execute(_OPEN).fetchall()

    def add(self, label: str, model: str, requests: Iterable[JobRequest]) -> int:
        """Record a job that is about to be submitted; return its number."""
        began = time.time()
        with self._journal.writing() as journal:
            job = journal.insert(
                "job", label=label, model=model, state="NEW", requests=0, began=began
            )
            number = 0
            for number, (call, price, _) in enumerate(requests, 1):  # noqa: B007 - used below
                call.attempt = journal.insert(
                    "attempt",
                    item=call.plan.item,
                    name=call.name,
                    prompt=call.plan.asked,
                    price=price,
                    began=began,
                    job=job,
                )
            journal.execute("UPDATE job SET requests = ? WHERE id = ?", (number, job))
        return job

    def note(self, job: int, **columns: object) -> None:
        """Set columns of a job."""
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._journal.writing() as journal:
            journal.execute(f"UPDATE job SET {names} WHERE id = ?", (*columns.values(), job))  # noqa: S608

    def drop(self, job: int) -> None:
        """Forget a job that the service does not have: its requests may be sent again."""
        with self._journal.writing() as journal:
            journal.execute("DELETE FROM attempt WHERE job = ?", (job,))
            journal.execute("DELETE FROM job WHERE id = ?", (job,))

    def pending(self, job: int) -> dict[str, JobRequest]:
        """Return the requests of a job that have no image yet, by their keys."""
        with self._journal.writing(durable=False) as journal:
            rows = [_sound(row, _OF_PENDING) for row in journal.execute(_PENDING, (job,))]
        found: dict[str, JobRequest] = {}
        for attempt, item, digest, ordinal, name, asked, price, content, take in rows:
            key = key_of(digest, ordinal)
            plan = Plan(key, name, item=item, asked=asked)
            found[key] = JobRequest(BegunCall(plan, take, name, attempt), price, content)
        return found

    def finish(
        self, job: int, state: str, failures: Iterable[tuple[JobRequest, GenbatchError]]
    ) -> None:
        """Record that all results of a job are collected, and why requests have no image.

        Requests that may have been paid still count as such.
        """
        with self._journal.writing() as journal:
            for (call, *_), error in failures:
                if not error.maybe_paid:
                    journal.execute("DELETE FROM attempt WHERE id = ?", (call.attempt,))
                note_failure(journal, call, error)
            ended = (state, time.time(), job)
            journal.execute("UPDATE job SET state = ?, ended = ? WHERE id = ?", ended)


class Spool:
    """A file of requests, each written as it arrives, so that none is kept in memory.

    Args:
        directory: Where the file is.
        label: The label of its job.

    Attributes:
        requests: Those in it, in order.
        size: Bytes of it.
        tokens: Estimated input tokens of its requests.
        oldest_reference: When the oldest image was uploaded that they refer to, in seconds since
            the epoch.
    """

    def __init__(self, directory: Path, label: str) -> None:
        self.path = directory / f"{label}.jsonl"
        self.requests: list[JobRequest] = []
        self.size = 0
        self.tokens = 0
        self.oldest_reference = inf

    def write(self, line: bytes, request: JobRequest) -> None:
        """Add a request: it is in requests only if its line is in the file."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with open(os.open(self.path, flags, 0o600), "ab") as file:
                file.truncate(self.size)  # a full disk may have taken a part of one
                file.write(line)
        except OSError as exc:
            raise disk_error(f"cannot write {self.path}", self.path.parent, exc) from exc
        self.size += len(line)
        self.requests.append(request)

    def remove(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink()


def jobs(directory: str | os.PathLike[str]) -> list[Job]:
    """Return the jobs of a directory, oldest first; this reads its journal, which blocks.

    Raises:
        StoreError: If the journal in directory cannot be read; without one there are no jobs.
    """
    directory = Path(directory)
    if not os.path.lexists(directory / HIDDEN / JOURNAL):
        return []
    with reading(directory) as journal:
        if journal.first("SELECT 1 FROM sqlite_master WHERE name = 'job'") is None:
            return []  # of an earlier genbatch
        rows = [_sound(row, _OF_JOB) for row in journal.execute(_JOBS)]
        return [Job(*row[:6], *map(_time, row[6:])) for row in rows]


def _sound(row: tuple[Any, ...], types: tuple[Any, ...]) -> tuple[Any, ...]:
    check_types(row, types)
    return row


def _time(seconds: Any) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
