"""Index: what a store has already, as one table in the memory of each machine."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from ._kept import StoredImage
from ._rows import Requests, with_results

_CHUNK = 50_000  # rows
_SCHEMA = pa.schema(
    {
        "key": pa.binary(32),
        "uri": pa.string(),
        "sha256": pa.string(),
        "bytes": pa.int64(),
        "mime_type": pa.dictionary(pa.int32(), pa.string()),
        "model": pa.dictionary(pa.int32(), pa.string()),
        "cost": pa.float64(),
    }
)


def table_of(images: Iterable[StoredImage]) -> pa.Table:
    """Return images as a table, sorted by key."""
    iterator, chunks = iter(images), [_SCHEMA.empty_table()]
    while chunk := list(islice(iterator, _CHUNK)):
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in chunk] for name in _SCHEMA.names
        }
        columns["key"] = [bytes.fromhex(key) for key in columns["key"]]
        chunks.append(pa.Table.from_pydict(columns, schema=_SCHEMA))
    table = pa.concat_tables(chunks).unify_dictionaries().combine_chunks()
    # Arrow sorts no fixed binaries; to numpy it is the same order as to look them up in.
    return table.take(pa.array(np.argsort(keys_of(table)))).combine_chunks()


def keys_of(table: pa.Table, name: str = "key") -> Any:
    """Return a column of 32 bytes each as an array that numpy can sort and search."""
    chunks = [chunk for chunk in table[name].drop_null().chunks if len(chunk)]
    arrays = [
        np.frombuffer(chunk.buffers()[1], dtype="S32")[chunk.offset : chunk.offset + len(chunk)]
        for chunk in chunks
    ]
    return arrays[0] if len(arrays) == 1 else np.concatenate([*arrays, np.array([], dtype="S32")])


def is_known(index: Any, keys: Any) -> Any:
    """Return for each of keys whether it is in index, which is sorted."""
    if not len(index):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(index, keys), len(index) - 1)
    return index[at] == keys


def resumed(block: pa.Table, *, requests: Requests, index: ray.ObjectRef) -> pa.Table:
    """Return the rows of a block that have their images, with them."""
    table, keys, known = _look_up(block, requests, index)
    block = block.filter(pa.array(known))
    found = [key for key, is_done in zip(keys, known, strict=True) if is_done]
    at = np.searchsorted(keys_of(table), _binary(found))
    rows = table.take(pa.array(at)).to_pylist()
    results: list[StoredImage | Exception] = [
        StoredImage.of({**row, "key": key, "file": ""}, row["uri"])
        for key, row in zip(found, rows, strict=True)
    ]
    return with_results(block, found, results)


def missing(block: pa.Table, *, requests: Requests, index: ray.ObjectRef) -> pa.Table:
    """Return the rows of a block that have no images yet."""
    _, _, known = _look_up(block, requests, index)
    return block.filter(pc.invert(pa.array(known)))


def marks(block: pa.Table, *, requests: Requests) -> pa.Table:
    """Return the key of each row, and what must be its own: its id, or without one its key."""
    keys = requests.keys(block)
    return pa.table(
        {
            "key": pa.array([key and bytes.fromhex(key) for key in keys], pa.binary(32)),
            "mark": pa.array(requests.marks(block, keys), pa.binary(32)),
        }
    )


def _look_up(
    block: pa.Table, requests: Requests, index: ray.ObjectRef
) -> tuple[pa.Table, list[str | None], Any]:
    table, keys = ray.get(index), requests.keys(block)
    known = is_known(keys_of(table), _binary([key or "" for key in keys]))
    return table, keys, known


def _binary(keys: list[Any]) -> Any:
    return np.array([bytes.fromhex(key) for key in keys], dtype="S32")
