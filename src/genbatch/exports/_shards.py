"""Shards: a data set of Parquet files, with the bytes of the images and what is told of them.

A shard has about a quarter of a gigabyte, and is written as a whole, or left as it is. Images are
in memory no longer than those of their row group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from ._copy import SPLIT, Copied, Copying, about_copy, facts_of, flat_facts, write_own
from ._copylog import CopyLog
from ._parquet import schema_of_images, write_images
from ._rows import KeptRows, Row

_MOST_BYTES = 256_000_000  # of the images of a shard, before they are converted
_MOST_ROWS = 10_000
_GROUP_BYTES, _GROUP_ROWS = 32_000_000, 100
_AT_ONCE = 8  # images in threads


class _Shard(NamedTuple):
    rows: int
    made_of: str


def write_shards(
    rows: KeptRows,
    how: Copying,
    log: CopyLog,
    threads: ThreadPoolExecutor,
    done: Copied,
    progress: Callable[[int, int], object],
) -> None:
    """Write images as shards of Parquet; as copy_images."""
    named = KeptRows(_named(rows, how, log))
    facts = KeptRows(_facts(row, {}) for row in named)
    schema = schema_of_images(facts.shape)
    shards = list(_parted(named, how, repr(schema)))
    iterator, finished = iter(named), 0
    for number, shard in enumerate(shards):
        name = f"data/{SPLIT}-{number:05d}-of-{len(shards):05d}.parquet"
        part = islice(iterator, shard.rows)
        known = log.known(name)
        if known and known.made_of == shard.made_of and known.is_unchanged(how.out):
            log.note(known)
            done.there += len(list(part))
        else:
            failed = done.failed
            groups = _groups(part, how, threads, facts.in_shape, done)
            write = partial(write_images, groups, schema)
            if problem := write_own(name, write, shard.made_of, how, log):
                done.failed += len(list(part)) - 1
                done.leave_out(problem)
            elif done.failed > failed and (written := log.known(name)):
                log.note(written._replace(made_of=""))  # to be tried again
            log.commit()
        progress(finished := finished + shard.rows, len(rows))


def _named(rows: KeptRows, how: Copying, log: CopyLog) -> Iterator[Row]:
    for position, row in enumerate(rows):
        stem = log.claim(row["file"], how.stems(row, position), lambda _: True)
        yield row | {"name": stem + how.conversion.extension(row["mime_type"])}


def _facts(row: Row, about: dict[str, Any]) -> Row:
    return flat_facts(facts_of(row, row["name"], about))


def _parted(rows: KeptRows, how: Copying, schema: str) -> Iterator[_Shard]:
    """Yield the shards that rows are in, in order."""
    number, size, digest = 0, 0, hashlib.sha256(schema.encode())
    for row in rows:
        if number and (number == _MOST_ROWS or size + row["bytes"] > _MOST_BYTES):
            yield _Shard(number, digest.hexdigest())
            number, size, digest = 0, 0, hashlib.sha256(schema.encode())
        number, size = number + 1, size + row["bytes"]
        digest.update(json.dumps([how.made_of(row), _facts(row, {})]).encode())
    if number:
        yield _Shard(number, digest.hexdigest())


def _groups(
    rows: Iterator[Row],
    how: Copying,
    threads: ThreadPoolExecutor,
    in_shape: Callable[[Row], Row],
    done: Copied,
) -> Iterator[list[Row]]:
    """Yield the row groups of a shard."""
    group: list[Row] = []
    size = 0
    while some := list(islice(rows, _AT_ONCE)):
        for row, made in zip(some, threads.map(how.produce, some), strict=True):
            if isinstance(made, str):
                done.leave_out(made)
                continue
            about = about_copy(made, row["name"]) if made.size else {}
            image = {"bytes": made.data, "path": row["name"]}
            group.append(in_shape(_facts(row, about)) | {"image": image})
            done.copied += 1
            done.bytes += len(made.data)
            size += len(made.data)
            if size > _GROUP_BYTES or len(group) == _GROUP_ROWS:
                yield group
                group, size = [], 0
    if group:
        yield group
