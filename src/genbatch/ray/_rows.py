"""A dataset's blocks: their rows as requests, which of them are done, and their result columns.

What the store has already is one table, the index, in the memory of each machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

import ray
from genbatch._bucket import StoredImage
from genbatch._store import digest_with_id
from genbatch._values import ImageRequest

_OF_IMAGE = ("uri", "sha256", "mime_type", "model", "cost")
COLUMNS = ("key", *_OF_IMAGE, "error_kind", "error")

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


@dataclass(frozen=True, slots=True)
class RowRequests:
    """How rows become requests.

    Attributes:
        prompt_column: Column of the prompts.
        id_column: Column that distinguishes rows with equal prompts, None without one.
        namespace: Part of the keys; namespaces never share images.
        defaults: The request of every row, but for its prompt and id.
    """

    prompt_column: str
    id_column: str | None
    namespace: str
    defaults: ImageRequest

    def of(self, table: pa.Table) -> list[tuple[str, ImageRequest] | ValueError]:
        """Return the key and request of each row, or the error of one that cannot be a request.

        Raises:
            TypeError: If a prompt is not a string.
        """
        texts = table[self.prompt_column].to_pylist()
        if self.id_column is None:
            return [self._request(text, None) for text in texts]
        ids = table[self.id_column].to_pylist()
        return [self._request(text, str(each)) for text, each in zip(texts, ids, strict=True)]

    def keys(self, table: pa.Table) -> list[str | None]:
        """Return the key of each row, None for one that cannot be a request."""
        return [None if isinstance(each, ValueError) else each[0] for each in self.of(table)]

    def marks(self, table: pa.Table, keys: list[str | None]) -> list[bytes | None]:
        """Return what must be unique in each row, as 32 bytes: its id, or without ids its key."""
        if self.id_column is None:
            return [None if key is None else bytes.fromhex(key) for key in keys]
        ids = table[self.id_column].to_pylist()
        return [sha256(str(each).encode()).digest() for each in ids]

    def _request(self, text: object, id: str | None) -> tuple[str, ImageRequest] | ValueError:
        if text is None:
            return ValueError("a prompt must not be blank")
        if not isinstance(text, str):
            name = type(text).__name__
            raise TypeError(f"column {self.prompt_column!r} must have strings, got {name}")
        try:
            request = replace(self.defaults, text=text, id=id)
        except ValueError as exc:
            return exc
        return digest_with_id(self.namespace, request), request


def with_results(
    table: pa.Table, keys: list[str | None], results: list[StoredImage | Exception]
) -> pa.Table:
    """Return the table with COLUMNS appended."""
    images = [each if isinstance(each, StoredImage) else None for each in results]
    errors = [each if isinstance(each, Exception) else None for each in results]
    columns: dict[str, list[Any]] = {
        "key": keys,
        **{name: [image and getattr(image, name) for image in images] for name in _OF_IMAGE},
        "error_kind": [error and type(error).__name__ for error in errors],
        "error": [error and str(error) for error in errors],
    }
    for name, values in columns.items():
        kind = pa.float64() if name == "cost" else pa.string()
        table = table.append_column(name, pa.array(values, kind))
    return table


def table_of(images: Iterable[StoredImage]) -> pa.Table:
    """Return an index of images, sorted by key."""
    iterator, chunks = iter(images), [_SCHEMA.empty_table()]
    while chunk := list(islice(iterator, _CHUNK)):
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in chunk] for name in _SCHEMA.names
        }
        columns["key"] = [bytes.fromhex(key) for key in columns["key"]]
        chunks.append(pa.Table.from_pydict(columns, schema=_SCHEMA))
    table = pa.concat_tables(chunks).unify_dictionaries().combine_chunks()
    # Arrow does not sort fixed-size binaries, and lookups use numpy's order.
    return table.take(pa.array(np.argsort(_keys_of(table)))).combine_chunks()


def _keys_of(table: pa.Table, name: str = "key") -> Any:
    """Return a column of 32-byte values as an array that numpy can sort and search."""
    chunks = [chunk for chunk in table[name].drop_null().chunks if len(chunk)]
    arrays = [
        np.frombuffer(chunk.buffers()[1], dtype="S32")[chunk.offset : chunk.offset + len(chunk)]
        for chunk in chunks
    ]
    return arrays[0] if len(arrays) == 1 else np.concatenate([*arrays, np.array([], dtype="S32")])


def _is_known(index: Any, keys: Any) -> Any:
    """Return for each key whether it is in a sorted index."""
    if not len(index):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(index, keys), len(index) - 1)
    return index[at] == keys


def resumed(block: pa.Table, *, requests: RowRequests, index: ray.ObjectRef) -> pa.Table:
    """Return the rows of a block that are done, with their results."""
    table, keys, known = _look_up(block, requests, index)
    block = block.filter(pa.array(known))
    found = [key for key, is_done in zip(keys, known, strict=True) if is_done]
    at = np.searchsorted(_keys_of(table), _binary(found))
    rows = table.take(pa.array(at)).to_pylist()
    results: list[StoredImage | Exception] = [
        StoredImage.of({**row, "key": key, "file": ""}, row["uri"])
        for key, row in zip(found, rows, strict=True)
    ]
    return with_results(block, found, results)


def missing(block: pa.Table, *, requests: RowRequests, index: ray.ObjectRef) -> pa.Table:
    """Return the rows of a block that are not done."""
    _, _, known = _look_up(block, requests, index)
    return block.filter(pc.invert(pa.array(known)))


def check_rows(dataset: Dataset, requests: RowRequests, index: pa.Table) -> Any:
    """Return for each row with a prompt whether its image is in the index.

    Raises:
        ValueError: If two rows are equal.
        TypeError: If a prompt is not a string.
    """
    columns = [name for name in (requests.prompt_column, requests.id_column) if name is not None]
    marked = dataset.select_columns(columns).map_batches(
        _marks, fn_kwargs={"requests": requests}, batch_format="pyarrow", batch_size=None
    )
    marked.context.raise_original_map_exception = True
    done, known, seen = _keys_of(index), [], []
    for block in marked.iter_batches(batch_size=None, batch_format="pyarrow"):
        known.append(_is_known(done, _keys_of(block)))
        seen.append(_keys_of(block, "mark"))
    every = np.sort(np.concatenate(seen)) if seen else np.array([], dtype="S32")
    equal = every[1:][every[1:] == every[:-1]]
    if len(equal):
        raise ValueError(_duplicate_message(dataset.select_columns(columns), requests, equal[0]))
    return np.concatenate(known) if known else np.array([], dtype=bool)


def _duplicate_message(dataset: Dataset, requests: RowRequests, mark: bytes) -> str:
    """Return which rows are equal, and what to do about it."""
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        found = requests.marks(block, requests.keys(block))
        at = next((i for i, each in enumerate(found) if each and each.rstrip(b"\0") == mark), None)
        if at is not None:
            row = {name: column[0] for name, column in block.slice(at, 1).to_pydict().items()}
            if requests.id_column is not None:
                name = requests.id_column
                return f"ids must be unique: column {name!r} has {row[name]!r} twice"
            text = str(row[requests.prompt_column])[:80]
            return f"two rows have the prompt {text!r}: give id_column= to tell them apart"
    return "two rows ask for the same: give id_column= to tell them apart"


def _marks(block: pa.Table, *, requests: RowRequests) -> pa.Table:
    """Return the key of each row and what must be unique in it; see RowRequests.marks."""
    keys = requests.keys(block)
    return pa.table(
        {
            "key": pa.array([key and bytes.fromhex(key) for key in keys], pa.binary(32)),
            "mark": pa.array(requests.marks(block, keys), pa.binary(32)),
        }
    )


def _look_up(
    block: pa.Table, requests: RowRequests, index: ray.ObjectRef
) -> tuple[pa.Table, list[str | None], Any]:
    table, keys = ray.get(index), requests.keys(block)
    known = _is_known(_keys_of(table), _binary([key or "" for key in keys]))
    return table, keys, known


def _binary(keys: list[Any]) -> Any:
    return np.array([bytes.fromhex(key) for key in keys], dtype="S32")
