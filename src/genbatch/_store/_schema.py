"""Schema: the tables of a journal.

An *item* is a request, found again by the digest of its content and its ordinal among equal ones
of its input. It keeps the file name planned for it, its *images*, one a take, of which one is
picked, and why it failed where it did. An *attempt* is a call that was begun and of which no good
or harmless end is known: possibly paid. A *batch* is one input; a *place* says where in it an item
stands. A batch read to its end supersedes those of its namespace from earlier sessions. A *job* is
a file of requests in the service's own queue, each of which is an attempt; it has ended once all
that it brought is here.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from genbatch._values import StoreError

VERSION = 2

SCHEMA = """
CREATE TABLE session (id INTEGER PRIMARY KEY, began REAL NOT NULL);
CREATE TABLE batch (
    id INTEGER PRIMARY KEY, session INTEGER NOT NULL, namespace TEXT NOT NULL);
CREATE TABLE item (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL, ordinal INTEGER NOT NULL,
    name TEXT NOT NULL, folded TEXT NOT NULL UNIQUE, namespace TEXT NOT NULL,
    prompt TEXT NOT NULL, metadata TEXT NOT NULL, pick INTEGER,
    kind TEXT, message TEXT, detail TEXT,
    UNIQUE (digest, ordinal));
CREATE TABLE place (
    item INTEGER NOT NULL, batch INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (item, batch)) WITHOUT ROWID;
CREATE UNIQUE INDEX place_order ON place (batch, position);
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY, item INTEGER NOT NULL, name TEXT NOT NULL, prompt TEXT,
    price REAL, began REAL NOT NULL);
CREATE TABLE image (
    item INTEGER NOT NULL, take INTEGER NOT NULL, file TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL, mime_type TEXT NOT NULL, model TEXT, usage TEXT,
    text TEXT NOT NULL DEFAULT '', cost REAL, elapsed REAL, response_id TEXT, extras TEXT,
    prompt TEXT, made TEXT NOT NULL DEFAULT (datetime()),
    PRIMARY KEY (item, take));
"""

# What version 2 has beside version 1; an id is never given again: jobs are known by it.
JOBS = """
ALTER TABLE attempt ADD COLUMN job INTEGER;
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL UNIQUE, model TEXT NOT NULL,
    file TEXT, name TEXT, state TEXT NOT NULL, requests INTEGER NOT NULL,
    began REAL NOT NULL, ended REAL);
CREATE INDEX attempt_item ON attempt (item);
CREATE INDEX attempt_job ON attempt (job);
"""

KNOWN = """item.id, digest, ordinal, name, metadata, kind, message, detail,
    image.take, file, sha256, bytes, mime_type, model, usage, text, cost, extras"""

Row: TypeAlias = tuple[Any, ...]


class Known(NamedTuple):
    """An item and the image picked for it, if it has one."""

    item: int
    digest: str
    ordinal: int
    name: str
    metadata: str
    kind: str | None
    message: str | None
    detail: str | None
    take: int | None
    file: str
    sha256: str
    bytes: int
    mime_type: str
    model: str | None
    usage: str | None
    text: str
    cost: float | None
    extras: str | None


def version(connection: sqlite3.Connection) -> int:
    """Return the version of the schema of a journal, 0 if it is empty."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a journal that this version of genbatch does not know.

    Raises:
        StoreError: If a newer one has written it.
    """
    if (found := version(connection)) > VERSION:
        raise StoreError(
            f"{path} was written by a newer genbatch (schema {found}, this one knows {VERSION}): "
            "update genbatch"
        )
