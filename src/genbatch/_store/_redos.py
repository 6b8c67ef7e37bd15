"""Redos: further takes that a page was asked for, from the user's consent until they are made.

1. A redo is written once its price was seen and agreed to. It is made at most once: by the process
   that turns it from waiting to making, which no other can do then.
2. It has an owner, the page on which it was asked for, and only that one makes it. What a page has
   left waiting waits until the user hands it to another.
3. They are written without the lock of the directory, like choices.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ._choices import open_journal
from ._journal import Transaction, check_types
from ._reports import reading

_TABLE = """
CREATE TABLE IF NOT EXISTS redo (
    id INTEGER PRIMARY KEY AUTOINCREMENT, told REAL NOT NULL, owner TEXT NOT NULL,
    asked TEXT NOT NULL, state TEXT NOT NULL, said TEXT NOT NULL)
"""
_OPEN = """
SELECT id, owner, asked, state, said FROM redo
WHERE state IN ('waiting', 'making', 'failed') ORDER BY id
"""
_MOVE = "UPDATE redo SET state = ?, said = ?, owner = ? WHERE id = ? AND state = ?"


class Redo(NamedTuple):
    """A further take that a page was asked for.

    Attributes:
        id: Its number.
        owner: The page that makes it.
        asked: What is asked for, as JSON.
        state: ``"waiting"``, ``"making"`` or ``"failed"``; or, and then it is not open any more,
            ``"done"`` or ``"dropped"``.
        said: Why it failed.
    """

    id: int
    owner: str
    asked: dict[str, Any]
    state: str
    said: str


def queue_redo(directory: Path, owner: str, asked: dict[str, Any]) -> int:
    """Note that the user has agreed to a further take, and return its number.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be written.
    """
    with closing(open_journal(directory)) as opened, opened.writing() as journal:
        journal.execute(_TABLE)
        values = {"told": time.time(), "owner": owner, "asked": json.dumps(asked), "said": ""}
        return journal.insert("redo", state="waiting", **values)


def move_redo(directory: Path, redo: Redo, state: str, *, owner: str = "", said: str = "") -> bool:
    """Turn a redo from the state that it was seen in to another; return whether it still was.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be written.
    """
    with closing(open_journal(directory)) as opened, opened.writing() as journal:
        values = (state, said, owner or redo.owner, redo.id, redo.state)
        return bool(journal.execute(_MOVE, values).rowcount)


def open_redos(directory: Path) -> list[Redo]:
    """Return the redos of a directory that wait, are made, or failed and were not dismissed.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    with reading(directory) as journal:
        return redos_in(journal)


def redos_in(journal: Transaction) -> list[Redo]:
    """Return those of a journal; see open_redos."""
    if not journal.has_table("redo"):
        return []
    rows = journal.execute(_OPEN).fetchall()
    for row in rows:
        check_types(row, (int, str, str, str, str))
    return [Redo(id, owner, json.loads(asked), *rest) for id, owner, asked, *rest in rows]
