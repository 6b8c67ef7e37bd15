"""Reports: what a directory contains, read while another process may be writing to it.

Everything here blocks, and reads in order without keeping what it has read. The rows of one report
are those of one moment.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from errno import ENOENT
from itertools import chain
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

from genbatch._logs import log
from genbatch._values import EXTENSIONS, StoreError, Usage

from . import _files as files
from ._journal import (
    AS_TODAY,
    HIDDEN,
    JOURNAL,
    LOCK,
    PIXELS_SINCE,
    RESULTS,
    ROW_ERRORS,
    RunCost,
    Spent,
    Transaction,
    check_files,
    check_types,
    check_version,
    journal_error,
    strangers,
)
from ._keys import key_of
from ._lock import Holder, holder
from ._plan import FINAL

_log = getLogger("genbatch.store")

ROW = """
SELECT now.position, item.digest, item.ordinal, item.namespace, coalesce(image.prompt, item.prompt),
    item.metadata, item.kind, item.message, item.pick,
    (SELECT max(take) FROM image AS every WHERE every.item = item.id),
    image.take, file, sha256, bytes, mime_type, model, usage, text, cost, elapsed, response_id,
    extras, made, width, height
"""
_TYPES = (int, str, int, str, str, str, str, str, int, int, int, str, str, int, str, str, str, str,
    float, float, str, str, str, int, int)  # fmt: skip
_ONE = "LEFT JOIN image ON image.item = item.id AND image.take = item.pick"
_EVERY = "LEFT JOIN image ON image.item = item.id"
# An item is shown where the last input that had it had it.
LAST_PLACE = """LEFT JOIN place AS now ON now.item = item.id AND NOT EXISTS (
    SELECT 1 FROM place AS later WHERE later.item = now.item AND later.batch > now.batch)"""
_IN_BATCH = """
FROM place AS now JOIN item ON item.id = now.item {images}
WHERE now.batch = ? AND NOT EXISTS (
    SELECT 1 FROM place AS later WHERE later.item = now.item AND later.batch > now.batch)
ORDER BY now.position, image.take
"""
_SUPERSEDED = """
FROM item LEFT JOIN place AS now ON now.item = item.id LEFT JOIN image ON image.item = item.id
WHERE now.item IS NULL ORDER BY item.id, image.take
"""
_BATCHES = "SELECT id FROM batch ORDER BY session DESC, id"
_MADE = "SELECT digest, count(*) FROM item WHERE pick IS NOT NULL GROUP BY digest"
_STRAY = "belongs to no prompt"
_COUNTS = """
SELECT iif(pick IS NULL, coalesce(kind, ''), 'done'), count(*) FROM item
WHERE EXISTS (SELECT 1 FROM place WHERE place.item = item.id) GROUP BY 1
"""
_OF_ROW = ("model", "service")  # of what is asked for: a row has the model, which tells the other
_OPEN_IN_JOBS = """
SELECT count(*), total(price) FROM attempt WHERE job IN (SELECT id FROM job WHERE ended IS NULL)
"""


@dataclass(frozen=True, slots=True)
class Status:
    """How far a directory has come; what the latest input no longer asks for is not counted.

    Attributes:
        done: Prompts that have an image.
        failed: Prompts that were refused for good, by kind of error.
        transient: Prompts that failed otherwise, and are tried again, by kind of error.
        to_do: Prompts that were planned, and neither have an image nor failed.
        in_jobs: Requests that jobs at the service have open.
        in_jobs_usd: US dollars expected for them.
        spent: What all runs have paid; calls that run now, or are in jobs, count as possibly paid.
        runs: What each run has paid that has paid anything, in order.
        runner: Who is running in the directory now, None if nobody is.
    """

    done: int
    failed: dict[str, int]
    transient: dict[str, int]
    to_do: int
    in_jobs: int
    in_jobs_usd: float
    spent: Spent
    runs: list[RunCost]
    runner: Holder | None

    @property
    def planned(self) -> int:
        """Prompts of the latest input, as far as it was read."""
        return self.done + sum(self.failed.values()) + sum(self.transient.values()) + self.to_do


def status(directory: str | os.PathLike[str]) -> Status:
    """Return how far a directory has come.

    Raises:
        StoreError: If there is no journal in it, or it cannot be read.
    """
    path = Path(directory)
    with reading(path) as journal:
        counts = {str(kind): number for kind, number in journal.execute(_COUNTS)}
        spent, runs = Spent.read(journal), RunCost.read(journal)
        in_jobs = open_in_jobs(journal)
    done, to_do = counts.pop("done", 0), counts.pop("", 0)
    failed = {kind: counts.pop(kind) for kind in FINAL if kind in counts}
    runner = None
    with suppress(OSError):
        runner = holder(path / HIDDEN / LOCK)
    return Status(done, failed, counts, to_do, *in_jobs, spent, runs, runner)


def open_in_jobs(journal: Transaction) -> tuple[int, float]:
    """Return how many requests live jobs have open, and US dollars for them."""
    if journal.first("SELECT 1 FROM sqlite_master WHERE name = 'job'") is None:
        return 0, 0.0  # of an earlier genbatch
    number, usd = journal.first(_OPEN_IN_JOBS)
    return int(number), float(usd)


def export(directory: str | os.PathLike[str], *, all: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a row for each prompt of the latest input, in its order, as plain JSON values.

    Args:
        directory: That a Store has written.
        all: Whether to yield every take, and after them what the latest input does not ask for any
            more; its index is None.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    in_batch = ROW + _IN_BATCH.format(images=_EVERY if all else _ONE)
    with reading(Path(directory)) as journal:
        for (batch,) in journal.execute(_BATCHES).fetchall():
            yield from map(row_of, journal.execute(in_batch, (batch,)))
        if all:
            yield from map(row_of, journal.execute(ROW + _SUPERSEDED))


def made_in(directory: str | os.PathLike[str]) -> dict[str, int]:
    """Return how many images there are of each request, by the digest of its content.

    Raises:
        StoreError: If the journal in directory cannot be read; without one there are none.
    """
    path = Path(directory)
    if not os.path.lexists(path / HIDDEN / JOURNAL):
        return {}
    with reading(path) as journal:
        return dict(journal.execute(_MADE).fetchall())


def verify(directory: str | os.PathLike[str]) -> Iterator[str]:
    """Yield what is wrong with a directory, a line each: nothing, if all is well.

    Every image that was made is looked for and its SHA-256 compared, superseded ones and takes that
    are not picked too; files without a row and what a killed process has left are named.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    path = Path(directory)
    with reading(path) as journal:
        yield from strangers(path)
        extras: set[str] = set()  # rare, so few
        rows = journal.execute("SELECT file, sha256, bytes, extras FROM image ORDER BY item, take")
        for file, sha256, size, names in rows:
            found = files.digest(path / file)
            if found is None:
                yield _without_file(path / file)
            elif found != (sha256, size):
                yield f"{path / file} has changed: {found[1]} bytes, {size} were saved"
            for extra in json.loads(names or "[]"):
                extras.add(extra)
                if files.digest(path / extra) is None:
                    yield _without_file(path / extra)
        with os.scandir(path) as entries:
            for entry in entries:
                if files.is_temporary(entry.name):
                    yield f"{path / entry.name} is left from a write that was cut off"
                elif Path(entry.name).suffix in EXTENSIONS.values() and entry.name not in extras:
                    if not journal.has_file(entry.name):
                        stem = Path(entry.name).stem
                        names = stem, stem.rpartition("-")[0]  # of a further image of an answer
                        waits = any(map(journal.is_attempted, names))
                        what = "waits for the next run to note it" if waits else _STRAY
                        yield f"{path / entry.name} {what}"


