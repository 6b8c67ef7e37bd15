"""Store: a directory of images, published atomically under names that are never overwritten.

1. A file under its final name is complete and on disk, whatever was killed when.
2. Nothing that stands under another's name is overwritten or written through.
3. An image handed in is saved, whatever is cancelled, or StoreError says why it could not be.

A name is planned from the request before its call, and ends in a part of the request's key: an
image of that name is that request's, so running again makes only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import unicodedata
from itertools import count
from pathlib import Path
from types import TracebackType

from anyio import CancelScope, CapacityLimiter, to_thread

from ._errors import StoreError
from ._image import EXTENSIONS, Image, SavedImage, sniff_mime_type
from ._prompt import Prompt

_THREADS = 8
_SLUG_LENGTH = 48


class Store:
    """A directory that holds the images of one batch or many.

    Args:
        directory: Created, with its parents, on entering.

    Raises:
        StoreError: On entering, if directory cannot be created or written to.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._saved: dict[str, Path] = {}

    async def __aenter__(self) -> Store:
        # Of its own: anyio's default limiter is shared with, say, an app's synchronous endpoints.
        self._threads = CapacityLimiter(_THREADS)
        self._saved = await to_thread.run_sync(_open, self.directory, limiter=self._threads)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    async def plan(self, index: int, prompt: Prompt, namespace: str = "") -> str:
        """Return the file name, without extension, of the image this prompt asks for.

        Args:
            index: Position of the prompt in its batch.
            prompt: With its full model id and all settings filled in. Input images that are paths
                are read: the key that ends the name covers their content.
            namespace: Equal prompts in different namespaces are different images.

        Raises:
            OSError: If an input image cannot be read.
        """
        if not prompt.images:
            return _plan(index, prompt, namespace)
        return await to_thread.run_sync(_plan, index, prompt, namespace, limiter=self._threads)

    async def find(self, stem: str) -> SavedImage | None:
        """Return the image saved under stem, a file name without extension, if there is one.

        Raises:
            StoreError: If what stands there is not an image or cannot be read.
        """
        if (path := self._saved.get(stem)) is None:
            return None
        return await to_thread.run_sync(_load, path, limiter=self._threads)

    async def save(self, stem: str, image: Image) -> SavedImage:
        """Save image under stem, and return when it is durable.

        Where stem is taken meanwhile, the image goes beside it, as ``stem.2``.

        Raises:
            StoreError: If it cannot be written.

        Cancellation: strikes when the image is saved, since it is paid for.
        """
        with CancelScope(shield=True):
            path, digest = await to_thread.run_sync(
                _publish, self.directory, stem, image, limiter=self._threads
            )
        self._saved[stem] = path
        return SavedImage(
            path=path,
            mime_type=image.mime_type,
            size_mb=len(image.data) / 1e6,
            sha256=digest,
            cost=image.cost,
            model=image.model,
            usage=image.usage,
            text=image.text,
        )


def _plan(index: int, prompt: Prompt, namespace: str) -> str:
    images = [
        hashlib.sha256(image if isinstance(image, bytes) else Path(image).read_bytes()).hexdigest()
        for image in prompt.images
    ]
    settings = [prompt.model, prompt.aspect_ratio, prompt.image_size, prompt.seed]
    content = json.dumps([namespace, prompt.id, prompt.text, images, *settings])
    key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{index:04d}-{_slug(prompt.filename or prompt.id or prompt.text)}-{key[:6]}"


def _slug(text: str) -> str:
    """Return text as one component that is safe in a file name everywhere."""
    plain = unicodedata.normalize("NFKD", text[:500]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > _SLUG_LENGTH:
        words = words[: _SLUG_LENGTH + 1].rpartition("-")[0] or words[:_SLUG_LENGTH]
    return words or "prompt"


def _open(directory: Path) -> dict[str, Path]:
    """Create directory, see that it can be written to, and return its images by stem."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".{secrets.token_hex(8)}.part"
        probe.touch(exist_ok=False)
        probe.unlink()
        with os.scandir(directory) as entries:
            return {
                Path(entry.name).stem: directory / entry.name
                for entry in entries
                if entry.is_file(follow_symlinks=False)
                and Path(entry.name).suffix in EXTENSIONS.values()
            }
    except OSError as exc:
        raise StoreError(f"cannot save images in {directory}: {exc.strerror}") from exc


def _load(path: Path) -> SavedImage:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise StoreError(f"cannot read {path}: {exc.strerror}") from exc
    if (mime_type := sniff_mime_type(data)) is None:
        raise StoreError(f"{path} is in the way and is not an image: move it elsewhere")
    digest = hashlib.sha256(data).hexdigest()
    return SavedImage(path, mime_type, len(data) / 1e6, digest, resumed=True)


def _publish(directory: Path, stem: str, image: Image) -> tuple[Path, str]:
    """Write image durably under a free name and return its path and SHA-256."""
    temporary = directory / f".{secrets.token_hex(8)}.part"
    try:
        try:
            _write(temporary, image.data)
            for turn in count(1):
                suffix = "" if turn == 1 else f".{turn}"
                path = directory / f"{stem}{suffix}{image.extension}"
                if _move_to_free_name(temporary, path):
                    break
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(directory)
    except OSError as exc:
        raise StoreError(f"cannot save {directory / stem}: {exc.strerror}") from exc
    return path, hashlib.sha256(image.data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move_to_free_name(temporary: Path, path: Path) -> bool:
    """Give the file its final name, or return False if that is taken."""
    try:
        os.link(temporary, path)  # unlike a rename, it never replaces
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links, such as exFAT
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # a directory cannot be opened there, and its entries are journalled
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
