"""Journal: the SQLite file of a directory, and what is asked of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import NoneType
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from genbatch._values import StoreError

from ._files import disk_error, name_temporary, publish, wrong_kind

HIDDEN = ".genbatch"  # the directory of what is not for the eye
JOURNAL = "journal.sqlite"
LOCK = "lock"
RESULTS = "results.jsonl"

VERSION = 5

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

# What this version has beside version 2: pixels, NULL where unknown.
PIXELS_SINCE = 3
PIXELS = """
ALTER TABLE image ADD COLUMN width INTEGER;
ALTER TABLE image ADD COLUMN height INTEGER;
"""

# What this version has beside version 3: content is the digest of what a row asks for now, NULL
# where that of an earlier version is not known yet; number is the row's for good; former is what
# a row with an id asked for before; size is the number of prompts of an input where it is known.
NUMBERS_SINCE = 4
NUMBERS = """
ALTER TABLE item ADD COLUMN content TEXT;
ALTER TABLE item ADD COLUMN row_id TEXT;
ALTER TABLE item ADD COLUMN number INTEGER;
ALTER TABLE batch ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE batch ADD COLUMN size INTEGER;
ALTER TABLE batch ADD COLUMN read INTEGER NOT NULL DEFAULT 0;
CREATE TABLE former (
    item INTEGER NOT NULL, content TEXT NOT NULL, pick INTEGER, PRIMARY KEY (item, content)
) WITHOUT ROWID;
UPDATE item SET row_id = json_extract(prompt, '$.id') WHERE json_valid(prompt);
CREATE TEMP TABLE seat AS SELECT item.id, namespace, position,
    row_number() OVER (PARTITION BY namespace, position ORDER BY batch DESC) AS turn
    FROM item LEFT JOIN place ON item = item.id
        AND batch = (SELECT max(batch) FROM place AS last WHERE last.item = item.id);
UPDATE item SET number = (SELECT iif(turn = 1, position, NULL) FROM seat WHERE seat.id = item.id);
DROP TABLE seat;
CREATE TEMP TABLE seat AS SELECT id,
    (SELECT coalesce(max(number), -1) FROM item AS every WHERE every.namespace = item.namespace)
    + row_number() OVER (PARTITION BY namespace ORDER BY id) AS number
    FROM item WHERE number IS NULL;
UPDATE item SET number = (SELECT number FROM seat WHERE seat.id = item.id) WHERE number IS NULL;
DROP TABLE seat;
CREATE UNIQUE INDEX item_number ON item (namespace, number);
CREATE INDEX item_content ON item (content, number);
CREATE INDEX item_row ON item (row_id, content) WHERE row_id IS NOT NULL;
"""

# What this version has beside version 4: what runs were told while they went on, by their session,
# and what each has said of itself, after which of these.
CONTROL_SINCE = 5
CONTROL = """
CREATE TABLE control (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL, told REAL NOT NULL,
    command TEXT, max_concurrent INTEGER, pace TEXT, budget REAL);
