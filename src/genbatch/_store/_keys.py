"""Keys: what makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Set
from json.encoder import encode_basestring_ascii
from pathlib import Path

from genbatch._values import ImageRequest


def content_digest(namespace: str, request: ImageRequest) -> str:
    """Return the SHA-256, in hex, of all that a request asks for.

    Neither the place of the prompt in its batch nor its metadata is a part of it.

    Args:
        namespace: Equal prompts in different namespaces ask for different images.
        request: With its model's full id. Input images that are paths are read, which blocks.

    Raises:
        OSError: If an input image cannot be read.
        TypeError: If a setting has no text that is the same in every process.
    """
    return digests_of_texts(namespace, request)(request.text)


def digests_of_texts(namespace: str, like: ImageRequest) -> Callable[[str], str]:
    """Return a function from the text of a prompt to the digest of its request.

    A run that resumes does nothing else so often, so all but the text is worked out once.

    Args:
        namespace: As for content_digest.
        like: What is asked for but for the text.

    Raises:
        OSError, TypeError: As content_digest.
    """
    images = [
        hashlib.sha256(image if isinstance(image, bytes) else Path(image).read_bytes()).hexdigest()
        for image in like.images
    ]
    # A JSON list, written piece by piece.
    before = f"[{_text(namespace)}, {_text(like.id)}, "
    parts = [
        json.dumps(images),
        _text(like.model),
        _text(like.aspect_ratio),
        _text(like.image_size),
        "null" if like.seed is None else str(like.seed),
    ]
    if options := like.options:  # as values of any type, which JSON may not have
        parts.append(_text(json.dumps(options, sort_keys=True, default=_plain)))
    after = f", {', '.join(parts)}]"
    return lambda text: _sha256(before + encode_basestring_ascii(text) + after)


def key_of(digest: str, ordinal: int) -> str:
    """Return the key of the request that comes after ordinal equal ones in its input."""
    return _sha256(f"{digest}:{ordinal}") if ordinal else digest


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: object) -> object:
    """Return value as what JSON knows, or as a text."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(map(repr, value))
    text = repr(value)
    if " at 0x" in text:  # an address: another in each process, and so a new image in each run
        raise TypeError(f"a setting must have a lasting text, got {text}")
    return text
