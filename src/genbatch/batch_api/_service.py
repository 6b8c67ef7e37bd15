"""The service's batch queue: request files up, jobs created and polled, results down.

It speaks plain HTTP: the SDK's upload sleeps with asyncio, and its download keeps a file in memory.
Only the content of a request is left to the SDK, so that a job asks for the same as a live call.

1. The key goes to the host of the base URL and nowhere else: of an upload URL only the path is
   used, and no redirect is followed.
2. A name given by the service is validated before it becomes part of a path.
3. Memory holds no more than a piece of an upload, or a line of results, at a time; and of any other
   answer no more than 64 MB, packed or unpacked.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from anyio import fail_after, from_thread, to_thread

from genbatch._http import body_pieces, read_body
from genbatch._values import (
    FAKE_HEADER,
    GenbatchError,
    Image,
    ImageRequest,
    InvalidResponse,
    sniff_mime_type,
)
from genbatch.gemini import (
    DEFAULT_BASE_URL,
    GeminiClient,
    JsonObject,
    excerpt,
    file_parts,
    image_from,
    mapping,
    objects,
    parse_answer,
    read_images,
    with_retries,
)
from genbatch.gemini.wire import (
    THIRD_PARTY,
    error_within,
    json_of,
    of_status,
    refused,
    showable,
    translate,
    without_frames,
)

from ._job import JobStatus

if TYPE_CHECKING:
    import httpx
    import httpx2

R = TypeVar("R")

_PIECE = 8 * 2**20  # bytes of an upload; the service wants a multiple of 256 KiB
_MOST_PAGES = 100
_TYPE = "application/jsonl"
_SERVICE = "the service"
_NAME = re.compile(r"(batches|files)/[\w.-]{1,200}", re.ASCII)  # it becomes a part of a path
_STEADY = 64 * 1024
_LONGEST_LINE = 80_000_000  # bytes; a live answer may have 64 MB

# HTTP statuses of the status codes in results, as a live call would be answered.
_HTTP = {1: 503, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 10: 503, 11: 400, 16: 401}


class BatchService:
    """The batch queue on an open client's account.

    Args:
        client: Provides key, host, timeout and retries.
        http: Sends the requests.
    """

    def __init__(self, client: GeminiClient, http: httpx.AsyncClient | httpx2.AsyncClient) -> None:
        self._http = http
        self._secret = client._secret
        self._timeout = client._timeout
        self._threads = client._threads
        self._base = (client._base_url or DEFAULT_BASE_URL).rstrip("/")
        self._hide = self._secret.hide
        self._fetch_images = client._opened().fetch_images
        self.max_retries = client._max_retries
        self._fake: str | None = None  # that the results are a fake service's

    async def read(self, request: ImageRequest) -> ImageRequest:
        """Return a request whose input images are bytes.

        Raises:
            ValueError, OSError: As GeminiClient.generate_image.
        """
        return await read_images(request, self._threads)

    async def body(self, request: ImageRequest, uris: Mapping[int, str]) -> bytes:
        """Return the request for an image as one line of JSON, as a live call would send it.

        Args:
            request: Its input images are bytes.
            uris: By their positions, URIs of input images that were uploaded.

        Raises:
            ValueError, TypeError: As GeminiClient.generate_image.
        """
        return await self.in_thread(json_of, request, uris)

    async def upload(self, path: Path, label: str) -> str:
        """Upload a file of requests and return its name."""
        size = (await self.in_thread(path.stat)).st_size
        upload = partial(self._upload, partial(_piece, path), size, _TYPE, label)
        return name_in(await self._again(upload), "a file")

    async def upload_image(self, image: bytes, label: str) -> tuple[str, str]:
        """Upload an input image and return its name and URI."""

        def piece(offset: int) -> bytes:
            return image[offset : offset + _PIECE]

        mime_type = sniff_mime_type(image) or ""
        file = await self._again(partial(self._upload, piece, len(image), mime_type, label))
        if not isinstance(uri := file.get("uri"), str):
            raise InvalidResponse("the service gave no URI for an uploaded image")
        return name_in(file, "a file"), uri

    async def create(self, model: str, file: str, label: str) -> str:
        """Create a job, in one attempt, and return its name.

        Raises:
            GenbatchError: If no valid answer came; the job may exist all the same.
        """
        asked = {"batch": {"displayName": label, "inputConfig": {"fileName": file}}}
        path = f"v1beta/models/{quote(model, safe='/')}:batchGenerateContent"
        return name_in(await self._json("POST", path, asked, model), "a job")

    def read_result(self, line: bytes, request: ImageRequest, price: float | None) -> Image:
        """Return the image of a line of results, priced as a live one.

        Called in a thread of anyio: an image that the line names by URL is fetched first.

        Args:
            line: As it came; images are decoded from it without a copy.
            request: What it answers, as far as the journal keeps it.
            price: US dollars of a live image, in place of the published prices.

        Raises:
            GenbatchError: What a live call would have raised.
        """
        model = request.model
        row = parse_answer(line, model, self._hide)
        if isinstance(response := row.get("response"), dict):
            if (within := error_within(response, model)) is not None:
                raise within
            if file_parts(response):
                from_thread.run(self._fetch_images, response)
            return image_from({**response, FAKE_HEADER: self._fake}, request, price)
        told = mapping(row.get("error") or row.get("status"))
        code = told.get("code")
        number = code if isinstance(code, int) else 0
        message = str(told.get("message") or "no message")
        status = number if number >= 100 else _HTTP.get(number, 500)
        error = of_status(status, message, objects(told.get("details")), model)
        error.status = status
        raise error

    async def look(self, name: str) -> JobStatus:
        """Return the status of a job, in one attempt."""
        return status_of(await self._json("GET", f"v1beta/{checked(name)}"))

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
        """Ask the service to cancel a job; the results it has are kept."""
        await self._again(partial(self._json, "POST", f"v1beta/{checked(name)}:cancel", {}))

    async def delete(self, file: str) -> None:
        """Delete a file, in one attempt."""
        await self._json("DELETE", f"v1beta/{checked(file)}")

    async def lines(self, file: str) -> AsyncGenerator[bytes]:
        """Yield the lines of a file of results as they arrive; close it if it is left early.

        Raises:
            GenbatchError: If they do not arrive completely.
        """
        url = f"{self._base}/download/v1beta/{checked(file)}:download?alt=media"
        headers = {**self._key(), "accept-encoding": "identity"}
        error: GenbatchError | None = None
        try:
            async with AsyncExitStack() as stack:
                asked: Any = self._http.stream("GET", url, headers=headers, timeout=None)
                with fail_after(self._timeout):
                    answer = await stack.enter_async_context(asked)
                    if answer.status_code != 200:
                        raise refused(answer.status_code, await read_body(answer), answer)
                self._fake = answer.headers.get(FAKE_HEADER)
                lines = lines_of(body_pieces(answer), self._timeout)
                async with aclosing(lines):  # or trio warns of a generator left early
                    async for line in lines:
                        yield line
        except THIRD_PARTY as exc:
            error = self._translate(exc, _SERVICE)
        if error is not None:
            raise error

    async def _upload(
        self, piece_at: Callable[[int], bytes], size: int, mime_type: str, label: str
    ) -> JsonObject:
        """Upload a file in pieces and return the service's description of it."""
        start = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(size),
            "x-goog-upload-header-content-type": mime_type,
        }
        told = json.dumps({"file": {"displayName": label, "mimeType": mime_type}}).encode()
        answer, body = await self._send("POST", f"{self._base}/upload/v1beta/files", told, start)
        url = self._at_home(answer.headers.get("x-goog-upload-url", ""))
        for offset in range(0, size, _PIECE):
            piece = await self.in_thread(piece_at, offset)
            is_last = offset + _PIECE >= size
            command = "upload, finalize" if is_last else "upload"
            headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
            answer, body = await self._send("POST", url, piece, headers)
        return mapping(self._parsed(body).get("file"))

    async def in_thread(self, function: Callable[..., R], *args: object) -> R:
        """Return what function returns in one of the client's threads."""
        return await to_thread.run_sync(partial(function, *args), limiter=self._threads)

    def _at_home(self, url: str) -> str:
        """Return a URL given by the service, on the host that the key is for."""
        there, home = urlsplit(url), urlsplit(self._base)
        if not there.path:
            error = InvalidResponse("the service did not say where to upload a file")
            error.scope = "service"  # something in between has answered
            raise error
        return urlunsplit((home.scheme, home.netloc, there.path, there.query, ""))

    async def _json(
        self, method: str, path: str, asked: JsonObject | None = None, what: str = _SERVICE
    ) -> JsonObject:
        content = b"" if asked is None else json.dumps(asked).encode()
        _, body = await self._send(method, f"{self._base}/{path}", content, {}, what)
        return self._parsed(body) if body.strip() else {}

    def _parsed(self, body: bytes) -> JsonObject:
        try:
            return parse_answer(body, _SERVICE, self._hide)
        except InvalidResponse as error:
            error.maybe_paid = False  # no image is made here
            raise

    async def _send(
        self, method: str, url: str, content: bytes, headers: dict[str, str], what: str = _SERVICE
    ) -> tuple[httpx.Response | httpx2.Response, bytes]:
        """Return the head of an answer, and its body."""
        headers = {**self._key(), "content-type": "application/json", **headers}
        asked = self._http.stream(method, url, headers=headers, content=content, timeout=None)
        try:
            with fail_after(self._timeout):
                async with asked as answer:
                    body = await read_body(answer)
            if answer.status_code == 200:
                return answer, body
            raise refused(answer.status_code, body, answer)
        except THIRD_PARTY as exc:
            error = self._translate(exc, what)
        raise error

    def _key(self) -> dict[str, str]:
        return {"x-goog-api-key": self._secret.reveal()}

    async def _again(self, attempt: Callable[[], Awaitable[R]]) -> R:
        return await with_retries(attempt, self.max_retries, lambda answer: answer)

    def _translate(self, exc: Exception, what: str) -> GenbatchError:
        error = translate(exc, model=what, timeout=self._timeout, secret=self._secret)
        error.maybe_paid = False  # no image is made here, and a lost job is asked for
        error.__cause__ = without_frames(exc) if showable(exc, self._secret) else None
        return error