CREATE TABLE steered (session INTEGER PRIMARY KEY, control INTEGER NOT NULL, state TEXT NOT NULL);
"""
_WRITE_AHEAD = b"\2\2"  # in the header: versions to write and to read it, with the log
_ADDED = (SCHEMA, JOBS, PIXELS, NUMBERS, CONTROL)  # by each version
# Readers see the columns of an older journal so: theirs is not to change it.
AS_TODAY = (
    (
        PIXELS_SINCE,
        "CREATE TEMP VIEW image AS SELECT *, NULL AS width, NULL AS height FROM main.image",
    ),
    (
        NUMBERS_SINCE,
        """CREATE TEMP VIEW item AS SELECT *, NULL AS content,
            iif(json_valid(prompt), json_extract(prompt, '$.id'), NULL) AS row_id,
            (SELECT position FROM place WHERE item = item.id ORDER BY batch DESC) AS number
            FROM main.item""",
    ),
    (
        NUMBERS_SINCE,
        """CREATE TEMP VIEW batch AS
            SELECT *, '' AS source, NULL AS size, 0 AS read FROM main.batch""",
    ),
)

# Where what came in place of images is kept. Of such an attempt, name and price are those of the
# file and what it cost; no image has a slash in its name.
DAMAGED = "damaged/"

_BESIDE = ("-wal", "-shm", "-journal")  # the files of SQLite beside a journal
_OURS = (
    (LOCK, "file"),
    ("jobs", "directory"),
    ("thumbs", "directory"),
    (f"../{RESULTS}", "file"),
    (f"../{DAMAGED}", "directory"),
)

COLUMNS = """item.id, digest, ordinal, name, metadata, kind, message, detail,
    image.take, file, sha256, bytes, mime_type, model, usage, text, cost, extras, width, height,
    EXISTS (SELECT 1 FROM fake WHERE fake.item = image.item AND fake.take = image.take),
    content, row_id"""

# The images that a fake service has made. A journal of an earlier genbatch gets the table when it
# is opened for writing; its readers see an empty one.
FAKES = """TABLE IF NOT EXISTS fake (
    item INTEGER NOT NULL, take INTEGER NOT NULL, PRIMARY KEY (item, take)) WITHOUT ROWID"""

# How far answers of each model have exceeded what was reserved for them; made when one first does.
_OVERRUNS = """
CREATE TABLE IF NOT EXISTS overrun (
    model TEXT PRIMARY KEY, images INTEGER NOT NULL, ratio REAL NOT NULL, excess REAL NOT NULL)
