"""Keys and names: what makes two requests the same one, and what its file is called.

A name is one safe component on Linux, macOS and Windows, and unique in its directory.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from genbatch._values import ImageRequest, is_reference

# The first service, which is not named in the keys of folders that knew no other.
_UNNAMED = ("", "gemini")


def digests_of_texts(namespace: str, like: ImageRequest) -> Callable[[str], str]:
    """Return a function from the text of a prompt to the SHA-256, in hex, of its request.

    The place of the prompt in its batch, its id, its metadata, and blanks around it are no part. A
    run that resumes does nothing else so often, so all but the text is worked out once.

    Args:
        namespace: Equal prompts in different namespaces ask for different images.
        like: What is asked for but for the text, with its model's full id. Input images that are
            paths are read, which blocks.

    Raises:
        OSError: If an input image cannot be read.
        TypeError: If a setting has no text that is the same in every process.
    """
    digest_of = _digests(namespace, like, None, _image_digests(like))
    return lambda text: digest_of(text.strip())


def digest_with_id(namespace: str, request: ImageRequest) -> str:
    """Return the digest of a request and its id, as it is asked for.

    Folders of earlier versions know their images by it, and so does the shared store of many
    machines, whose rows have no order to tell equal ones apart.

    Raises:
        OSError, TypeError: As digests_of_texts.
    """
    return _digests(namespace, request, request.id, _image_digests(request))(request.text)


def both_digests(
    namespace: str, request: ImageRequest, canonical: Callable[[ImageRequest], ImageRequest]
) -> tuple[str, str]:
    """Return the digest of the content of a request, and the one that earlier versions gave it.

    Args:
        namespace: As for digests_of_texts.
        request: With its model's full id.
        canonical: Returns the request in its service's one way to ask for the same.

    Raises:
        OSError, TypeError: As digests_of_texts.
    """
    images, text = _image_digests(request), request.text
    content = _digests(namespace, canonical(request), None, images)(text.strip())
    return content, _digests(namespace, request, request.id, images)(text)


def _image_digests(request: ImageRequest) -> list[str]:
    return [hashlib.sha256(_content(image)).hexdigest() for image in request.images]


def _digests(
    namespace: str, like: ImageRequest, id: str | None, images: list[str]
) -> Callable[[str], str]:
    # A JSON list, written piece by piece.
    before = f"[{_text(namespace)}, {_text(id)}, "
    parts = [
        json.dumps(images),
        _text(like.model),
        _text(like.aspect_ratio),
        _text(like.image_size),
        "null" if like.seed is None else str(like.seed),
    ]
    if options := like.options:  # as values of any type, which JSON may not have
        parts.append(_text(json.dumps(options, sort_keys=True, default=_plain)))
    if like.service not in _UNNAMED:
        parts.append(_text(f"of {like.service}"))
    after = f", {', '.join(parts)}]"
    return lambda text: _sha256(before + encode_basestring_ascii(text) + after)


def _content(image: bytes | str | Path) -> bytes:
    """Return the bytes of an input image, or the name of one that the service has."""
    if is_reference(image):
        return str(image).encode()
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def key_of(digest: str, ordinal: int) -> str:
    """Return the key of the request that was first seen after ordinal equal ones."""
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
        raise TypeError(f"a setting must have the same repr() in every process, got {text}")
    return text


DEFAULT_TEMPLATE = "{index:04d}-{slug}-{key}"
FIELDS = ("index", "slug", "key", "id", "name", "seed", "model", "source", "n")
SHORT_KEY = 6  # hex digits: beside index and slug they are there to tell reruns apart

_SLUG_LENGTH = 48
_SLUG_BYTES = 64
_MOST_BYTES = 120  # leaves room for a whole key, a number and an extension within 255
_ENDING = re.compile(r"(?ai:\.png|\.jpe?g|\.webp|\.gif)\Z")
_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"]
)


def slug(text: str) -> str:
    """Return the words of text in lower case, joined by hyphens.

    They keep the letters and digits of any script. At most 48 characters and 64 bytes of them are
    kept, up to the end of a word if possible.
    """
    text = unicodedata.normalize("NFC", text[:500]).lower()
    words = re.sub(r"-+", "-", _letters(text, "")).strip("-")
    short = words[:_SLUG_LENGTH].encode()[:_SLUG_BYTES].decode(errors="ignore")
    if len(short) < len(words) and words[len(short)] != "-":
        short = short.rpartition("-")[0] or short
    return short.strip("-") or "prompt"


def _letters(text: str, others: str) -> str:
    """Return text with a hyphen for all but letters and digits of any script, and others."""
    if text.isascii():
        return re.sub(f"[^A-Za-z0-9{re.escape(others)}]", "-", text)
    kept = ""
    for each in text:
        is_mark = unicodedata.category(each)[0] == "M"  # goes with the letter before it
        is_kept = each in others or each.isalnum()
        kept += each if is_kept or (is_mark and kept[-1:] not in ("", "-", *others)) else "-"
    return kept


def safe_name(text: str) -> str:
    """Return text as a file name without extension: letters and digits of any script, ``-_.``."""
    text = unicodedata.normalize("NFC", text[:500])
    kept = _letters(text, "_.")
    kept = re.sub(r"-+", "-", kept).strip("-. ")
    kept = _ENDING.sub("", kept)
    kept = kept.encode()[:_MOST_BYTES].decode(errors="ignore").strip("-. ") or "prompt"
    return f"_{kept}" if kept.partition(".")[0].lower() in _RESERVED else kept


def folded(name: str) -> str:
    """Return what two names have in common that one file system or another takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def check_template(template: str, fields: Sequence[str] = FIELDS) -> str:
    """Return template, which may have these fields.

    Raises:
        ValueError: If it is malformed or asks for what a name cannot have.
    """
    try:
        parts = list(string.Formatter().parse(template))
        asked = {field for _, field, _, _ in parts if field is not None}
        specs = [spec or "" for _, _, spec, _ in parts]
        if unknown := asked.difference(fields):
            known = ", ".join(fields)
            raise ValueError(f"a name can have {known}, not {', '.join(sorted(unknown))}")
        if any(int(digits) > _MOST_BYTES for digits in re.findall(r"\d+", "".join(specs))):
            raise ValueError(f"a field may be {_MOST_BYTES} characters wide at most")
        template.format(**{**dict.fromkeys(fields, ""), "index": 0, "n": 1, "take": 1})
    except ValueError as exc:
        raise ValueError(f"name template {template!r}: {exc}") from None
    return template


