"""The service's batch queue: files of requests up, jobs created and looked at, results down.

Over plain HTTP: the SDK's upload sleeps with asyncio, and its download keeps a file in memory. Only
what a request says is left to the SDK, so that a job asks for the same as a live call.

1. The key goes to the host of the base URL and nowhere else: the URL of an upload keeps its path
   only, and no redirect is followed.
2. A name that the service gives is checked before it becomes a part of a path.
3. Nothing here is larger in memory than a piece of an upload, or a line of results.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from anyio import fail_after, to_thread
from google.genai import errors

from genbatch._values import GenbatchError, Image, ImageRequest, InvalidResponse
from genbatch.gemini import (
    DEFAULT_BASE_URL,
    GeminiClient,
    JsonObject,
    excerpt,
    mapping,
    objects,
    parse_answer,
    read_images,
    with_retries,
)
from genbatch.gemini.wire import THIRD_PARTY, showable, translate, without_frames

from ._lines import lines_of
from ._operations import Seen, checked, name_in, seen
from ._results import read_result

if TYPE_CHECKING:
    import httpx
    import httpx2

    from genbatch.gemini.wire import Bodies

R = TypeVar("R")

_PIECE = 8 * 2**20  # bytes of an upload; the service wants a multiple of 256 KiB
_MOST_PAGES = 100
_TYPE = "application/jsonl"
_SERVICE = "the service"


class Batches:
    """The batch queue, on an open client's account.

    Args:
        client: Whose key, host, timeout and retries it uses.
        http: Sends what is sent.
        bodies: Makes the requests for images.
    """

    def __init__(
        self, client: GeminiClient, http: httpx.AsyncClient | httpx2.AsyncClient, bodies: Bodies
    ) -> None:
        self._http = http
        self._bodies = bodies
        self._secret = client._secret
        self._timeout = client._timeout
        self._threads = client._threads
        self._base = (client._base_url or DEFAULT_BASE_URL).rstrip("/")
        self._hide = self._secret.hide
        self.max_retries = client._max_retries

    async def body(self, request: ImageRequest) -> bytes:
        """Return the request for an image as JSON on one line, as a live call would send it.

        Raises:
            ValueError, TypeError, OSError: As GeminiClient.generate_image.
        """
        request = await read_images(request, self._threads)
        return await to_thread.run_sync(self._bodies.of, request, limiter=self._threads)

    async def upload(self, path: Path, label: str) -> str:
        """Upload a file of requests and return the service's name of it."""
        return await self._again(partial(self._upload, path, label))

    async def create(self, model: str, file: str, label: str) -> str:
        """Create a job, in one attempt, and return its name.

        Raises:
            GenbatchError: If no good answer came: the job may be there all the same.
        """
        asked = {"batch": {"displayName": label, "inputConfig": {"fileName": file}}}
        path = f"v1beta/models/{quote(model, safe='/')}:batchGenerateContent"
        return name_in(await self._json("POST", path, asked, model), "a job")

    def read_result(self, line: bytes, model: str) -> Image:
        """Return the image of a line of results, or raise why it has none; see _results."""
        return read_result(line, model, self._hide)

    async def look(self, name: str) -> Seen:
        """Return how a job is, in one attempt."""
        return seen(await self._json("GET", f"v1beta/{checked(name)}"))

    async def find(self, label: str) -> str | None:
        """Return the name of the job with a label, None if the service has none."""
        token = ""
        for _ in range(_MOST_PAGES):
            path = f"v1beta/batches?pageSize=1000&pageToken={quote(token, safe='')}"
            page = await self._again(partial(self._json, "GET", path))
            for each in objects(page.get("operations")) + objects(page.get("batches")):
                if mapping(each.get("metadata", each)).get("displayName") == label:
                    return name_in(each, "a job")
            if not (token := str(page.get("nextPageToken") or "")):
                return None
        raise InvalidResponse(f"the service's list of jobs has more than {_MOST_PAGES} pages")

    async def cancel(self, name: str) -> None:
        """Ask the service to end a job; what it has made is still there."""
        await self._again(partial(self._json, "POST", f"v1beta/{checked(name)}:cancel", {}))

    async def delete(self, file: str) -> None:
        """Delete a file, in one attempt."""
        await self._json("DELETE", f"v1beta/{checked(file)}")

    async def lines(self, file: str) -> AsyncGenerator[bytes]:
        """Yield the lines of a file of results as they come; close it when it is left early.

        Raises:
            GenbatchError: If they do not come whole.
        """
        url = f"{self._base}/download/v1beta/{checked(file)}:download?alt=media"
        headers = {**self._key(), "accept-encoding": "identity"}
        error: GenbatchError | None = None
        try:
            async with self._http.stream("GET", url, headers=headers, timeout=None) as answer:
                if answer.status_code != 200:
                    with fail_after(self._timeout):
                        raise _refused(answer.status_code, await answer.aread(), answer)
                lines = lines_of(answer.aiter_bytes(), self._timeout)
                async with aclosing(lines):  # or trio warns of one that is left early
                    async for line in lines:
                        yield line
        except THIRD_PARTY as exc:
            error = self._translate(exc, _SERVICE)
        if error is not None:
            raise error

    async def _upload(self, path: Path, label: str) -> str:
        size = await self._read(lambda: path.stat().st_size)
        start = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(size),
            "x-goog-upload-header-content-type": _TYPE,
        }
        told = json.dumps({"file": {"displayName": label, "mimeType": _TYPE}}).encode()
        answer = await self._send("POST", f"{self._base}/upload/v1beta/files", told, start)
        url = self._at_home(answer.headers.get("x-goog-upload-url", ""))
        for offset in range(0, size, _PIECE):
            piece = await self._read(partial(_piece, path, offset))
            is_last = offset + _PIECE >= size
            command = "upload, finalize" if is_last else "upload"
            headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
            answer = await self._send("POST", url, piece, headers)
        return name_in(mapping(self._parsed(answer).get("file")), "a file")

    async def _read(self, function: Callable[[], R]) -> R:
        return await to_thread.run_sync(function, limiter=self._threads)

    def _at_home(self, url: str) -> str:
        """Return a URL of the service's on the host that the key is for."""
        there, home = urlsplit(url), urlsplit(self._base)
        if not there.path:
            raise InvalidResponse("the service did not say where to upload a file")
        return urlunsplit((home.scheme, home.netloc, there.path, there.query, ""))

    async def _json(
        self, method: str, path: str, asked: JsonObject | None = None, what: str = _SERVICE
    ) -> JsonObject:
        content = b"" if asked is None else json.dumps(asked).encode()
        answer = await self._send(method, f"{self._base}/{path}", content, {}, what)
        return self._parsed(answer) if answer.content.strip() else {}

    def _parsed(self, answer: httpx.Response | httpx2.Response) -> JsonObject:
        return parse_answer(answer.content, _SERVICE, self._hide)

    async def _send(
        self, method: str, url: str, content: bytes, headers: dict[str, str], what: str = _SERVICE
    ) -> httpx.Response | httpx2.Response:
        headers = {**self._key(), "content-type": "application/json", **headers}
        try:
            with fail_after(self._timeout):
                answer = await self._http.request(
                    method, url, headers=headers, content=content, timeout=None
                )
            if answer.status_code == 200:
                return answer
            raise _refused(answer.status_code, answer.content, answer)
        except THIRD_PARTY as exc:
            error = self._translate(exc, what)
        raise error

    def _key(self) -> dict[str, str]:
        return {"x-goog-api-key": self._secret.reveal()}

    async def _again(self, attempt: Callable[[], Awaitable[R]]) -> R:
        return await with_retries(attempt, self.max_retries, lambda answer: answer)

    def _translate(self, exc: Exception, what: str) -> GenbatchError:
        error = translate(exc, model=what, timeout=self._timeout, secret=self._secret)
        error.maybe_paid = False  # no image is made here; whether there is a job is asked for
        error.__cause__ = without_frames(exc) if showable(exc, self._secret) else None
        return error


def _refused(status: int, body: bytes, answer: Any) -> errors.APIError:
    """Return the SDK's error for an answer that is none."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = {"error": {"message": excerpt(body.decode("utf-8", "replace"))}}
    return errors.APIError(status, told if isinstance(told, dict) else {}, answer)


def _piece(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_PIECE)