def _without_file(path: Path) -> str:
    is_there = os.path.lexists(path)
    return f"{path} {files.wrong_kind(path) or ('cannot be read' if is_there else 'is missing')}"


def write_results(directory: Path) -> None:
    """Write what export yields to results.jsonl; a file of that name that is not ours is left.

    Raises:
        StoreError: If it cannot be written.
    """
    path = directory / RESULTS
    rows = export(directory)
    if not _is_ours(path):
        log(_log, WARNING, "%s is not ours: move it elsewhere, and the next run writes it", path)
    elif first := next(rows, None):
        files.replace(path, (f"{_dump(row)}\n" for row in chain([first], rows)))


_dump = json.JSONEncoder(ensure_ascii=False).encode


def _is_ours(path: Path) -> bool:
    try:
        with open(files.open_file(path, os.O_RDONLY), "rb") as file:
            row = json.loads(file.readline(1 << 20) or "null")
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return row is None or (isinstance(row, dict) and {"key", "sha256"} <= row.keys())


def no_journal(directory: Path) -> StoreError:
    """Return the error of a directory without a journal."""
    error = StoreError(f"{directory} has no journal: nothing was run into it")
    error.__cause__ = FileNotFoundError(ENOENT, "no journal")
    return error


@contextmanager
def reading(directory: Path) -> Iterator[Transaction]:
    """Read the journal of a directory, as it is at one moment.

    Raises:
        StoreError: If there is none, or it cannot be read.
    """
    path = directory / HIDDEN / JOURNAL
    check_files(path)
    if not path.exists():
        raise no_journal(directory)
    # Where the disk is read-only, SQLite cannot make the files that readers and writers share.
    wal = path.with_name(path.name + "-wal")
    frozen = not wal.exists() and not os.access(path.parent, os.W_OK)
    uri = f"{path.absolute().as_uri()}?{'immutable=1' if frozen else 'mode=ro'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            version = check_version(connection, path)
            if not version and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise no_journal(directory)  # an earlier version died while it made it
            if version < PIXELS_SINCE:
                connection.execute(AS_TODAY)
            connection.execute("BEGIN")
            yield Transaction(connection)
    except (sqlite3.Error, *ROW_ERRORS) as exc:
        raise journal_error("read", path, exc) from exc


def row_of(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a row of the journal as a row of results.jsonl."""
    check_types(row, _TYPES)
    (index, digest, ordinal, namespace, prompt, metadata, kind, message, pick, takes, *image) = row
    (take, file, sha256, size, mime_type, model, usage, text, cost, elapsed, response, extras, made,
     width, height) = image  # fmt: skip
    asked = json.loads(prompt)
    status = "done" if take is not None else "to do" if kind is None else "failed"
    return {
        "index": index,
        "id": asked.pop("id", None),
        "prompt": asked.pop("text"),
        "status": status,
        "file": file,
        "error": None if status != "failed" else {"kind": kind, "message": message},
        "sha256": sha256,
        "bytes": size,
        "mime_type": mime_type,
        "width": width,
        "height": height,
        "model": model or asked.pop("model", None),
        "asked": {name: value for name, value in asked.items() if name not in _OF_ROW},
        "cost": cost,
        "usage": asdict(Usage(*map(int, usage.split()))) if usage else None,
        "text": text or "",
        "elapsed": elapsed,
        "response_id": response,
        "extras": json.loads(extras) if extras else [],
        "take": take,
        "takes": takes or 0,
        "picked": take is not None and take == pick,
        "made": made,
        "namespace": namespace,
        "key": key_of(digest, ordinal),
        "metadata": json.loads(metadata) if metadata else {},
    }
