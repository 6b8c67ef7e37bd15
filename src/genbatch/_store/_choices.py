"""Choices: what the user thinks of the images of a directory, beside what the runs have made.

1. They are written without the lock of the directory, also while a run goes on there: each change
   is one short transaction, and nothing that a run writes is touched but the pick.
2. As text, a choice is a line, ``keep 4 0017-a-fox.png: the best one``: a verdict, stars and a file
   name, ``-`` for what is not given, and a note where there is one. Empty lines and lines that
   begin with ``#`` say nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ._journal import HIDDEN, JOURNAL, Journal, Row, Transaction, check_types, storable
from ._reports import no_journal, reading

VERDICTS = ("keep", "reject")
MOST_STARS = 5
_LONGEST_NOTE = 2000  # characters
_NONE = "-"

_TABLE = """
CREATE TABLE IF NOT EXISTS choice (
    item INTEGER NOT NULL, take INTEGER NOT NULL, verdict TEXT, stars INTEGER,
    note TEXT NOT NULL, chosen REAL NOT NULL, PRIMARY KEY (item, take))
"""
_OF_FILE = "SELECT item, take FROM image WHERE file = ?"
_CHOSEN = "SELECT file, verdict, stars, note FROM choice JOIN image USING (item, take)"


class Choice(NamedTuple):
    """What the user thinks of an image.

    Attributes:
        verdict: ``"keep"`` or ``"reject"``, None if undecided.
        stars: 1 to 5, None if not rated.
        note: One line.
    """

    verdict: str | None = None
    stars: int | None = None
    note: str = ""

    @classmethod
    def of(cls, verdict: object = None, stars: object = None, note: object = "") -> Choice:
        """Return a choice of values that may be anything.

        Raises:
            ValueError: If one is out of range.
        """
        if verdict not in (None, *VERDICTS):
            raise ValueError(f"{verdict!r:.40} is neither keep nor reject")
        if stars is not None and (type(stars) is not int or not 1 <= stars <= MOST_STARS):
            raise ValueError(f"{stars!r:.40} is not a number of stars from 1 to {MOST_STARS}")
        if not isinstance(note, str) or len(note) > _LONGEST_NOTE:
            raise ValueError(f"a note is a text of at most {_LONGEST_NOTE:,} characters")
        return cls(verdict if verdict is None else str(verdict), stars, " ".join(note.split()))


def choices(directory: Path) -> dict[str, Choice]:
    """Return what has been chosen in a directory, by the name of the file.

    Raises:
        StoreError: If there is no journal in directory, or it cannot be read.
    """
    with reading(directory) as journal:
        return choices_in(journal)


def choices_in(journal: Transaction) -> dict[str, Choice]:
    """Return what has been chosen, by the name of the file."""
    if not has_choices(journal):
        return {}
    rows = journal.execute(f"{_CHOSEN} ORDER BY item, take").fetchall()
    for row in rows:
        check_types(row, (str, str, int, str))
    return {file: Choice(*rest) for file, *rest in rows}


def has_choices(journal: Transaction) -> bool:
    """Return whether anything was ever chosen."""
    return journal.first("SELECT 1 FROM sqlite_master WHERE name = 'choice'") is not None


def choose(directory: Path, chosen: Mapping[str, Choice]) -> None:
    """Note choices by the names of files, all of them or none.

    Raises:
        ValueError: If a file is not the image of a prompt.
        StoreError: If there is no journal in directory, or it cannot be written.
    """
    unknown = ""
    with closing(open_journal(directory)) as opened, opened.writing() as journal:
        places = {file: journal.first(_OF_FILE, storable(file)) for file in chosen}
        unknown = next((file for file, place in places.items() if place is None), "")
        if not unknown:
            journal.execute(_TABLE)
            for file, place in places.items():
                _note(journal, place, chosen[file])
    if unknown:
        raise _no_image(directory, unknown)


def _note(journal: Transaction, place: tuple[int, int], choice: Choice) -> None:
    journal.execute("DELETE FROM choice WHERE item = ? AND take = ?", place)
    if choice != Choice():
        (item, take), (verdict, stars, note) = place, choice
        values = {"verdict": verdict, "stars": stars, "note": note, "chosen": time.time()}
        journal.insert("choice", item=item, take=take, **values)


def pick_file(directory: Path, file: str) -> None:
    """Pick the take that is in a file.

    Raises:
        ValueError: If the file is not the image of a prompt.
        StoreError: If there is no journal in directory, or it cannot be written.
    """
    with closing(open_journal(directory)) as opened, opened.writing() as journal:
        place = journal.first(_OF_FILE, storable(file))
        is_picked = place is not None and journal.pick(*place)
    if not is_picked:
        raise _no_image(directory, file)


def choices_of(journal: Transaction, item: int) -> list[Row]:
    """Return what has been chosen of an item: take, verdict, stars, note, and when."""
    if not has_choices(journal):
        return []
    sql = "SELECT take, verdict, stars, note, chosen FROM choice WHERE item = ?"
    return journal.execute(sql, (item,)).fetchall()


def add_choices(journal: Transaction, item: int, chosen: Iterable[Row]) -> None:
    """Note choices of an item, as choices_of returns them; of two for a take, the later counts."""
    journal.execute(_TABLE)
    sql = """INSERT INTO choice VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (item, take) DO UPDATE SET
        verdict = excluded.verdict, stars = excluded.stars, note = excluded.note,
        chosen = excluded.chosen WHERE excluded.chosen > chosen"""
    journal.executemany(sql, [(item, *each) for each in chosen])


def open_journal(directory: Path) -> Journal:
    """Return the journal of a directory that has one, open for writing beside a run.

    Raises:
        StoreError: If it has none, or it cannot be opened.
    """
    path = directory / HIDDEN / JOURNAL
    if not os.path.lexists(path):
        raise no_journal(directory)
    return Journal(path)


def _no_image(directory: Path, file: str) -> ValueError:
    return ValueError(f"{file!r:.200} is not an image of {directory}")


# As text


def choice_lines(chosen: Mapping[str, Choice]) -> Iterator[str]:
    """Yield choices as lines of text."""
    for file, (verdict, stars, note) in chosen.items():
        yield f"{verdict or _NONE} {stars or _NONE} {file}{f': {note}' if note else ''}"


def parse_choices(lines: Iterable[str], files: Collection[str]) -> dict[str, Choice]:
    """Return the choices in lines of text; of two for a file, the later one counts.

    Args:
        lines: As choice_lines yields them, however they were indented or quoted on their way.
        files: Names of the files there are.

    Raises:
        ValueError: If a line is malformed, or names no file of these; it says which.
    """
    found: dict[str, Choice] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix(">").strip()
        if not text or text.startswith("#"):
            continue
        try:
            file, choice = _parse(text, files)
        except ValueError as error:
            raise ValueError(f"line {number}, {text!r:.80}: {error}") from error
        found[file] = choice
    return found


def _parse(text: str, files: Collection[str]) -> tuple[str, Choice]:
    verdict, stars, rest = (*text.split(None, 2), "", "", "")[:3]
    if not rest:
        raise ValueError("not a verdict, stars and a file, as in: keep 4 0017-a-fox.png")
    file, note = _parted(rest, files)
    rating = None if stars == _NONE else int(stars) if stars.isdecimal() else stars
    return file, Choice.of(None if verdict == _NONE else verdict, rating, note)


def _parted(text: str, files: Collection[str]) -> tuple[str, str]:
    """Return the name of a file and the note after it; either may have colons."""
    starts = accumulate(text.split(": "), "{}: {}".format)
    found = [start for start in starts if start in files]
    if not found:
        raise ValueError("there is no such image")
    return found[-1], text[len(found[-1]) + 2 :]
