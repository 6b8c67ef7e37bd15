"""Planning: items found again or added, their names, and images that stand without a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from genbatch._values import ImageRequest, StoreError, sniff_mime_type

from . import _files as files
from ._journal import Transaction
from ._keys import key_of
from ._names import SHORT_KEY, candidates, folded
from ._plan import Plan, metadata_to_json, request_from_json, request_to_json
from ._schema import Known


class Naming(NamedTuple):
    """Where files go, and how they are named."""

    directory: Path
    template: str


@dataclass(slots=True)
class Wanted:
    """A request to be planned, then its plan or why it cannot be."""

    index: int
    request: ImageRequest
    content: str
    metadata: str
    digest: str
    ordinal: int = 0  # among equal ones of its input, once it is planned
    plan: Plan | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, index: int, request: ImageRequest, digest: str) -> Wanted:
        """Return the request at an index to be planned."""
        metadata = metadata_to_json(request.metadata)
        return cls(index, request, request_to_json(request), metadata, digest)


def find_or_add(
    journal: Transaction, batch: int, namespace: str, wanted: Wanted, naming: Naming
) -> Known:
    """Return the item of a request in a batch, where it has no place yet.

    Raises:
        StoreError: If every name that its image may have is taken.
    """
    known = journal.nth(wanted.digest, journal.ordinal(wanted.digest, batch))
    if known is None:
        return _add(journal, namespace, wanted, naming)
    if known.metadata != wanted.metadata:
        row = (wanted.metadata, known.item)
        journal.execute("UPDATE item SET metadata = ? WHERE id = ?", row)
    return known._replace(metadata=wanted.metadata)


def _add(journal: Transaction, namespace: str, wanted: Wanted, naming: Naming) -> Known:
    ordinal = journal.ordinal_of_next(wanted.digest)
    key = key_of(wanted.digest, ordinal)
    name, image = _choose_name(journal, wanted, key, naming)
    item = journal.insert(
        "item",
        digest=wanted.digest,
        ordinal=ordinal,
        name=name,
        folded=folded(name),
        namespace=namespace,
        prompt=wanted.content,
        metadata=wanted.metadata,
    )
    if image is not None:
        journal.add_image(item, 1, **image)
    return journal.item(item)


def _choose_name(
    journal: Transaction, wanted: Wanted, key: str, naming: Naming
) -> tuple[str, dict[str, Any] | None]:
    """Return the name of a new item and, if it stands there already, the row of its image."""
    for name in candidates(naming.template, wanted.index, wanted.request, key):
        if not journal.is_free(folded(name)):
            continue
        if files.find(naming.directory, name) is None:
            return name, None
        if name.endswith(key[:SHORT_KEY]) and (image := _look(journal, naming.directory, name)):
            return name, image  # its row was lost, or there was no journal yet
    raise StoreError(f"{naming.directory / name} and others are in the way: move them elsewhere")


def at(journal: Transaction, index: int, namespace: str) -> Known:
    """Return the item at an index of the latest input of a namespace.

    Raises:
        ValueError: If there is none.
    """
    if (known := journal.at(index, namespace)) is None:
        where = f" of namespace {namespace!r}" if namespace else ""
        raise ValueError(f"there is no prompt {index} in the latest input{where}")
    return known


def further(
    journal: Transaction, index: int, namespace: str, changes: Mapping[str, Any]
) -> tuple[Plan, ImageRequest]:
    """Plan a further take of the prompt at an index, and return it with what to ask for.

    Raises:
        ValueError: If there is no such prompt, or not all of its request is known.
    """
    known = at(journal, index, namespace)
    (content,) = journal.first("SELECT prompt FROM item WHERE id = ?", known.item)
    try:
        request = request_from_json(content, known.metadata)
    except ValueError as exc:
        raise ValueError(f"prompt {index} cannot be asked for again: {exc}") from exc
    asked = None
    if changes:
        request = replace(request, **changes)
        asked = request_to_json(request)
    plan = Plan(
        key_of(known.digest, known.ordinal), known.name, item=known.item, asked=asked, further=True
    )
    return plan, request


def adopt_orphans(journal: Transaction, directory: Path) -> None:
    """Give their rows to images that were published and whose runner died before it noted it."""
    rows = journal.execute("SELECT id, item, name, prompt, price FROM attempt").fetchall()
    for number, item, name, prompt, price in rows:
        if (image := _look(journal, directory, name)) is not None:
            take = journal.next_take(item)
            journal.add_image(item, take, pick=False, prompt=prompt, cost=price, **image)
            journal.execute("DELETE FROM attempt WHERE id = ?", (number,))


def adopt_lost(journal: Transaction, directory: Path, plan: Plan) -> None:
    """Give its row to an image that stands where a call is about to begin: its row was lost."""
    if journal.job_of(plan.item) is not None:
        return  # which may have published it just now, and notes it next
    if plan.stem.endswith(plan.key[:SHORT_KEY]) and journal.next_take(plan.item) == 1:
        if (image := _look(journal, directory, plan.stem)) is not None:
            journal.add_image(plan.item, 1, **image)


def _look(journal: Transaction, directory: Path, name: str) -> dict[str, Any] | None:
    """Return the row of the image that stands under a name without an extension, if one does."""
    file = files.find(directory, name)
    if file is None or journal.has_file(file) or (data := files.read(directory / file)) is None:
        return None
    if (mime_type := sniff_mime_type(data)) is None:
        return None
    numbered = (files.find(directory, f"{name}-{number}") for number in count(2))
    extras = [extra for extra in takewhile(bool, numbered) if extra]
    return {
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "mime_type": mime_type,
        "extras": json.dumps(extras) if extras else None,
    }
