"""References: input images that several requests share are uploaded once, and referred to.

1. The first request with an image has it inline, since it may be the only one. The second uploads
   it, and all from then on refer to that file.
2. The service deletes a file after 48 hours, and a job may take 24. So a job is created only if its
   references will outlive it; otherwise its requests refer to a new upload first.
3. Uploads are known to this process only: a later run uploads again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from anyio import Lock

from genbatch._values import GenbatchError, Rejected, Stopped

if TYPE_CHECKING:
    from ._service import BatchService

OLDEST = 20 * 3600.0  # seconds since its upload that a file may be when a job is created

_SMALLEST = 16_384  # bytes of an image that is worth an upload
_MOST_SEEN = 100_000  # images that are remembered; further ones stay inline


@dataclass(frozen=True, slots=True)
class Reference:
    """An uploaded input image.

    Attributes:
        name: The service's name for its file.
        uri: What a request refers to it by.
        uploaded: Seconds since the epoch.
    """

    name: str
    uri: str
    uploaded: float

    @property
    def is_fresh(self) -> bool:
        """Whether a new job may refer to it."""
        return time.time() - self.uploaded < OLDEST


class References:
    """The input images that the requests of one batch share.

    Args:
        service: Takes the uploads.
    """

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._seen: set[bytes] = set()  # digests
        self._uploaded: dict[bytes, Reference] = {}  # by digest
        self._lock = Lock()

    @property
    def has_uploads(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self._uploaded)

    async def of(self, images: Sequence[bytes]) -> dict[int, Reference]:
        """Return the references of a request's shared images by their positions.

        Raises:
            Stopped: If the service refuses an image.
            GenbatchError: If it cannot be uploaded.
        """
        found: dict[int, Reference] = {}
        for position, image in enumerate(images):
            if len(image) < _SMALLEST:
                continue
            digest = (await self._service.in_thread(sha256, image)).digest()
            if digest in self._seen:
                found[position] = await self._uploaded_once(digest, image)
            elif len(self._seen) < _MOST_SEEN:
                self._seen.add(digest)
        return found

    async def _uploaded_once(self, digest: bytes, image: bytes) -> Reference:
        async with self._lock:
            reference = self._uploaded.get(digest)
            if reference is None or not reference.is_fresh:
                began, label = time.time(), f"genbatch-{digest.hex()[:16]}"
                try:
                    name, uri = await self._service.upload_image(image, label)
                except Rejected as error:  # which says nothing about the request
                    message = f"the service did not accept an input image: {error}"
                    raise Stopped(message, status=error.status) from error
                reference = self._uploaded[digest] = Reference(name, uri, began)
        return reference

    async def delete(self) -> None:
        """Delete the uploads; those that cannot be deleted now expire by themselves."""
        for reference in self._uploaded.values():
            with suppress(GenbatchError):
                await self._service.delete(reference.name)
        self._uploaded.clear()
