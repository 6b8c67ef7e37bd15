"""Download: what a bucket has becomes a local directory, as if one run had made it there.

What is there already is not read again: after a kill, or when the bucket has got more, the same
download goes on. Prompts have the keys that they have in the bucket, and are not paid for again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeAlias

from genbatch._store import (
    FINAL,
    Archive,
    BatchInput,
    BegunCall,
    Merged,
    Plan,
    PlanRequest,
    Policy,
    kept_request,
    reading,
    write_results,
)
from genbatch._values import Image, StoreError, Usage, sniff_mime_type

from ._objects import Objects

_AT_ONCE = 16  # images that are read, and in memory

Row: TypeAlias = Mapping[str, Any]


def download_bucket(
    url: str, directory: Path, progress: Callable[[int, int], object] = lambda done, of: None
) -> Merged:
    """Add what a bucket has to a directory, which may be new.

    Args:
        url: Of the bucket and its prefix.
        directory: Where it is to be.
        progress: Called with the number of prompts done, and of all.

    Raises:
        StoreError: If the bucket cannot be read, the directory cannot be written or is in use, or
            an image in the bucket is missing or has changed.
    """
    objects = Objects(url)
    made = list(objects.rows())
    refused = objects.failures({row["key"] for row in made})
    # What was saved without its request, by a store of rows, is no prompt of a run.
    found = [row for row in (*made, *refused) if "request" in row]
    found.sort(key=lambda row: (row["namespace"], row["index"], row["key"]))
    done, copied = 0, 0
    with closing(Archive(Policy(directory), fresh=False)) as archive:
        for namespace, rows in groupby(found, key=lambda row: str(row["namespace"])):
            batch = archive.begin_batch(namespace, BatchInput(objects.place.uri("")))
            for some in _batched(rows):
                copied += _add(objects, archive, (batch, namespace), some)
                done += len(some)
                progress(done, len(found))
            archive.end_batch(batch, {}, whole=True)
    write_results(directory)
    images = sum("sha256" in row for row in found)
    return Merged(len(found), copied, images - copied, [])


def is_download_of(url: str, directory: Path) -> bool:
    """Return whether a directory has been downloaded from a bucket."""
    try:
        with reading(directory) as journal:
            source = f"{url.rstrip('/')}/"
            return journal.first("SELECT 1 FROM batch WHERE source = ?", source) is not None
    except StoreError:  # there is no journal
        return False


def _batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _add(objects: Objects, archive: Archive, batch: tuple[int, str], rows: list[Row]) -> int:
    """Add rows to a directory, and return how many images were copied."""
    wanted = [_planned(row) for row in rows]
    archive.plan(*batch, wanted, {}, 0)
    missing: list[tuple[Row, Plan]] = []
    for row, each in zip(rows, wanted, strict=True):
        if each.plan is None:
            raise each.error or StoreError(f"{row['key']} has no free name")
        if each.plan.saved is None and each.plan.error is None:
            missing.append((row, each.plan))
    made = [(row, plan) for row, plan in missing if "sha256" in row]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        images = list(threads.map(partial(_image, objects), (row for row, _ in made)))
    for (row, plan), image in zip(made, images, strict=True):
        if isinstance(call := archive.begin(plan), BegunCall):
            archive.save(call, image, row.get("elapsed") or 0.0)
    for row, plan in missing:
        if "sha256" not in row and isinstance(call := archive.begin(plan), BegunCall):
            archive.fail(call, FINAL[row["kind"]](row["message"], **row["detail"]))
    return len(made)


def _planned(row: Row) -> PlanRequest:
    """Return the request of a row, under the digest that it has in the bucket."""
    request = replace(kept_request(row["request"]), metadata=row.get("metadata") or {})
    each = PlanRequest.of(int(row["index"]), request, row["digest"])
    each.content = row["request"]
    return each


def _image(objects: Objects, row: Row) -> Image:
    """Read the image of a row.

    Raises:
        StoreError: If it is missing, or not what was saved.
    """
    data, *further = (_read(objects, name) for name in (row["file"], *(row.get("extras") or ())))
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise StoreError(f"{objects.place.uri(row['file'])} has changed: genbatch verify")
    usage = row.get("usage")
    return Image(
        data,
        row["mime_type"],
        model=row["model"] or "",
        usage=Usage(**usage) if usage else None,
        text=row.get("text") or "",
        cost=row["cost"],
        response_id=row.get("response_id"),
        extras=tuple(Image(each, sniff_mime_type(each) or row["mime_type"]) for each in further),
        damaged=tuple(_read(objects, name) for name in row.get("damaged") or ()),
        is_placeholder=bool(row.get("fake")),
    )


def _read(objects: Objects, name: str) -> bytes:
    data = objects.place.read(name)
    if data is None:
        raise StoreError(f"{objects.place.uri(name)} is missing: genbatch verify lists what is")
    return data
