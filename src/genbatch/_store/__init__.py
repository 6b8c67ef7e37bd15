"""The durable store: a directory of images and its journal."""

from ._store import Store

__all__ = ["Store"]