def candidates(template: str, index: int, prompt: ImageRequest, key: str) -> Iterator[str]:
    """Yield the names that the image of a request may have, the best first.

    The last has the whole key in it, so that it can be taken only by what is not ours.
    """
    if prompt.filename and "{name}" not in template:
        first = safe_name(prompt.filename)
    else:
        first = laid_out(template, index, prompt, key)
    yield first
    stem = first.removesuffix(f"-{key[:SHORT_KEY]}")
    for length in (SHORT_KEY, 12, len(key)):
        if (name := f"{stem}-{key[:length]}") != first:
            yield name


def laid_out(template: str, index: int, prompt: ImageRequest, key: str, take: int = 1) -> str:
    """Return the name that a template makes of these and other fields; its slashes are folders."""
    own = prompt.id or ""
    if "{n" in template and prompt.variant is not None:  # which tells the images of a row apart
        own = own.removesuffix(f"-{prompt.variant}")
    fields = _Fields(
        index=lambda: index,
        slug=lambda: slug(prompt.id or prompt.text),
        key=lambda: key[:SHORT_KEY],
        id=lambda: slug(own),
        name=lambda: safe_name(prompt.filename or prompt.id or slug(prompt.text)),
        seed=lambda: "" if prompt.seed is None else prompt.seed,
        model=lambda: safe_name(prompt.model),
        source=lambda: safe_name(prompt.source or ""),
        n=lambda: prompt.variant or 1,
        take=lambda: take,
    )
    filled = [part.format_map(fields) for part in template.split("/") if part.strip(". ")]
    return "/".join(map(safe_name, filled)) or slug(prompt.text)


class _Fields(dict[str, Any]):
    """The fields of a name, each worked out where it is asked for: a name has few of them."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)()
