"""The object store: a bucket that any number of processes and machines fill together."""

from ._batch import Divided, ObjectBatch
from ._objects import Objects, StoredImage
from ._store import ObjectStore

__all__ = ["Divided", "ObjectBatch", "ObjectStore", "Objects", "StoredImage"]
