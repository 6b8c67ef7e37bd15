"""Reports: what a directory contains, read while another process may be writing to it.

Everything here blocks, and reads in order without keeping what it has read. The rows of one report
are those of one moment.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from errno import ENOENT
from itertools import chain, product, starmap
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any, NamedTuple

from genbatch._logs import log
from genbatch._values import EXTENSIONS, ImageRequest, StoreError, Usage

from . import _files as files
from ._files import Holder, holder
from ._journal import (
    AS_TODAY,
    DAMAGED,
    FAKES,
    HIDDEN,
    JOURNAL,
    LOCK,
    RESULTS,
    ROW_ERRORS,
    RunCost,
    Spent,
    Transaction,
    check_files,
    check_types,
    check_version,
    journal_error,
    storable,
    strangers,
)
from ._keys import key_of
from ._match import content_of
from ._plan import FINAL, Plan, Policy, changed, further, has_file, request_to_json

_log = getLogger("genbatch.store")

ROW = """
SELECT {number}, row_id, digest, item.ordinal, item.namespace,
    coalesce(image.prompt, item.prompt), item.metadata, item.kind, item.message, item.pick,
    (SELECT max(take) FROM image AS every WHERE every.item = item.id),
    image.take, file, sha256, bytes, mime_type, model, usage, text, cost, elapsed, response_id,
    extras, made, width, height
"""
_OF_IMAGE = ("sha256", "bytes", "mime_type", "width", "height")
_COLUMNS = {
    **{"index": int, "id": str, "digest": str, "ordinal": int, "namespace": str, "prompt": str},
    **{"metadata": str, "kind": str, "message": str, "pick": int, "takes": int, "take": int},
    **{"file": str, "sha256": str, "bytes": int, "mime_type": str, "model": str, "usage": str},
    **{"text": str, "cost": float, "elapsed": float, "response_id": str, "extras": str},
    **{"made": str, "width": int, "height": int},
}
_TYPES = tuple(_COLUMNS.values())
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
# Each begins with what content_of and the digest of an item need.
_MADE = "SELECT namespace, prompt, digest, content FROM item WHERE pick IS NOT NULL"
_FILES_MADE = """
SELECT namespace, item.prompt, digest, content, file
FROM item JOIN image ON image.item = item.id AND take = pick
"""
_FAKES_MADE = """
SELECT namespace, prompt, digest, content
FROM fake JOIN item ON item.id = fake.item AND item.pick = fake.take
"""
_FORMER = """
SELECT namespace, row_id, former.content, iif(item.pick IS NULL, NULL, item.content)
FROM former JOIN item ON item.id = former.item
WHERE former.pick NOT NULL AND (EXISTS (SELECT 1 FROM place JOIN batch ON batch.id = place.batch
    WHERE place.item = former.item AND source = ?)
    OR NOT EXISTS (SELECT 1 FROM place WHERE place.item = former.item))
"""
_REFUSED = """
SELECT namespace, prompt, digest, content, kind FROM item WHERE pick IS NULL AND kind NOT NULL
"""
_IN_JOBS = """
SELECT namespace, prompt, digest, content FROM item WHERE pick IS NULL AND EXISTS (SELECT 1
    FROM attempt WHERE item = item.id AND job IN (SELECT id FROM job WHERE ended IS NULL))
"""
# Of the last input of each files, as far as it was not read: what earlier ones had is read again.
_UNREAD = """
SELECT total(max(0, size - read - (SELECT count(*) FROM item WHERE
    EXISTS (SELECT 1 FROM place JOIN batch ON batch.id = place.batch WHERE item = item.id
        AND namespace = last.namespace AND source = last.source)
    AND NOT EXISTS (SELECT 1 FROM place WHERE item = item.id AND batch = last.id))))
FROM batch AS last WHERE size > read AND id = (
    SELECT max(id) FROM batch WHERE namespace = last.namespace AND source = last.source)