def _piece(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_PIECE)


def checked(name: str) -> str:
    """Return the name of a job or a file; raise InvalidResponse if it is invalid."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidResponse(f"the service gave an invalid name: {excerpt(name, 50)!r}")
    return name


def name_in(answer: JsonObject, what: str) -> str:
    """Return the valid name in an answer that describes a job or a file."""
    if not isinstance(name := answer.get("name"), str):
        raise InvalidResponse(f"the service did not name {what}")
    return checked(name)


def status_of(operation: JsonObject) -> JobStatus:
    """Return the status of a job from any of the shapes that the service describes it in."""
    metadata = mapping(operation.get("metadata"))
    error = mapping(operation.get("error"))
    state = str(metadata.get("state") or "").removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    if not state.strip():
        state = "FAILED" if error else "SUCCEEDED" if operation.get("done") else "PENDING"
    rows = mapping(metadata.get("batchStats")).get("successfulRequestCount")
    has_answers = str(rows or "0") != "0"
    response = mapping(operation.get("response"))
    places = (metadata.get("output"), response.get("output"), response)
    named = (mapping(place).get("responsesFile") for place in places)
    output = next((name for name in named if isinstance(name, str)), None)
    message = excerpt(str(error.get("message") or ""))
    return JobStatus(excerpt(state, 50), output, message, has_answers)


async def _next_of(pieces: AsyncIterator[bytes]) -> bytes:
    """Return what has come by the end of a line, by 64 KB, or by the end; nothing after that."""
    come = bytearray()
    async for piece in pieces:
        come += piece
        if b"\n" in piece or len(come) >= _STEADY:
            break
    return bytes(come)


async def lines_of(pieces: AsyncIterator[bytes], timeout: float) -> AsyncGenerator[bytes]:
    """Yield the lines of a body without line ends, skipping blank ones.

    Only the current line is kept in memory.

    Args:
        pieces: The body.
        timeout: Seconds in which a line, or 64 KB of it, must arrive.

    Raises:
        TimeoutError: If they do not, however steadily they drip.
        InvalidResponse: If a line is too long.
    """
    rest = bytearray()
    while True:
        with fail_after(timeout):
            piece = await _next_of(pieces)
        searched = len(rest)
        rest += piece
        begin = 0
        while (end := rest.find(b"\n", max(begin, searched))) >= 0:
            if line := bytes(rest[begin:end]).strip():
                yield line
            begin = end + 1
        del rest[:begin]
        if len(rest) > _LONGEST_LINE:
            raise InvalidResponse(f"a line of results is longer than {_LONGEST_LINE // 10**6} MB")
        if not piece:
            break
    if line := bytes(rest).strip():
        yield line
