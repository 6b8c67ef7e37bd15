"""The shared store: images and what is known of them as objects, in a directory or at a URL."""

from ._kept import JournalStore, KeyedStore, StoredImage
from ._store import Objects, ObjectStore

__all__ = ["JournalStore", "KeyedStore", "ObjectStore", "Objects", "StoredImage"]
