"""Images that an answer names by URL: ``fileData`` parts, fetched in place of inline data.

1. The key goes to the host of the base URL and nowhere else; an image elsewhere is not fetched.
2. The answer is paid for: what cannot be fetched is said in its error, and never asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import pybase64
from anyio import fail_after
from google.genai import errors

from genbatch._client import JsonObject, Secret, excerpt, mapping, with_retries
from genbatch._client.http import cause_of
from genbatch._http import LARGEST_ANSWER, AnswerTooLarge
from genbatch._values import GenbatchError, NoImage

from ._answer import file_parts
from ._translate import THIRD_PARTY, translate

if TYPE_CHECKING:
    import httpx
    import httpx2

_RETRIES = 3
_FILE = re.compile(r"/v\w+/files/[\w-]+", re.ASCII)  # a description of it; its bytes are beside
_PORTS = {"http": 80, "https": 443}

Fetch = Callable[[str], Awaitable[bytes]]


async def fetch_images(answer: JsonObject, fetch: Fetch) -> None:
    """Fetch the images that an answer names by URL, and put them into it."""
    for part in file_parts(answer):
        named = mapping(part["fileData"])
        uri = str(named.get("fileUri") or named.get("file_uri") or "")
        try:
            data = await with_retries(partial(fetch, uri), _RETRIES, bytes)
        except GenbatchError as error:
            part["unfetched"] = str(error)
        else:
            part["inlineData"] = {"data": pybase64.b64encode(data).decode()}


async def fetch_file(
    uri: str,
    http: httpx.AsyncClient | httpx2.AsyncClient,
    *,
    base_url: str | None,
    secret: Secret,
    timeout: float,
) -> bytes:
    """Return the bytes of a file of the service, in one attempt.

    Args:
        uri: As an answer names it.
        http: Sends the request.
        base_url: Of the service; None for one whose files are not fetched.
        secret: The key.
        timeout: Most seconds.

    Raises:
        NoImage: If it is elsewhere than at the service.
        GenbatchError: If it cannot be fetched.
    """
    there = _split(uri)
    if base_url is None or _host(there) != _host(home := urlsplit(base_url)):
        where = excerpt(there.hostname or there.scheme or "no URL", 100)
        raise NoImage(f"the image is a file at {where}, which was not fetched: it is elsewhere")
    what = f"a file at {there.hostname}"
    path, query = there.path, there.query
    if _FILE.fullmatch(path):
        path, query = f"{path}:download", "alt=media"
    url = urlunsplit((home.scheme, home.netloc, path, query, ""))
    headers = {"x-goog-api-key": secret.reveal(), "accept-encoding": "identity"}
    try:
        with fail_after(timeout):
            async with http.stream("GET", url, headers=headers, timeout=None) as answer:
                if answer.status_code != 200:
                    raise errors.APIError(answer.status_code, {}, answer)
                return await _body_of(answer)
    except THIRD_PARTY as exc:
        error = translate(exc, model=what, timeout=timeout, secret=secret)
        error.__cause__ = cause_of(exc, secret)
    raise error


async def _body_of(answer: Any) -> bytes:
    body = bytearray()
    async with aclosing(answer.aiter_bytes()) as pieces:  # or trio warns of one left early
        async for piece in pieces:
            body += piece
            if len(body) > LARGEST_ANSWER:
                raise AnswerTooLarge(f"it is larger than {LARGEST_ANSWER // 2**20} MB")
    return bytes(body)


def _split(uri: str) -> SplitResult:
    try:
        split = urlsplit(uri)
        _host(split)
    except ValueError:  # a malformed host or port
        return SplitResult("", "", "", "", "")
    return split


def _host(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)
