"""Jobs: what the journal knows of files of requests in the service's own queue.

1. A request is an attempt of its job, in the journal before it can be sent, until it has its image
   or cannot have been paid.
2. A job is live until all that it brought is in the journal: a live one may still bring an image of
   each of its attempts, so none of them is sent again.
3. What a job has brought, and that its attempt has ended, is one transaction.

Everything here blocks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from genbatch._store import (
    HIDDEN,
    JOURNAL,
    Archive,
    Call,
    Plan,
    details,
    disk_error,
    key_of,
    open_in_jobs,
    reading,
    storable,
)
from genbatch._values import GenbatchError, Image, SavedImage

SPOOLS = "jobs"  # the directory, in the hidden one, of requests on their way

_COLUMNS = "id, label, model, file, name, state, requests, began, ended"
_PENDING = """
SELECT attempt.id, item, digest, ordinal, attempt.name, attempt.prompt, price,
    (SELECT coalesce(max(take), 0) + 1 FROM image WHERE image.item = attempt.item)
FROM attempt JOIN item ON item.id = attempt.item WHERE job = ?
"""


class JobRow(NamedTuple):
    """A job, as the journal has it.

    Attributes:
        id: Its number in the journal.
        label: Our name for it, unique: the service's display name.
        model: Full id of the model.
        file: The service's name of its file of requests, once that is there.
        name: The service's name of it, once that is known.
        state: As it was last seen, such as ``"PENDING"``.
        requests: How many it has.
        began: Seconds since the epoch.
        ended: When all that it brought was here, None while it is live.
    """

    id: int
    label: str
    model: str
    file: str | None
    name: str | None
    state: str
    requests: int
    began: float
    ended: float | None


class Sent(NamedTuple):
    """A request of a job that has no image yet.

    Attributes:
        call: As for one that is made live.
        price: US dollars that it is expected to cost, None where unknown.
    """

    call: Call
    price: float | None


class Jobs:
    """The jobs of an open archive.

    Attributes:
        spools: The directory for files of requests, once live has been asked.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._journal = archive.journal
        self.spools = archive.directory / HIDDEN / SPOOLS

    def live(self) -> list[JobRow]:
        """Return those that may still bring images; forget those that were never sent.

        Files of requests that a killed process has left are removed: nobody needs them.
        """
        self._sweep()
        with self._journal.writing() as journal:
            unsent = "SELECT id FROM job WHERE file IS NULL AND name IS NULL AND ended IS NULL"
            journal.execute(f"DELETE FROM attempt WHERE job IN ({unsent})")  # noqa: S608
            journal.execute(f"DELETE FROM job WHERE id IN ({unsent})")  # noqa: S608
            rows = journal.execute(f"SELECT {_COLUMNS} FROM job WHERE ended IS NULL ORDER BY id")  # noqa: S608
            return [JobRow._make(row) for row in rows]

    def _sweep(self) -> None:
        try:
            self.spools.mkdir(mode=0o700, exist_ok=True)
            for path in self.spools.iterdir():
                path.unlink()
        except OSError as exc:
            raise disk_error(f"cannot write to {self.spools}", self.spools, exc) from exc

    def of(self, item: int) -> int | None:
        """Return the number of the job that may still bring the image of an item, if one may."""
        with self._journal.writing(durable=False) as journal:
            row = journal.job_of(item)
        return None if row is None else int(row[0])

    def open_attempts(self) -> tuple[int, float]:
        """Return how many requests live jobs have open, and US dollars for them."""
        with self._journal.writing(durable=False) as journal:
            return open_in_jobs(journal)

    def add(self, label: str, model: str, requests: Iterable[Sent]) -> int:
        """Note a job that is about to be sent, and return its number."""
        began = time.time()
        with self._journal.writing() as journal:
            job = journal.insert(
                "job", label=label, model=model, state="NEW", requests=0, began=began
            )
            number = 0
            for number, (call, price) in enumerate(requests, 1):  # noqa: B007 - used below
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
        """Note what has become known of a job."""
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._journal.writing() as journal:
            journal.execute(f"UPDATE job SET {names} WHERE id = ?", (*columns.values(), job))  # noqa: S608

    def drop(self, job: int) -> None:
        """Forget a job that the service does not have: its requests may be sent again."""
        with self._journal.writing() as journal:
            journal.execute("DELETE FROM attempt WHERE job = ?", (job,))
            journal.execute("DELETE FROM job WHERE id = ?", (job,))

    def pending(self, job: int) -> dict[str, Sent]:
        """Return the requests of a job that have no image yet, by their keys."""
        with self._journal.writing(durable=False) as journal:
            rows = journal.execute(_PENDING, (job,)).fetchall()
        found: dict[str, Sent] = {}
        for attempt, item, digest, ordinal, name, asked, price, take in rows:
            key = key_of(digest, ordinal)
            plan = Plan(key, name, item=item, asked=asked)
            found[key] = Sent(Call(plan, take, name, attempt), price)
        return found

    def save(self, sent: Sent, image: Image, elapsed: float) -> SavedImage:
        """Save the image of a request, and return when it is durable; as Archive.save."""
        return self._archive.save(sent.call, image, elapsed)

    def finish(self, job: int, state: str, failures: Iterable[tuple[Sent, GenbatchError]]) -> None:
        """Note that all that a job brought is here, and why the other requests have no image.

        Those of them that may have been paid stay counted.
        """
        with self._journal.writing() as journal:
            for (call, _), error in failures:
                if not error.maybe_paid:
                    journal.execute("DELETE FROM attempt WHERE id = ?", (call.attempt,))
                row = (type(error).__name__, storable(str(error)), details(error), call.plan.item)
                journal.execute(
                    "UPDATE item SET kind = ?, message = ?, detail = ? WHERE id = ?", row
                )
            ended = (state, time.time(), job)
            journal.execute("UPDATE job SET state = ?, ended = ? WHERE id = ?", ended)


class Spool:
    """A file of requests, each on disk as it comes, so that none is kept in memory.

    Args:
        directory: Where it stands.
        label: Of the job that it will be.
        model: Full id of the model that all of it is for.
    """

    def __init__(self, directory: Path, label: str, model: str) -> None:
        self.label = label
        self.model = model
        self.path = directory / f"{label}.jsonl"
        self.requests: list[Sent] = []
        self.size = 0

    def write(self, line: bytes, sent: Sent) -> None:
        """Add a request: its line stands in the file, or it is not in requests."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.truncate(descriptor, self.size)  # a full disk may have taken a part of one
                left = memoryview(line)
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise disk_error(f"cannot write {self.path}", self.path.parent, exc) from exc
        self.size += len(line)
        self.requests.append(sent)

    def remove(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink()


def jobs_in(directory: Path) -> list[tuple[JobRow, int]]:
    """Return the jobs of a directory in their order, and how many requests each has open.

    Raises:
        StoreError: If the journal in directory cannot be read; without one there are none.
    """
    if not (directory / HIDDEN / JOURNAL).is_file():
        return []
    with reading(directory) as journal:
        if journal.first("SELECT 1 FROM sqlite_master WHERE name = 'job'") is None:
            return []  # of an earlier genbatch
        counts: Mapping[int, int] = dict(
            journal.execute(
                "SELECT job, count(*) FROM attempt WHERE job IS NOT NULL GROUP BY job"
            ).fetchall()
        )
        rows = journal.execute(f"SELECT {_COLUMNS} FROM job ORDER BY id").fetchall()  # noqa: S608
    return [(job := JobRow._make(row), counts.get(job.id, 0)) for row in rows]
