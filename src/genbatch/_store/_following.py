"""Following: what has changed in a directory since it was last looked at.

All items are looked at each time, but only what could have changed of them, a few columns; whole
rows are read of those that did change.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from ._choices import Choice, choices_in, has_choices
from ._control import steered_in
from ._files import holder
from ._journal import HIDDEN, JOURNAL, LOCK, Spent
from ._redos import Redo, redos_in
from ._reports import LAST_PLACE, ROW, reading, row_of

_MARKS = f"""
SELECT item.id, batch.session, now.batch, now.position, pick, kind, message,
    (SELECT count(*) FROM image WHERE image.item = item.id), {{chosen}}
FROM item {LAST_PLACE} LEFT JOIN batch ON batch.id = now.batch
"""  # noqa: S608
_WHEN_CHOSEN = "(SELECT total(chosen) FROM choice WHERE choice.item = item.id)"
_NUMBER = "iif(now.batch IS NULL, NULL, item.number)"
_ROWS = f"""{ROW.format(number=_NUMBER)}
FROM item {LAST_PLACE} LEFT JOIN image ON image.item = item.id
WHERE item.id IN (SELECT value FROM json_each(?)) ORDER BY item.id, image.take
"""  # noqa: S608
_LATELY = "SELECT count(*) FROM image WHERE made > datetime('now', '-60 seconds')"

Marks: TypeAlias = dict[int, tuple[Any, ...]]
Order: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Changed:
    """An item that is new or has changed.

    Attributes:
        order: Sorts items as export does, superseded ones last.
        rows: Of all its takes, as export yields them.
    """

    order: Order
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed in a directory.

    Attributes:
        items: Those that have changed.
        choices: All that has been chosen, by file.
        spent: What all runs have paid.
        lately: Images made in the last minute.
        steered: What holds in the last run, as far as it has noted that.
        redos: Further takes that pages were asked for.
    """

    items: list[Changed]
    choices: dict[str, Choice]
    spent: Spent
    lately: int
    steered: dict[str, Any] | None
    redos: list[Redo]


@dataclass(slots=True)
class Follower:
    """Reads what has changed in a directory; it blocks, and writes nothing.

    Args:
        directory: Where runs are made; it need not have a journal yet.
    """

    directory: Path
    _marks: Marks = field(default_factory=dict)
    _stamp: object = None

    def is_running(self) -> bool:
        """Return whether a run goes on in the directory."""
        with suppress(OSError):
            return holder(self.directory / HIDDEN / LOCK) is not None
        return False

    def read(self, *, always: bool = False) -> Changes | None:
        """Return what has changed since the last call, None if nothing was written since.

        Args:
            always: Whether to look even then: time passes too.

        Raises:
            StoreError: If there is no journal, or it cannot be read.
        """
        stamp = self._stamped()
        if stamp == self._stamp and not always:
            return None
        with reading(self.directory) as journal:
            chosen = _WHEN_CHOSEN if has_choices(journal) else "0.0"
            marks: Marks = {row[0]: row for row in journal.execute(_MARKS.format(chosen=chosen))}
            changed = sorted(id for id, row in marks.items() if self._marks.get(id) != row)
            rows = map(row_of, journal.execute(_ROWS, (json.dumps(changed),)))
            grouped = [list(group) for _, group in groupby(rows, itemgetter("key"))]
            items = [
                Changed(_order_of(marks[id]), takes)
                for id, takes in zip(changed, grouped, strict=True)
            ]
            (lately,) = journal.first(_LATELY)
            steered = steered_in(journal)
            changes = Changes(
                items,
                choices_in(journal),
                Spent.read(journal),
                lately,
                steered and steered[1],
                redos_in(journal),
            )
        self._marks, self._stamp = marks, stamp
        return changes

    def _stamped(self) -> list[tuple[int, int, int]]:
        """Return what differs when the journal has been written to."""
        journal = self.directory / HIDDEN / JOURNAL
        stamps = []
        for path in (journal, journal.with_name(f"{JOURNAL}-wal")):
            with suppress(OSError):
                about = path.stat()
                stamps.append((about.st_ino, about.st_mtime_ns, about.st_size))
        return stamps


def _order_of(mark: tuple[Any, ...]) -> Order:
    item, session, batch, position, *_ = mark
    return (1, 0, item) if batch is None else (-session, batch, position)
