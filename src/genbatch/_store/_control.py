"""Control: what a run is told while it goes on, and what it says of itself.

1. Whoever tells a run something writes a row of its session, without the lock of the directory;
   the run reads them in their order. A later run has another session, and begins as its own
   command says.
2. The run notes what holds now together with the last row that it has read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from genbatch._values import StoreError

from ._files import holder
from ._journal import CONTROL_SINCE, HIDDEN, JOURNAL, LOCK, Journal, Transaction, check_types
from ._reports import reading

COMMANDS = ("pause", "resume", "drain")

_SESSION = "(SELECT max(id) FROM session)"
_MANY = 1_000_000  # calls at once, or dollars


class Tuning(NamedTuple):
    """What a run is told; None leaves a thing as it is.

    Attributes:
        command: ``"pause"``, ``"resume"`` or ``"drain"``.
        max_concurrent: Most calls in flight.
        pace: Most starts, such as ``"10/min"``.
        budget: US dollars.
    """

    command: str | None = None
    max_concurrent: int | None = None
    pace: str | None = None
    budget: float | None = None

    @classmethod
    def of(
        cls,
        command: Any = None,
        max_concurrent: Any = None,
        pace: object = None,
        budget: Any = None,
    ) -> Tuning:
        """Return a tuning of values that may be anything; whether a pace is one is not checked.

        Raises:
            ValueError: If one is out of range.
        """
        if command not in (None, *COMMANDS):
            raise ValueError(f"{command!r:.40} is not pause, resume or drain")
        if max_concurrent is not None and (
            type(max_concurrent) is not int or not 1 <= max_concurrent < _MANY
        ):
            raise ValueError(f"{max_concurrent!r:.40} is not a number of calls, at least 1")
        if pace is not None and not isinstance(pace, str):
            raise ValueError(f"{pace!r:.40} is not a pace such as 10/min")
        is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
        if budget is not None and not (is_number and 0 <= budget < _MANY):
            raise ValueError(f"{budget!r:.40} is not a number of US dollars")
        return cls(command, max_concurrent, pace, budget)


def tell_run(directory: Path, tuning: Tuning) -> int:
    """Tell the run in a directory something, and return the number of the message.

    Raises:
        StoreError: If no run goes on there, or the journal cannot be written.
    """
    path = directory / HIDDEN / JOURNAL
    if not path.exists() or holder(directory / HIDDEN / LOCK) is None:
        raise StoreError(
            f"no run is in progress in {directory}: start one with the options you want"
        )
    with closing(Journal(path)) as opened, opened.writing() as journal:
        (session,) = journal.first(f"SELECT {_SESSION}")
        return journal.insert("control", session=session, told=time.time(), **tuning._asdict())


def tunings(directory: Path, after: int) -> list[tuple[int, Tuning]]:
    """Return what the run in a directory was told after a message, with the numbers.

    Raises:
        StoreError: If the journal cannot be read.
    """
    columns = ", ".join(Tuning._fields)
    sql = f"SELECT id, {columns} FROM control WHERE session = {_SESSION} AND id > ? ORDER BY id"  # noqa: S608
    with reading(directory) as journal:
        rows = journal.execute(sql, (after,)).fetchall()
    for row in rows:
        check_types(row, (int, str, int, str, float))
    return [(number, Tuning(*rest)) for number, *rest in rows]


def note_steered(journal: Journal, control: int, state: Mapping[str, Any]) -> None:
    """Note what holds in the run of a journal after a message.

    Raises:
        StoreError: If it cannot be written.
    """
    sql = f"INSERT OR REPLACE INTO steered SELECT {_SESSION}, ?, ?"
    with journal.writing(durable=False) as transaction:
        transaction.execute(sql, (control, json.dumps(state)))


def steered(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """Return what the last run in a directory has noted, None if nothing.

    Raises:
        StoreError: If there is no journal, or it cannot be read.
    """
    with reading(directory) as journal:
        return steered_in(journal)


def last_budget(directory: Path) -> float | None:
    """Return the budget of the last run in a directory that noted what holds; None without one.

    Raises:
        StoreError: If there is no journal, or it cannot be read.
    """
    with reading(directory) as journal:
        if journal.first("PRAGMA user_version")[0] < CONTROL_SINCE:
            return None
        row = journal.first("SELECT state FROM steered ORDER BY session DESC LIMIT 1")
        found = json.loads(row[0]).get("budget") if row else None
        return found if isinstance(found, float | int) else None


def steered_in(journal: Transaction) -> tuple[int, dict[str, Any]] | None:
    """Return what the last run has noted, and after which message; None if nothing."""
    if journal.first("PRAGMA user_version")[0] < CONTROL_SINCE:
        return None
    sql = f"SELECT control, state FROM steered WHERE session = {_SESSION}"  # noqa: S608
    row = journal.first(sql)
    return row and (row[0], json.loads(row[1]))
