"""Matching: which row of the journal a row of an input is.

1. Matching is one to one: within an input an item satisfies one row, and its image with it.
2. A row is first the one with its content and its id, then the next one with its content.
3. Where the whole input is planned ahead, what is left and has the id of a row that the same files
   had, and have with that content no more, is that row: its next image is a further take.
4. Anything else is new, and gets the next number of its namespace, which never changes.

Content is what an image depends on: neither the id nor the place of a row is a part of it. Items of
earlier versions, whose digests have their ids in them, get their content when it is first needed,
and keep digest, key and names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from genbatch._values import ImageRequest, StoreError

from ._journal import ROW_ERRORS, ItemRow, Transaction, storable
from ._keys import both_digests, folded, key_of
from ._plan import Plan, PlanRequest, Policy, add_lost, choose_name, kept_request

MOST_AHEAD = 20_000  # prompts, planned in a few seconds
_PAGE = 500


@dataclass(frozen=True, slots=True)
class BatchInput:
    """What is known of an input before it is read.

    Attributes:
        source: Its files, empty where it has none.
        size: How many prompts it has, None where that is unknown.
        requests: Returns its requests with their positions, and may be called while it is read;
            None where it can be read only once.
        canonical: Returns the request in its service's one way to ask for the same.
    """

    source: str = ""
    size: int | None = None
    requests: Callable[[], Iterator[tuple[int, ImageRequest]]] | None = None
    canonical: Callable[[ImageRequest], ImageRequest] = lambda request: request

    @property
    def is_planned_ahead(self) -> bool:
        """Whether all its prompts are in the journal before the first call."""
        return self.requests is not None and (self.size or 0) <= MOST_AHEAD

    @property
    def edited_source(self) -> str | None:
        """Its files, where a row of theirs may be one that was edited."""
        return self.source if self.is_planned_ahead else None

    def wanted(self, namespace: str) -> Iterator[PlanRequest]:
        """Yield its requests to be planned, but for those whose input images cannot be read."""
        for index, request in self.requests() if self.requests else ():
            try:
                digests = both_digests(namespace, request, self.canonical)
            except (OSError, TypeError):
                continue  # it fails alone, when its turn comes
            yield PlanRequest.of(index, request, *digests)


def derive_contents(
    journal: Transaction, canonical: Callable[[ImageRequest], ImageRequest]
) -> None:
    """Note the content of items of an earlier version, which the digest of each confirms."""
    sql = "SELECT id, namespace, prompt, digest FROM item WHERE content IS NULL LIMIT ?"
    while rows := journal.execute(sql, (_PAGE,)).fetchall():
        contents = [
            (content_of(namespace, prompt, digest, canonical), item)
            for item, namespace, prompt, digest in rows
        ]
        journal.executemany("UPDATE item SET content = ? WHERE id = ?", contents)


def content_of(
    namespace: str, prompt: str, digest: str, canonical: Callable[[ImageRequest], ImageRequest]
) -> str:
    """Return the content of an item, or its digest where that does not follow from its row."""
    try:
        content, earlier = both_digests(namespace, kept_request(prompt), canonical)
    except (OSError, *ROW_ERRORS):
        return digest
    return content if earlier == digest else digest


def find_or_add(
    journal: Transaction, batch: int, namespace: str, wanted: PlanRequest, policy: Policy
) -> ItemRow:
    """Return the item of a request in a batch.

    Raises:
        StoreError: If every name that its image may have is taken.
    """
    item = journal.at(batch, wanted.index)
    if item is not None:  # planned ahead
        known = journal.item(item)
        if known.content in (wanted.digest, wanted.earlier):
            return known
    item = _same_row(journal, batch, wanted) or _next_alike(journal, batch, wanted)
    return (
        _add(journal, namespace, wanted, policy) if item is None else _fresh(journal, item, wanted)
    )


def plan_ahead(
    journal: Transaction,
    batch: int,
    namespace: str,
    requests: Iterable[PlanRequest],
    policy: Policy,
) -> None:
    """Give every request of an input its item; what has no free name is left out."""
    journal.execute(
        "CREATE TEMP TABLE IF NOT EXISTS wish (position INTEGER PRIMARY KEY, asked TEXT)"
    )
    journal.execute("DELETE FROM temp.wish")
    for each in requests:
        places = (each.request.source, each.request.variant)
        asked = (each.digest, each.earlier, each.content, each.metadata, *places)
        journal.execute("INSERT INTO temp.wish VALUES (?, ?)", (each.index, json.dumps(asked)))
    for find in (_same_row, _next_alike) if journal.first("SELECT 1 FROM item") else ():
        for wanted in _unplaced(journal, batch):
            if (item := find(journal, batch, wanted)) is not None:
                journal.put(batch, [(_fresh(journal, item, wanted).item, wanted.index)])
    for wanted in _unplaced(journal, batch):
        try:
            edited = _edited(journal, batch, wanted)
            known = _add(journal, namespace, wanted, policy) if edited is None else edited
        except StoreError:
            continue  # it fails alone, when its turn comes
        journal.put(batch, [(known.item, wanted.index)])
    read = "UPDATE batch SET read = (SELECT count(*) FROM place WHERE batch = id) WHERE id = ?"
    journal.execute(read, (batch,))
    journal.execute("DELETE FROM temp.wish")


def _unplaced(journal: Transaction, batch: int) -> Iterator[PlanRequest]:
    sql = """SELECT position, asked FROM temp.wish WHERE position > ? AND NOT EXISTS (
        SELECT 1 FROM place WHERE batch = ? AND place.position = wish.position)
        ORDER BY position LIMIT ?"""
    last = -1
    while rows := journal.execute(sql, (last, batch, _PAGE)).fetchall():
        for last, asked in rows:
            digest, earlier, content, metadata, source, variant = json.loads(asked)
            request = replace(kept_request(content), source=source, variant=variant)
            yield PlanRequest(last, request, content, metadata, digest, earlier)


def _same_row(journal: Transaction, batch: int, wanted: PlanRequest) -> int | None:
    if wanted.request.id is None:
        return None
    row_id = storable(wanted.request.id)
    found = (journal.same_row(each, row_id, batch) for each in _contents(wanted))
    return next((item for item in found if item is not None), None)


def _next_alike(journal: Transaction, batch: int, wanted: PlanRequest) -> int | None:
    found = (journal.next_alike(each, batch) for each in _contents(wanted))
    return next((item for item in found if item is not None), None)


def _contents(wanted: PlanRequest) -> Iterable[str]:
    return dict.fromkeys((wanted.digest, wanted.earlier))


def _fresh(journal: Transaction, item: int, wanted: PlanRequest) -> ItemRow:
    """Return an item, with the metadata and the id that its row has now."""
    known, row_id = journal.item(item), storable(wanted.request.id)
    if (known.metadata, known.row_id) == (wanted.metadata, row_id):
        return known
    (prompt,) = journal.first("SELECT prompt FROM item WHERE id = ?", item)
    asked = {name: value for name, value in json.loads(prompt).items() if name != "id"}
    asked |= {} if row_id is None else {"id": wanted.request.id}
    changed = "UPDATE item SET metadata = ?, row_id = ?, prompt = ? WHERE id = ?"
    journal.execute(changed, (wanted.metadata, row_id, json.dumps(asked), item))
    return journal.item(item)


def _edited(journal: Transaction, batch: int, wanted: PlanRequest) -> ItemRow | None:
    """Return the row that the same files had under an id, now with another content.

    One that they have no more is it as well, where it once had just this content.
    Its images are kept as takes of what they were asked for. One with a job that may still make its
    image, or that another input of this session has, is left alone.
    """
    if wanted.request.id is None:
        return None
    row = journal.first(
        # By its id: without the sign SQLite looks through the whole namespace, as it is numbered.
        """SELECT item.id, content, pick FROM item JOIN batch AS now ON now.id = ?
        WHERE row_id = ? AND +item.namespace = now.namespace
            AND (EXISTS (SELECT 1 FROM place JOIN batch ON batch.id = place.batch
                WHERE item = item.id AND source = now.source)
                OR NOT EXISTS (SELECT 1 FROM place WHERE item = item.id)
                AND EXISTS (SELECT 1 FROM former
                    WHERE item = item.id AND former.content = ?))
            AND NOT EXISTS (SELECT 1 FROM place JOIN batch ON batch.id = place.batch
                WHERE item = item.id AND session = now.session)
        ORDER BY number""",
        batch,
        storable(wanted.request.id),
        wanted.digest,
    )
    if row is None or journal.job_of(row[0]) is not None:
        return None
    item, content, pick = row
    journal.execute("INSERT OR REPLACE INTO former VALUES (?, ?, ?)", (item, content, pick))
    former = "SELECT pick FROM former WHERE item = ? AND content = ?"
    (pick,) = journal.first(former, item, wanted.digest) or (None,)
    for table in ("image", "attempt"):
        journal.execute(
            f"""UPDATE {table} SET prompt = (SELECT prompt FROM item WHERE id = ?)
            WHERE item = ? AND prompt IS NULL""",  # noqa: S608 - our names
            (item, item),
        )
    journal.execute(
        """UPDATE item SET content = ?, prompt = ?, metadata = ?, pick = ?,
            kind = NULL, message = NULL, detail = NULL WHERE id = ?""",
        (wanted.digest, wanted.content, wanted.metadata, pick, item),
    )
    return journal.item(item)


def _add(journal: Transaction, namespace: str, wanted: PlanRequest, policy: Policy) -> ItemRow:
    number = free_number(journal, namespace, wanted.index)
    # An earlier version may have made its image, and the row of that was lost.
    for digest in dict.fromkeys((wanted.earlier, wanted.digest)):
        sql = "SELECT coalesce(max(ordinal) + 1, 0) FROM item WHERE digest = ?"
        (ordinal,) = journal.first(sql, digest)
        key = key_of(digest, ordinal)
        name, image = choose_name(journal, wanted, number, key, policy)
        if image is not None:
            break
    item = journal.insert(
        "item",
        digest=digest,
        ordinal=ordinal,
        name=name,
        folded=folded(name),
        namespace=namespace,
        prompt=wanted.content,
        metadata=wanted.metadata,
        content=wanted.digest,
        row_id=wanted.request.id,
        number=number,
    )
    if image is not None:
        add_lost(journal, policy.directory, Plan(key, name, item=item), image)
    return journal.item(item)


def free_number(journal: Transaction, namespace: str, position: int) -> int:
    """Return the number of a new row: its position, or where that is taken, the next one."""
    taken = "SELECT 1 FROM item WHERE namespace = ? AND number = ?"
    if journal.first(taken, namespace, position) is None:
        return position
    (last,) = journal.first("SELECT max(number) FROM item WHERE namespace = ?", namespace)
    return int(last) + 1
