"""Plan: what a store knows of a request before its call."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from genbatch._values import (
    Blocked,
    GenbatchError,
    ImageMissing,
    ImageRequest,
    NoImage,
    Rejected,
    SavedImage,
    Usage,
)

from ._keys import key_of
from ._schema import Known

# The same request would only fail again: not asked, nor paid, twice.
FINAL: dict[str, type[GenbatchError]] = {
    "Blocked": Blocked,
    "NoImage": NoImage,
    "Rejected": Rejected,
}
_DETAILS = ("reason", "text", "status", "request_id")


class Plan(NamedTuple):
    """What is known of a request: to be made, made, or not to be made.

    Attributes:
        key: SHA-256, in hex, of all that is asked for; see Store.
        stem: File name of its image, without the extension.
        saved: The image, if there is one.
        error: Why it is not to be made: the failure of an earlier run, or ImageMissing.
        item: Its number in the journal.
        metadata: The prompt's, as JSON.
        asked: What a further take is asked for in place of the first, as JSON.
        further: Whether a further take is wanted beside the image that there is.
    """

    key: str
    stem: str
    saved: SavedImage | None = None
    error: GenbatchError | None = None
    item: int = 0
    metadata: str = ""
    asked: str | None = None
    further: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What is made again.

    Attributes:
        redo_missing: Whether images whose files are gone are.
        retry_failed: Which prompts that failed for good are: all, none, or those of some kinds,
            ``"Blocked"``, ``"NoImage"``, ``"Rejected"``.
    """

    redo_missing: bool = False
    retry_failed: bool | Collection[str] = False

    def plan(self, known: Known, directory: Path) -> Plan:
        """Return the plan of a request; this looks for its file."""
        return self.plan_of(known, directory, has_file(known.file, f"{directory}{os.sep}"))

    def plan_of(self, known: Known, directory: Path, is_there: bool) -> Plan:
        """Return the plan of a request, given whether the file of its image is there."""
        saved: SavedImage | None = None
        error: GenbatchError | None = None
        if known.take is not None:
            if is_there:
                saved = _saved_image(known, directory)
            elif not self.redo_missing:
                error = ImageMissing(f"{directory / known.file} is gone, but it was paid for")
        elif known.kind in FINAL and not self._retries(known.kind):
            error = FINAL[known.kind](known.message or "", **json.loads(known.detail or "{}"))
        return Plan(
            key_of(known.digest, known.ordinal),
            known.name,
            saved,
            error,
            known.item,
            known.metadata,
        )

    def _retries(self, kind: str) -> bool:
        if isinstance(self.retry_failed, bool):
            return self.retry_failed
        return kind in self.retry_failed


def has_file(name: str | None, prefix: str) -> bool:
    """Return whether a file, if there is to be one, is there: a directory before its name."""
    return name is not None and os.access(prefix + name, os.F_OK)  # faster than stat


def _saved_image(known: Known, directory: Path) -> SavedImage:
    return SavedImage(
        path=directory / known.file,
        mime_type=known.mime_type,
        size_mb=known.bytes / 1e6,
        sha256=known.sha256,
        cost=known.cost,
        resumed=True,
        model=known.model,
        usage=Usage(*map(int, known.usage.split())) if known.usage else None,
        text=known.text,
        extras=tuple(directory / name for name in json.loads(known.extras)) if known.extras else (),
    )


def details(error: Exception) -> str:
    """Return as JSON what an error says beside its message."""
    found = {name: getattr(error, name, None) for name in _DETAILS}
    return json.dumps({name: value for name, value in found.items() if value})


def request_to_json(request: ImageRequest) -> str:
    """Return what is asked for, but for the metadata; bytes of input images are not kept."""
    images = [image if isinstance(image, bytes) else str(image) for image in request.images]
    own = {
        "id": request.id,
        "filename": request.filename,
        "model": request.model,
        "aspect_ratio": request.aspect_ratio,
        "image_size": request.image_size,
        "seed": request.seed,
        "images": [None if isinstance(image, bytes) else image for image in images],
        "settings": request.options,
    }
    given = {name: value for name, value in own.items() if value not in (None, [], {})}
    return json.dumps({"text": request.text, **given}, default=_no_json)


def request_from_json(content: str, metadata: str) -> ImageRequest:
    """Return the request that was asked for.

    Raises:
        ValueError: If it worked from bytes, or with a setting, that are not kept.
    """
    asked = json.loads(content)
    options = asked.pop("settings", {})
    images = asked.pop("images", [])
    if None in images or _is_marked(options):
        raise ValueError("it was asked for with bytes or settings that the journal does not keep")
    own = json.loads(metadata) if metadata else {}
    return ImageRequest(**asked, **options, images=tuple(images), metadata=own)


def metadata_to_json(metadata: Mapping[str, object]) -> str:
    """Return the metadata of a prompt, empty where there is none."""
    return json.dumps(dict(metadata), default=str) if metadata else ""


def _no_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else {"not kept": repr(value)}


def _is_marked(value: object) -> bool:
    if isinstance(value, dict):
        return "not kept" in value or any(map(_is_marked, value.values()))
    return isinstance(value, list) and any(map(_is_marked, value))
