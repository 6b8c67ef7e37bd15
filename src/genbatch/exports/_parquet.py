"""Parquet, by pyarrow of the extra ``data``: rows in one file, and images with their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from genbatch._store import Shape, place, wrong_kind

from ._rows import KeptRows, Row

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as exc:
    install = "python -m pip install 'genbatch[data]'"
    raise ModuleNotFoundError(f"Parquet needs the package pyarrow; run {install}") from exc

_OURS = {b"genbatch": b"export"}
_ROWS = 5_000  # of a group
# Of columns that may be without a value: that of a table must not depend on it.
_NUMBERS: Mapping[str, Shape] = {
    **dict.fromkeys(("index", "variant", "take", "takes", "bytes", "width", "height"), "int"),
    **{"stars": "int", "cost": "float", "elapsed": "float"},
}
_TYPES = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def write(rows: KeptRows, path: Path) -> None:
    """Write rows to a file; one that an earlier call has written is replaced.

    Raises:
        ValueError: If there is a file that is not ours.
        StoreError: If it cannot be written.
    """
    _check_ours(path)
    schema = pa.schema(_columns(rows.shape), _OURS)

    def write_to(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, schema) as writer:
            shaped = rows.shaped()
            while group := list(islice(shaped, _ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema))

    place(path.parent, path.name, write_to, replacing=True)


def _check_ours(path: Path) -> None:
    problem = wrong_kind(path)
    if problem is None and (path.exists() or path.is_symlink()):
        try:
            found = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowException):
            found = {}
        if not found.items() >= _OURS.items():
            problem = "was not written by genbatch export: give another name"
    if problem is not None:
        raise ValueError(f"{path} {problem}")


def _columns(shapes: Mapping[str, Shape]) -> list[tuple[str, Any]]:
    return [(name, _type_of(shape or _NUMBERS.get(name))) for name, shape in shapes.items()]


def _type_of(shape: Shape) -> Any:
    match shape:
        case dict() if shape:
            return pa.struct([(name, _type_of(inner)) for name, inner in shape.items()])
        case [inner]:
            return pa.list_(_type_of(inner))
        case str():
            return _TYPES.get(shape, pa.string())
    return pa.string()  # nulls alone


# Data sets


def schema_of_images(columns: Mapping[str, Shape]) -> Any:
    """Return the schema of images and values, which says to Hugging Face's datasets what they are.

    Args:
        columns: Of values that are not nested.
    """
    values = _columns(columns)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    for name, kind in values:
        dtype = {"double": "float64"}.get(str(kind), str(kind))
        features[name] = {"dtype": dtype, "_type": "Value"}
    about = {"info": {"features": features}}
    return pa.schema([("image", image), *values], {b"huggingface": json.dumps(about).encode()})


def write_images(groups: Iterable[list[Row]], schema: Any, file: BinaryIO) -> None:
    """Write groups of rows, whose ``image`` has bytes and path, one after the other."""
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pylist(group, schema))
