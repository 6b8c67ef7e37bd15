"""Input images that are https URLs: fetched once, before paying, and kept beside the journal.

1. Only https, also after a redirect, with a certificate that is valid. Private addresses are
   allowed: a company's own pictures are at some, and services that give keys to whatever asks are
   plain http.
2. Size, time and redirects are bounded, and only what is an image is kept.
3. An image is fetched once for its URL; who wants it anew deletes it from ``.genbatch/inputs``.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from genbatch._store import HIDDEN, INPUTS, make_directory, make_private
from genbatch._values import sniff_input_type

from ._console import QuietConsole, count, plain
from ._run import run

if TYPE_CHECKING:
    import httpx

_MOST_BYTES = 20 * 2**20  # what a request may have
_MOST_SECONDS = 60.0
_MOST_REDIRECTS = 5
_AT_ONCE = 8


class FetchedImages:
    """The input images of a folder's runs that were fetched.

    Args:
        folder: The output folder.

    Attributes:
        pending: URLs of those that are not there yet, by where they are to be kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / HIDDEN / INPUTS
        self._failed: dict[Path, str] = {}
        self._lock = Lock()
        self.pending: dict[Path, str] = {}

    def place(self, url: str) -> Path:
        """Return where an image is kept, or will be.

        Raises:
            ValueError: If it cannot be fetched.
        """
        path = self._folder / hashlib.sha256(url.encode()).hexdigest()
        if path in self._failed:
            raise ValueError(self._failed[path])
        if not path.is_file():
            self.pending[path] = url
        return path

    def fetch(self, path: Path) -> None:
        """Fetch a pending image; this blocks.

        Raises:
            ValueError: If it cannot be fetched.
        """
        import httpx  # slow to import, and seldom needed

        url = self.pending[path]
        try:
            data = _fetched(url)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            why = str(error) or type(error).__name__
            shown = plain(url.partition("?")[0], 100)  # what follows may be a key
            self._failed[path] = f"images: cannot fetch {shown}: {plain(why, 200)}"
            raise ValueError(self._failed[path]) from error
        finally:
            del self.pending[path]
        with self._lock:
            make_directory(self._folder.parent.parent)
            make_private(self._folder.parent)
            make_private(self._folder)
        part = path.with_suffix(".part")
        part.write_bytes(data)
        os.replace(part, path)

    def fetch_all(self, backend: str) -> bool:
        """Fetch what is pending, and return whether any could not be."""
        if not self.pending:
            return False
        QuietConsole(stderr=True).say(f"Fetching {count(len(self.pending), 'input image')}.")
        run(self._fetch_all, backend)
        return bool(self._failed)

    async def _fetch_all(self) -> None:
        limiter = anyio.CapacityLimiter(_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for path in list(self.pending):
                tasks.start_soon(self._fetch_one, path, limiter)

    async def _fetch_one(self, path: Path, limiter: anyio.CapacityLimiter) -> None:
        try:
            fetch = partial(self.fetch, path)
            await to_thread.run_sync(fetch, limiter=limiter, abandon_on_cancel=True)
        except ValueError:
            pass  # its rows are refused when they are read again


def _fetched(url: str) -> bytes:
    """Return an image.

    Raises:
        ValueError: If it is none, too large, or elsewhere than at https.
        httpx.HTTPError: If it cannot be fetched.
    """
    import httpx

    from genbatch._http import ConnectionStack

    deadline = monotonic() + _MOST_SECONDS
    headers = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "genbatch"}
    trusted = ConnectionStack().certificates  # as for all other calls
    with httpx.Client(timeout=_MOST_SECONDS / 2, headers=headers, verify=trusted) as client:
        for _ in range(_MOST_REDIRECTS + 1):
            if httpx.URL(url).scheme != "https":
                raise ValueError("only https is fetched")
            with client.stream("GET", url) as answer:
                if answer.next_request is not None:
                    url = str(answer.next_request.url)
                    continue
                if answer.status_code != 200:
                    raise ValueError(f"status {answer.status_code}")
                data = _body(answer, deadline)
            if sniff_input_type(data) is None:
                raise ValueError("it is not a PNG, JPEG, WebP, HEIC or HEIF image")
            return data
    raise ValueError(f"more than {_MOST_REDIRECTS} redirects")


def _body(answer: httpx.Response, deadline: float) -> bytes:
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES // 2**20} MB")
        if monotonic() > deadline:
            raise ValueError(f"not there after {_MOST_SECONDS:.0f} seconds")
    return bytes(body)