"""
_DAMAGED = "SELECT total(price) FROM attempt WHERE name GLOB ?"
_STRAY = "belongs to no prompt"
_COUNTS = """
SELECT iif(pick IS NULL, coalesce(kind, ''), 'done'), count(*) FROM item
WHERE EXISTS (SELECT 1 FROM place WHERE place.item = item.id) GROUP BY 1
"""
# Of what is asked for, what a row has outside of that; the model tells the service.
_OF_ROW = ("id", "variant", "model", "service")
_OPEN_IN_JOBS = """
SELECT count(*), total(price) FROM attempt WHERE job IN (SELECT id FROM job WHERE ended IS NULL)
"""


@dataclass(frozen=True, slots=True)
class Status:
    """How far a directory has come; what its inputs no longer ask for is not counted.

    Attributes:
        done: Prompts that have an image.
        failed: Prompts that were refused for good, by kind of error.
        transient: Prompts that failed otherwise, and are tried again, by kind of error.
        to_do: Prompts that neither have an image nor failed, also those not read yet where it is
            known how many they are.
        in_jobs: Requests that jobs at the service have open.
        in_jobs_usd: US dollars expected for them.
        spent: What all runs have paid; calls that run now, or are in jobs, count as possibly paid.
        runs: What each run has paid that has paid anything, in order.
        runner: Who is running in the directory now, None if nobody is.
        damaged_usd: US dollars for answers that came damaged, a part of what is spent.
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
    damaged_usd: float

    @property
    def total(self) -> int:
        """Prompts of all inputs, also those not read yet where it is known how many they are."""
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
        (unread,) = journal.first(_UNREAD)
        (damaged,) = journal.first(_DAMAGED, f"{DAMAGED}*")
    done, to_do = counts.pop("done", 0), counts.pop("", 0) + int(unread)
    failed = {kind: counts.pop(kind) for kind in FINAL if kind in counts}
    runner = None
    with suppress(OSError):
        runner = holder(path / HIDDEN / LOCK)
    return Status(done, failed, counts, to_do, *in_jobs, spent, runs, runner, float(damaged))


def open_in_jobs(journal: Transaction) -> tuple[int, float]:
    """Return how many requests live jobs have open, and US dollars for them."""
    if not journal.has_table("job"):
        return 0, 0.0  # of an earlier genbatch
    number, usd = journal.first(_OPEN_IN_JOBS)
    return int(number), float(usd)