"""
_OVERRUN = """
INSERT INTO overrun VALUES (?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET
    images = max(images, excluded.images), ratio = max(ratio, excluded.ratio),
    excess = max(excess, excluded.excess)
"""

# What has made an image in this directory, in words of the command's own; made when it first does.
_PROVEN = "CREATE TABLE IF NOT EXISTS proven (mark TEXT PRIMARY KEY)"

Row: TypeAlias = tuple[Any, ...]


class ItemRow(NamedTuple):
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
    width: int | None
    height: int | None
    fake: int
    content: str
    row_id: str | None


# Without None: a union is hashed slowly, and this is looked up for every prompt of a resumed run.
_ITEM = tuple(getattr(kind, "__args__", (kind,))[0] for kind in get_type_hints(ItemRow).values())
# What is raised by values that a damaged journal has in place of those that were written.
ROW_ERRORS = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


def check_types(row: Iterable[object], kinds: tuple[Any, ...] = _ITEM) -> None:
    """Raise TypeError if a value of a row is neither None nor of its kind."""
    if not _are_of(tuple(map(type, row)), kinds):
        raise TypeError("values of other types")


@lru_cache
def _are_of(types: tuple[type, ...], kinds: tuple[Any, ...]) -> bool:
    pairs = zip(types, kinds, strict=True)
    return all(found is NoneType or issubclass(found, kind) for found, kind in pairs)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema of a journal, 0 if it is empty.

    Raises:
        StoreError: If a newer genbatch, which this one does not know, has written it.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise StoreError(
            f"{path} was written by a newer genbatch (schema {found}, this one knows {VERSION}): "
            "update genbatch; if none is newer, move it elsewhere and run again"
        )
    return int(found)


_PATIENCE = 30.0  # seconds to wait for another process that writes
_MOST_UNFINISHED = 16  # inputs; each costs as many rows as were read of it

_PRUNE = """
DELETE FROM place WHERE EXISTS (
    SELECT 1 FROM place AS later, batch AS old, batch AS now
    WHERE later.item = place.item AND later.batch > place.batch
        AND old.id = place.batch AND now.id = later.batch AND old.session < now.session)
"""


class Spent(NamedTuple):
    """What all runs in a directory have paid.

    Attributes:
        usd: US dollars for images, damaged ones too, as far as prices are known.
        maybe_usd: US dollars of calls that may have been billed but returned no image.
        images: Images paid for.
        maybe_images: Calls that may have been billed but returned no image, including those in
            flight now.
    """

    usd: float
    maybe_usd: float
    images: int
    maybe_images: int

    @classmethod
    def read(cls, journal: Transaction) -> Spent:
        """Return it from a journal."""
        usd, images = journal.first(
            """SELECT total(cost), coalesce(sum(images), 0) FROM (
                SELECT cost, 1 + coalesce(json_array_length(extras), 0) AS images FROM image
                UNION ALL SELECT price, 1 FROM attempt WHERE name GLOB ?)""",
            f"{DAMAGED}*",
        )
        maybe_usd, maybe_images = journal.first(
            "SELECT total(price), count(*) FROM attempt WHERE name NOT GLOB ?", f"{DAMAGED}*"
        )
        return cls(usd, maybe_usd, images, maybe_images)


class RunCost(NamedTuple):
    """What one run in a directory has paid.

    Attributes:
        began: When it began, in seconds since 1970.
        usd: US dollars for its images, damaged ones too, as far as prices are known.
        images: Images paid for.
    """

    began: float
    usd: float
    images: int

    @classmethod
    def read(cls, journal: Transaction) -> list[RunCost]:
        """Return those of a journal that have paid, in order."""
        # Images know their second only.
        sql = """SELECT began, total(cost), sum(images) FROM session JOIN (
                SELECT cost, 1 + coalesce(json_array_length(extras), 0) AS images,
                    strftime('%s', made) + 1 AS later FROM image
                UNION ALL SELECT price, 1, began FROM attempt WHERE name GLOB ?)
            ON id = (SELECT id FROM session WHERE began < later ORDER BY began DESC LIMIT 1)
            GROUP BY id ORDER BY began"""
        rows = journal.execute(sql, (f"{DAMAGED}*",))
        return [cls(float(began), usd, images) for began, usd, images in rows]


# Whether an item has no place in a batch yet.
_FREE = "NOT EXISTS (SELECT 1 FROM place WHERE item = item.id AND batch = ?)"
_PICKED = "image ON image.item = item.id AND image.take = item.pick"


class Journal:
    """The journal of one directory, open for writing; its methods block, in any thread.

    Args:
        path: Created with mode 0600 if missing.

    Raises:
        StoreError: If it cannot be opened, is damaged, or a newer genbatch has written it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        try:
            check_files(path)
            if not os.path.lexists(path):
                _create(path)
            self._connection = sqlite3.connect(
                path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except (OSError, sqlite3.Error, *ROW_ERRORS) as exc:
            raise journal_error("write", path, exc) from exc

    def _prepare(self) -> None:
        connection = self._connection
        found = check_version(connection, self.path)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"the file system of {self.path} cannot hold a journal: use another")
        if found < VERSION:
            connection.executescript(_upgrade(found))
        connection.execute(f"CREATE {FAKES}")
        # Up to which number the items of a content are known to have places in a batch.
        connection.execute("""CREATE TEMP TABLE searched (
            batch INTEGER, content TEXT, number INTEGER, PRIMARY KEY (batch, content)
            ) WITHOUT ROWID""")

    def close(self) -> None:
        """Close it; without effect on what is committed."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Transaction]:
        """Run the block as one transaction, whole or not at all, on disk when the block is left.

        Args:
            durable: If False, it is on disk only with the next one that is, three times as fast:
                for what a power cut may undo.

        Raises:
            StoreError: If it cannot be written.
        """
        with self._lock:
            connection = self._connection
            try:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                connection.execute("BEGIN IMMEDIATE")
                yield Transaction(connection)
                connection.execute("COMMIT")
            except (sqlite3.Error, *ROW_ERRORS) as exc:
                raise journal_error("write", self.path, exc) from exc
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")


class Transaction:
    """What can be read and written within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany

    def insert(self, table: str, **values: object) -> int:
        """Insert a row and return its id."""
        marks = ", ".join("?" * len(values))
        sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"  # noqa: S608 - our names
        return self.execute(sql, tuple(map(storable, values.values()))).lastrowid or 0

    def first(self, sql: str, *values: object) -> Any:
        """Return the first row that a query finds, None if there is none."""
        return self.execute(sql, values).fetchone()

    def item(self, item: int, take: int | None = None) -> ItemRow:
        """Return what is known of an item, with the image of a take in place of the one picked."""
        sql = f"""SELECT {COLUMNS} FROM item LEFT JOIN image
            ON image.item = item.id AND image.take = coalesce(?, item.pick) WHERE item.id = ?"""  # noqa: S608
        return ItemRow._make(self.first(sql, take, item))

    def at(self, batch: int, position: int) -> int | None:
        """Return the item at a position of a batch, None if none is there yet."""
        sql = "SELECT item FROM place WHERE batch = ? AND position = ?"
        row = self.first(sql, batch, position)
        return None if row is None else int(row[0])

    def same_row(self, content: str, row_id: object, batch: int) -> int | None:
        """Return the first item with a content and an id that has no place in a batch yet."""
        # By its id: without the sign SQLite looks through all with the content, as it is numbered.
        sql = f"SELECT id FROM item WHERE row_id = ? AND content = ? AND {_FREE} ORDER BY +number"  # noqa: S608
        row = self.first(sql, row_id, content, batch)
        return None if row is None else int(row[0])

    def next_alike(self, content: str, batch: int) -> int | None:
        """Return the first item with a content, whatever its id, without a place in a batch yet.

        An input may be one prompt a hundred thousand times: the search goes on where it ended.
        """
        sql = f"""SELECT id, number FROM item
            WHERE content = ? AND number >= ? AND {_FREE} ORDER BY number LIMIT 1"""  # noqa: S608
        since = "SELECT number FROM temp.searched WHERE batch = ? AND content = ?"
        (number,) = self.first(since, batch, content) or (0,)
        row = self.first(sql, content, number, batch)
        if row is None or row[1] > number:
            end = "SELECT coalesce(max(number), 0) FROM item WHERE content = ?"
            number = self.first(end, content)[0] if row is None else row[1]
            sql = "INSERT OR REPLACE INTO temp.searched VALUES (?, ?, ?)"
            self.execute(sql, (batch, content, number))
        return None if row is None else int(row[0])

    def put(self, batch: int, places: Iterable[tuple[int, int]]) -> None:
        """Note the places of items in a batch, as pairs of item and position."""
        sql = "INSERT OR REPLACE INTO place (item, batch, position) VALUES (?, ?, ?)"
        self.executemany(sql, ((item, batch, position) for item, position in places))

    def count_read(self, batch: int, prompts: int) -> None:
        """Note that so many more prompts of a batch were read."""
        self.execute("UPDATE batch SET read = read + ? WHERE id = ?", (prompts, batch))

    def following(self, item: int, batch: int, count: int) -> list[Row]:
        """Return what came after an item in the last input that had it, but those in batch now.

        Rows are as in ItemRow, but not yet made into it: a run that resumes reads many.
        """
        last = self.first(
            "SELECT batch, position FROM place WHERE item = ? AND batch < ? ORDER BY batch DESC",
            item,
            batch,
        )
        if last is None:
            return []
        sql = f"""SELECT {COLUMNS} FROM place JOIN item ON item.id = place.item LEFT JOIN {_PICKED}
            WHERE place.batch = ? AND position > ? AND NOT EXISTS (
                SELECT 1 FROM place AS now WHERE now.item = item.id AND now.batch = ?)
            ORDER BY position LIMIT ?"""  # noqa: S608
        return self.execute(sql, (*last, batch, count)).fetchall()

    def upcoming(self, batch: int, position: int, count: int) -> list[Row]:
        """Return positions and rows, as following, of what comes after a position in a batch."""
        sql = f"""SELECT position, {COLUMNS} FROM place JOIN item ON item.id = place.item
            LEFT JOIN {_PICKED} WHERE batch = ? AND position > ? ORDER BY position LIMIT ?"""  # noqa: S608
        return self.execute(sql, (batch, position, count)).fetchall()

    def has_file(self, file: str) -> bool:
        """Return whether a file is the image of a row."""
        return self.first("SELECT 1 FROM image WHERE file = ?", file) is not None

    def is_known(self, file: str) -> bool:
        """Return whether a file is an image, or a further one of its answer, of a row."""
        sql = "SELECT 1 FROM image, json_each(extras) WHERE extras IS NOT NULL AND value = ?"
        return self.has_file(file) or self.first(sql, file) is not None

    def is_attempted(self, name: str) -> bool:
        """Return whether an attempt was sent whose image is to have that name."""
        return self.first("SELECT 1 FROM attempt WHERE name = ?", name) is not None

    def job_of(self, item: int) -> Row | None:
        """Return number and label of the job that may still make an item, None if there is none."""
        sql = """SELECT job.id, label FROM attempt JOIN job ON job.id = attempt.job
            WHERE item = ? AND ended IS NULL"""
        row: Row | None = self.first(sql, item)
        return row

    def next_take(self, item: int) -> int:
        """Return the number of the next take of an item, from 1."""
        (last,) = self.first("SELECT max(take) FROM image WHERE item = ?", item)
        return int(last or 0) + 1

    def pick(self, item: int, take: int) -> bool:
        """Pick a take of an item, or return False if it has no such take."""
        known = "SELECT take FROM image WHERE image.item = item.id"
        sql = f"UPDATE item SET pick = ? WHERE id = ? AND ? IN ({known})"  # noqa: S608
        return self.execute(sql, (take, item, take)).rowcount > 0

    def add_image(self, item: int, take: int, *, pick: bool = True, **columns: object) -> None:
        """Add an image; if pick is False, it is picked only where there is no other."""
        self.insert("image", item=item, take=take, **columns)
        self.execute(
            """UPDATE item SET pick = ?, kind = NULL, message = NULL, detail = NULL
            WHERE id = ? AND (? OR pick IS NULL)""",
            (take, item, pick),
        )

    def note_overrun(self, model: str, images: int, ratio: float, excess: float) -> None:
        """Note how far an answer of a model has exceeded what was reserved for it."""
        self.execute(_OVERRUNS)
        self.execute(_OVERRUN, (model, images, ratio, excess))

    def note_fake(self, item: int, take: int) -> None:
        """Note that a fake service has made an image."""
        self.execute("INSERT OR IGNORE INTO fake VALUES (?, ?)", (item, take))

    def prove(self, mark: str) -> None:
        """Note what has made an image."""
        self.execute(_PROVEN)
        self.execute("INSERT OR IGNORE INTO proven VALUES (?)", (mark,))

    def proven(self) -> list[str]:
        """Return what has made images."""
        if not self.has_table("proven"):
            return []
        return [str(mark) for (mark,) in self.execute("SELECT mark FROM proven")]

    def pin(self, models: Mapping[str, str]) -> None:
        """Note what short names of models stand for, where that is not known yet."""
        self.execute("CREATE TABLE IF NOT EXISTS pin (name TEXT PRIMARY KEY, model TEXT NOT NULL)")
        self.executemany("INSERT OR IGNORE INTO pin VALUES (?, ?)", list(models.items()))

    def pinned(self) -> dict[str, str]:
        """Return what short names of models stand for here."""
        if not self.has_table("pin"):
            return {}
        return dict(self.execute("SELECT name, model FROM pin").fetchall())

    def has_table(self, name: str) -> bool:
        """Return whether the journal has a table that was not in its first version."""
        return self.first("SELECT 1 FROM sqlite_master WHERE name = ?", name) is not None

    def overruns(self) -> list[Row]:
        """Return model, images, ratio and excess of each model with an overrun."""
        if not self.has_table("overrun"):
            return []
        return self.execute("SELECT model, images, ratio, excess FROM overrun").fetchall()

    def supersede(self, batch: int) -> None:
        """Forget earlier inputs from the files of a batch that was read to its end."""
        old = """SELECT old.id FROM batch AS old JOIN batch AS now USING (namespace, source)
            WHERE now.id = ? AND old.session < now.session"""
        self.execute(f"DELETE FROM place WHERE batch IN ({old})", (batch,))  # noqa: S608
        self.execute(f"DELETE FROM batch WHERE id IN ({old})", (batch,))  # noqa: S608

    def prune(self) -> None:
        """Where many inputs were not read to their end, keep the last place of each item."""
        (batches,) = self.first(
            "SELECT count(*) FROM batch AS old WHERE session < "
            "(SELECT max(session) FROM batch AS now WHERE now.namespace = old.namespace)"
        )
        if batches > _MOST_UNFINISHED:
            self.execute(_PRUNE)
            self.execute(
                "DELETE FROM batch WHERE session < (SELECT max(id) FROM session) "
                "AND id NOT IN (SELECT batch FROM place)"
            )


def storable(value: object) -> object:
    """Return value as SQLite takes it: what a service writes may hold halves of characters."""
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="replace").decode()
    return value


