"""Rows: a block of a dataset as requests, and what came of them as its further columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import pyarrow as pa

from genbatch._store import content_digest
from genbatch._values import ImageRequest

from ._kept import StoredImage

COLUMNS = ("key", "uri", "sha256", "mime_type", "model", "cost", "error_kind", "error")


@dataclass(frozen=True, slots=True)
class Requests:
    """How rows become requests.

    Attributes:
        prompt_column: Of the texts.
        id_column: Of what tells equal texts apart, None where nothing has to.
        namespace: Images of one namespace are never taken for those of another.
        defaults: What all rows ask for, whatever their texts.
    """

    prompt_column: str
    id_column: str | None
    namespace: str
    defaults: ImageRequest

    def of(self, table: pa.Table) -> list[ImageRequest | ValueError]:
        """Return the request of each row, or why it has none.

        Raises:
            TypeError: If a prompt is no string.
        """
        texts = table[self.prompt_column].to_pylist()
        if self.id_column is None:
            return [self._request(text, None) for text in texts]
        ids = table[self.id_column].to_pylist()
        return [self._request(text, str(each)) for text, each in zip(texts, ids, strict=True)]

    def key(self, request: ImageRequest | ValueError) -> str | None:
        """Return the key of a request, None if there is none."""
        if isinstance(request, ValueError):
            return None
        return content_digest(self.namespace, request)

    def keys(self, table: pa.Table) -> list[str | None]:
        """Return the keys of all rows."""
        return [self.key(request) for request in self.of(table)]

    def marks(self, table: pa.Table, keys: list[str | None]) -> list[bytes | None]:
        """Return what no two rows may share, as 32 bytes: their id, or without one their key."""
        if self.id_column is None:
            return [None if key is None else bytes.fromhex(key) for key in keys]
        ids = table[self.id_column].to_pylist()
        return [sha256(str(each).encode()).digest() for each in ids]

    def _request(self, text: object, id: str | None) -> ImageRequest | ValueError:
        if text is None:
            return ValueError("a prompt must not be blank")
        if not isinstance(text, str):
            name = type(text).__name__
            raise TypeError(f"column {self.prompt_column!r} must have strings, got {name}")
        try:
            return replace(self.defaults, text=text, id=id)
        except ValueError as exc:
            return exc


def with_results(
    table: pa.Table, keys: list[str | None], results: list[StoredImage | Exception]
) -> pa.Table:
    """Return the table with a further column for each of COLUMNS."""
    images = [each if isinstance(each, StoredImage) else None for each in results]
    errors = [each if isinstance(each, Exception) else None for each in results]

    def of_image(read: Callable[[StoredImage], object]) -> list[object]:
        return [None if image is None else read(image) for image in images]

    text, number = pa.string(), pa.float64()
    columns = {
        "key": pa.array(keys, text),
        "uri": pa.array(of_image(lambda image: image.uri), text),
        "sha256": pa.array(of_image(lambda image: image.sha256), text),
        "mime_type": pa.array(of_image(lambda image: image.mime_type), text),
        "model": pa.array(of_image(lambda image: image.model), text),
        "cost": pa.array(of_image(lambda image: image.cost), number),
        "error_kind": pa.array([error and type(error).__name__ for error in errors], text),
        "error": pa.array([error and str(error) for error in errors], text),
    }
    for name in COLUMNS:
        table = table.append_column(name, columns[name])
    return table