def export(directory: str | os.PathLike[str], *, all: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a row for each prompt of each file, the latest first, as plain JSON values.

    Its index is the number that the prompt got when it was first seen.

    Args:
        directory: That a Store has written.
        all: Whether to yield every take, and after them what the latest input does not ask for any
            more; its index is None.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    in_batch = ROW.format(number="item.number") + _IN_BATCH.format(images=_EVERY if all else _ONE)
    with reading(Path(directory)) as journal:
        for (batch,) in journal.execute(_BATCHES).fetchall():
            yield from map(row_of, journal.execute(in_batch, (batch,)))
        if all:
            yield from map(row_of, journal.execute(ROW.format(number="NULL") + _SUPERSEDED))


def pinned(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Return what short names of models stood for when a run into a directory first used them.

    Raises:
        StoreError: If the journal in directory cannot be read; without one there are none.
    """
    path = Path(directory)
    if not os.path.lexists(path / HIDDEN / JOURNAL):
        return {}
    with reading(path) as journal:
        return journal.pinned()


class Standing(NamedTuple):
    """What is not to be paid for, or not again: how many of each request, by its content's digest.

    Attributes:
        done: Images that there are, or were; those of a fake service are among them.
        failed: Requests that were refused for good.
        in_jobs: Requests that live jobs have.
        fakes: Images of a fake service.
        texts: Hashes of the texts that have an image.
        former: By namespaces and ids of rows, and each content that they had an image of before
            they were edited, the content that they have an image of now, None for none.
    """

    done: Counter[str]
    failed: Counter[str]
    in_jobs: Counter[str]
    fakes: Counter[str]
    texts: set[int]
    former: dict[tuple[object, ...], str | None]

    def take_former(self, namespace: str, row_id: str | None, digest: str) -> bool:
        """Return whether a row had an image of this content before it was edited, once.

        It has it no more where another row of the input has its present image.
        """
        former = (namespace, storable(row_id), digest)
        if former not in self.former:
            return False
        now = self.former.pop(former)
        if now is not None:
            self.done[now] -= 1
        return now is None or self.done[now] >= 0

    def has(self, digest: str) -> bool:
        """Return whether a request with a digest is not to be paid for, or was a fake's."""
        return any(each[digest] > 0 for each in (self.done, self.failed, self.in_jobs))


def hash_of_text(namespace: str, text: str) -> int:
    """Return what tells a text of a namespace from others, within one process."""
    return hash((namespace, text.strip()))


def standing(
    directory: str | os.PathLike[str],
    canonical: Callable[[ImageRequest], ImageRequest] = lambda request: request,
    *,
    redo_missing: bool = False,
    retry_failed: bool | Collection[str] = False,
    source: str | None = None,
) -> Standing:
    """Return how far each request has come.

    Args:
        directory: That a Store has written, or none has.
        canonical: As for both_digests.
        redo_missing: As for Store; the files are looked for then.
        retry_failed: As for Store.
        source: As for BatchInput, where its rows may be edited ones; None where they are new then.

    Raises:
        StoreError: If the journal in directory cannot be read.
    """
    path = Path(directory)
    found = Standing(Counter(), Counter(), Counter(), Counter(), set(), {})
    if not os.path.lexists(path / HIDDEN / JOURNAL):
        return found
    policy = Policy(path, redo_missing=redo_missing, retry_failed=retry_failed)

    def content(namespace: str, prompt: str, digest: str, content: str | None) -> str:
        return content_of(namespace, prompt, digest, canonical) if content is None else content

    with reading(path) as journal:
        for namespace, prompt, *digests in journal.execute(_MADE):
            found.done[content(namespace, prompt, *digests)] += 1
            with suppress(*ROW_ERRORS):
                found.texts.add(hash_of_text(namespace, json.loads(prompt)["text"]))
        found.fakes.update(starmap(content, journal.execute(_FAKES_MADE)))
        if redo_missing:
            for *what, file in journal.execute(_FILES_MADE):
                found.done[content(*what)] -= not has_file(file, f"{path}{os.sep}")
        for *what, kind in journal.execute(_REFUSED):
            found.failed[content(*what)] += kind in FINAL and not policy.retries(kind)
        if journal.has_table("job"):
            found.in_jobs.update(starmap(content, journal.execute(_IN_JOBS)))
        if source is not None and journal.has_table("former"):
            rows = journal.execute(_FORMER, (source,))
            found.former.update({tuple(row): now for *row, now in rows})
    return found


def further_in(
    directory: str | os.PathLike[str],
    indices: Iterable[int],
    namespace: str,
    variants: int,
    changes: Mapping[str, Any],
) -> list[tuple[int, Plan, ImageRequest]]:
    """Plan further takes of prompts, without the store: index, plan and what to ask for of each.

    Variants of one prompt are not side by side, since only one take of it is made at a time.

    Raises:
        ValueError: If there is no such prompt, or not all of its request is known.
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    with reading(Path(directory)) as journal:
        kept = [(index, further(journal, index, namespace)) for index in indices]
    first = [(index, *changed(each, index, namespace, changes)) for index, each in kept]
    found = list(first)
    for number, (index, plan, request) in product(range(1, variants), first):
        if request.seed is not None:
            request = replace(request, seed=request.seed + number)
            plan = plan._replace(asked=request_to_json(request))
        found.append((index, plan, request))
    return found


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
                        what = (
                            "is not in the journal yet: the next run takes it up"
                            if waits
                            else _STRAY
                        )
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
        log(
            _log,
            WARNING,
            "%s was not written by genbatch: move it elsewhere, and the next run writes it",
            path,
        )
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
    is_there = directory.is_dir()
    why = "has no journal: nothing was run into it" if is_there else "is not there: no such folder"
    error = StoreError(f"{directory} {why}")
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
            for since, view in AS_TODAY:
                if version < since:
                    connection.execute(view)
            if not Transaction(connection).has_table("fake"):
                connection.execute(f"CREATE TEMP {FAKES}")
            connection.execute("BEGIN")
            yield Transaction(connection)
    except (sqlite3.Error, *ROW_ERRORS) as exc:
        raise journal_error("read", path, exc) from exc


def row_of(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a row of the journal as a row of results.jsonl."""
    check_types(row, _TYPES)
    found = dict(zip(_COLUMNS, row, strict=True))
    asked = json.loads(found["prompt"])
    row_id, variant = asked.get("id", found["id"]), asked.get("variant")
    kind, take, pick, usage = (found[name] for name in ("kind", "take", "pick", "usage"))
    status = "done" if pick is not None else "to do" if kind is None else "failed"
    return {
        "index": found["index"],
        "id": row_id,
        "base_id": row_id and row_id.removesuffix(f"-{variant}"),
        "variant": variant,
        "prompt": asked.pop("text"),
        "status": status,
        "file": found["file"],
        "error": {"kind": kind, "message": found["message"]} if status == "failed" else None,
        **{name: found[name] for name in _OF_IMAGE},
        "model": found["model"] or asked.pop("model", None),
        "asked": {name: value for name, value in asked.items() if name not in _OF_ROW},
        "cost": found["cost"],
        "usage": asdict(Usage(*map(int, usage.split()))) if usage else None,
        "text": found["text"] or "",
        "elapsed": found["elapsed"],
        "response_id": found["response_id"],
        "extras": json.loads(found["extras"] or "[]"),
        "take": take,
        "takes": found["takes"] or 0,
        "picked": take is not None and take == pick,
        "made": found["made"],
        "namespace": found["namespace"],
        "key": key_of(found["digest"], found["ordinal"]),
        "metadata": json.loads(found["metadata"] or "{}"),
    }