def _create(path: Path) -> None:
    """Create it whole from its first moment on, readable for its owner only.

    Its name is given to it when it has its tables and no descriptor is open: closing one would drop
    the locks that SQLite has on it in this process. SQLite gives the files beside it its mode.
    """
    for name in _BESIDE:  # a journal that was moved away may have left them
        path.with_name(path.name + name).unlink(missing_ok=True)
    temporary = name_temporary(path.parent)
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.executescript(f"PRAGMA journal_mode = OFF; {_upgrade(0)}")
        content = bytearray(temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    content[18:20] = _WRITE_AHEAD
    publish(path.parent, path.stem, path.suffix, content, 0o600)


def _upgrade(found: int) -> str:
    """Return the SQL that makes a journal of a version one of today, in one transaction."""
    return f"BEGIN; {''.join(_ADDED[found:])} PRAGMA user_version = {VERSION}; COMMIT"


def check_files(path: Path) -> None:
    """Raise StoreError where a journal, or a file of SQLite beside it, is to be and is no file."""
    for each in (path, *(path.with_name(path.name + name) for name in _BESIDE)):
        if what := wrong_kind(each):
            raise StoreError(f"{each} {what} and run again")


def strangers(directory: Path) -> Iterator[str]:
    """Yield what is in the place of one of our files and is none, a line each."""
    for name, wanted in _OURS:
        path = Path(os.path.normpath(directory / HIDDEN / name))
        if what := wrong_kind(path, wanted):
            yield f"{path} {what}"


def journal_error(what: str, path: Path, exc: Exception) -> StoreError:
    """Return the error of a journal that is damaged, or that its disk does not let us read."""
    code = getattr(exc, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    is_whole = isinstance(exc, OSError) or (primary in _OF_THE_DISK and code not in _CUT_SHORT)
    if primary == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK):
        if os.path.lexists(left := f"{path}-journal"):  # readers do not roll it back
            return StoreError(f"{left} is left from a cut-off run: move it elsewhere, or run again")
        is_whole = False  # the header says that it is of another format
    if is_whole:
        return disk_error(f"cannot {what} {path}", path.parent, exc)
    why = "it is not a journal" if primary == sqlite3.SQLITE_NOTADB else "it cannot be read"
    return StoreError(
        f"{path} is damaged ({why}): move it elsewhere and run again, "
        "which takes the images up whose names have their key"
    )


_CUT_SHORT = (sqlite3.SQLITE_IOERR_SHORT_READ,)
_OF_THE_DISK = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_MISUSE,
)
