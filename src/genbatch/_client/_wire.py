"""What is sent and received besides HTTP: the key, the URL, JSON, and images.

No JSON that a server sends, however wrong, raises anything but a GenbatchError. Where the strict
parser refuses, a lenient one goes on, since the image inside is paid for.
"""

from __future__ import annotations

import hmac
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import pybase64
from anyio import to_thread
from pydantic_core import from_json

from genbatch._values import (
    FAKE_HEADER,
    DamagedImage,
    Image,
    ImageRequest,
    InvalidResponse,
    Unauthorized,
    check_type,
    is_reference,
    is_whole,
    sniff_input_type,
    sniff_mime_type,
)

JsonObject: TypeAlias = dict[str, Any]

# Parsing blocks the event loop, for about a microsecond per value. Images have no commas.
_MOST_COMMAS = 100_000
_OF_PAGE = 10_000  # characters of a page of HTML
MOST_TOKENS = 2_000_000  # a larger count, or one below zero, is none
_IMAGES = ("data", "b64_json")  # the fields that have the base64 of an image
_PATIENCE = 5.0  # seconds for a server on this machine
_FROM_URL_SAFE = str.maketrans("-_", "+/")


class Secret:
    """An API key or token that shows only when it is asked for.

    Args:
        key: The key; blank for a token that has not been fetched yet.
        name: What messages call it.
    """

    __slots__ = ("_keys", "name")

    def __init__(self, key: str = "", *, name: str = "API key") -> None:
        self._keys: tuple[str, ...] = (key,)
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def reveal(self) -> str:
        """Return the key."""
        return self._keys[0]

    def fingerprint(self, salt: str, *with_it: object) -> str:
        """Return what tells this key, with what else is given, from others, and no key itself."""
        text = repr((self._keys[0], *with_it))
        return hmac.digest(salt.encode(), text.encode(), "sha256").hex()[:16]

    def renew(self, key: str) -> None:
        """Replace the key. The last one stays hidden too: calls under way may still use it.

        Raises:
            ValueError: If it has characters that an HTTP header cannot carry.
        """
        self._keys = (_sendable(key, self.name), *self._keys[:1])

    def hide(self, text: str) -> str:
        """Return text with the key masked: a server may echo it."""
        for key in self._keys:
            # A shorter key is a stand-in from a test; replacing it would only garble the text.
            if len(key) >= 8:
                text = text.replace(key, f"[{self.name}]")
        return text


def _sendable(key: str, name: str) -> str:
    if any(not "!" <= character <= "~" for character in key):
        raise ValueError(
            f"the {name} has characters that cannot be sent in an HTTP header: copy it again"
        )
    return key


def find_key(api_key: str | None, environ: Mapping[str, str], *names: str) -> Secret:
    """Return the first key that is not blank: the argument, then the variables by these names.

    Raises:
        Unauthorized: If there is none.
        ValueError: If it has characters that an HTTP header cannot carry.
        TypeError: If it is not a string.
    """
    if api_key is not None:
        check_type("api_key", api_key, str)
    for key in (api_key, *map(environ.get, names)):
        if key and key.strip():
            return Secret(_sendable(key.strip(), "API key"))
    first, *others = names
    also = "".join(f" (or {name})" for name in others)
    raise Unauthorized(f"no API key: set {first}{also}, or pass api_key=")


def find_base_url(
    base_url: str | None, environ: Mapping[str, str], name: str, *, like: str
) -> str | None:
    """Return the URL of a service, None where neither the argument nor the environment has one.

    Args:
        base_url: Where blank, the variable is read.
        environ: The environment.
        name: Of its variable.
        like: An example, for messages.

    Raises:
        ValueError: If the key could leave the machine unencrypted, or the URL is malformed.
        TypeError: If it is not a string.
    """
    if base_url is not None:
        check_type("base_url", base_url, str)
    url = (base_url or environ.get(name) or "").strip()
    if not url:
        return None
    parts = urlsplit(url)
    # Checked first: the messages below show the URL, and this may hold a password.
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("base_url must have no user, query or fragment")
    if not url.isprintable() or " " in url or not parts.hostname or parts.port == 0:
        raise ValueError(f"base_url must be like {like}, got {url!r}")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError(f"base_url must be https (http only for loopback), got {url!r}")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_fake(base_url: str | None) -> bool:
    """Return whether the server at a URL says that it is a fake one; this blocks.

    Fakes serve their own machine only: no other server is asked. One that cannot be reached may
    have been a fake: nothing is to be made by it now.
    """
    parts = urlsplit(base_url or "")
    if parts.scheme != "http" or parts.hostname is None or not _is_loopback(parts.hostname):
        return False
    from http.client import HTTPConnection, HTTPException  # slow, and seldom needed

    with closing(HTTPConnection(parts.hostname, parts.port, timeout=_PATIENCE)) as connection:
        try:
            connection.request("GET", "/stats")
            return connection.getresponse().headers.get(FAKE_HEADER) is not None
        except OSError:
            return True
        except HTTPException:
            return False


def check_options(
    max_retries: int, timeout: float | None, http_client: object, *, trust_env: bool
) -> None:
    """Refuse options of a client that are out of range or contradict each other.

    Raises:
        ValueError: If max_retries or timeout is out of range, trust_env is given beside
            http_client, or that follows redirects: the key would go along to any host.
        TypeError: If http_client is not an AsyncClient, or a number is none.
    """
    check_type("max_retries", max_retries, int)
    if timeout is not None:
        check_type("timeout", timeout, float)
    if max_retries < 0:
        raise ValueError(f"max_retries must be >= 0, got {max_retries}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be > 0, got {timeout}")
    if http_client is None:
        return
    if not inspect.iscoroutinefunction(getattr(http_client, "send", None)):
        name = type(http_client).__name__
        raise TypeError(f"http_client must be an httpx or httpx2 AsyncClient, got {name}")
    if getattr(http_client, "follow_redirects", False):
        raise ValueError("http_client must have follow_redirects=False: redirects get the API key")
    if trust_env:
        raise ValueError("give trust_env or http_client, not both")


def parse_answer(body: str | bytes, model: str, hide: Callable[[str], str] = str) -> JsonObject:
    """Return the JSON object in body.

    Args:
        body: The answer.
        model: Full id of the model, for the message.
        hide: Applied to every string but the images' data, which is never shown.

    Raises:
        InvalidResponse: If it is not an object, or has far more values than an answer should. The
            message shows how it begins.
    """
    if _has_too_many_commas(body):
        message = f"{model} sent an answer of more than {_MOST_COMMAS:,} values"
        raise InvalidResponse(message, status=200, maybe_paid=True)
    try:
        return _object(_shown(from_json(body, cache_strings="keys"), hide))
    # The image is paid for: a stray byte or half a character in the text beside it, which the fast
    # and strict parser refuses, must not lose it. Garbage may be nested too deeply for either.
    except (ValueError, RecursionError):
        if _is_page(body):  # only how it begins is shown, and it may be large
            body = body[:_OF_PAGE]
        text = body if isinstance(body, str) else body.decode("utf-8-sig", "replace")
        body = text = hide(text)  # both names: tracebacks hold them
    try:
        return _object(json.loads(text))
    except (ValueError, RecursionError) as exc:
        shown = excerpt(text) or "an empty body"
        # The error may be kept for long, and with it its frames, its cause, and that one's frames.
        body = text = ""
        exc.__traceback__ = exc.__context__ = None
        if isinstance(exc, json.JSONDecodeError):
            exc.doc = ""
        message = f"{model} sent an answer that is not JSON: {shown}"
        error = InvalidResponse(message, status=200, maybe_paid=True)
        if shown.startswith("<"):  # a page of something in between, such as a login
            error.scope = "service"
        raise error from exc


def _is_page(body: str | bytes) -> bool:
    return body[:_OF_PAGE].lstrip()[:1] in ("<", b"<")


def _has_too_many_commas(body: str | bytes) -> bool:
    # Where there are few, finding each is a tenth of the work of counting them.
    find = partial(body.find, "," if isinstance(body, str) else b",")  # type: ignore[arg-type]
    at = -1
    for _ in range(_MOST_COMMAS + 1):
        if (at := find(at + 1)) < 0:
            return False
    return True


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} in place of an object")
    return value


def _shown(value: Any, hide: Callable[[str], str]) -> Any:
    """Return value with hide applied to its strings, except the images' data."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_shown(item, hide) for item in value]
    if isinstance(value, dict):
        return {
            name: each if name in _IMAGES and isinstance(each, str) else _shown(each, hide)
            for name, each in value.items()
        }
    return value


def mapping(value: object) -> JsonObject:
    """Return value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[JsonObject]:
    """Return the objects in value if it is a list, else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def excerpt(text: str, length: int = 200) -> str:
    """Return the beginning of text on one line, without control characters."""
    # Cut twice: a body may be megabytes, and joining its words shortens it.
    printable = "".join(c if c.isprintable() else " " for c in text[: 5 * length])
    line = " ".join(printable.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def images_of(inline: list[object], model: str) -> tuple[list[Image], str, list[bytes]]:
    """Return the valid ones of images in base64, whatever types the answer claims.

    Returns:
        The images; what is wrong with the first invalid one; the bytes of those that have any.
    """
    images: list[Image] = []
    damaged: list[bytes] = []
    reason = ""
    for encoded in inline:
        try:
            data = _decoded(encoded)
        except ValueError:
            data, mime_type, wrong = str(encoded).encode(), None, "its base64 is broken"
        else:
            mime_type = sniff_mime_type(data)
            wrong = _what_is_wrong(data, mime_type)
        if mime_type and not wrong:
            images.append(Image(data, mime_type, model))
        else:
            reason = reason or wrong
            damaged += [data] if data else []
    return images, reason, damaged


def no_whole_image(
    model: str,
    reason: str,
    damaged: list[bytes],
    cost: float | None,
    images: int,
    request_id: str | None,
) -> InvalidResponse:
    """Return the error of an answer all of whose images are invalid.

    Args:
        model: Full id, for the message.
        reason: What is wrong with the first, as images_of returns it.
        damaged: The bytes of those that have any.
        cost: US dollars for all that came, None where unknown.
        images: How many came.
        request_id: The service's id of the answer.
    """
    message = f"{model} sent an invalid image: {reason}"
    kind = DamagedImage if damaged else InvalidResponse
    error = kind(message, status=200, request_id=request_id, maybe_paid=True)
    if isinstance(error, DamagedImage):
        error.data, error.cost, error.images = damaged[0], cost, images
    return error


def _what_is_wrong(data: bytes, mime_type: str | None) -> str:
    if not data:
        return "it has no bytes"
    if mime_type is None:
        return "it is not a PNG, JPEG, WebP or GIF"
    return "" if is_whole(data, mime_type) else "it is cut off"


def _decoded(encoded: object) -> bytes:
    """Return the bytes of base64 as servers send it, or none if encoded is not a string.

    Raises:
        ValueError: If it is not base64.
    """
    if not isinstance(encoded, str):
        return b""
    if encoded.startswith("data:"):  # a data URL, as some servers send it
        encoded = encoded.partition(",")[2]
    try:
        return pybase64.b64decode(encoded, validate=True)
    except ValueError:
        # It may have newlines, the URL-safe alphabet, or no padding.
        plain = "".join(encoded.split()).translate(_FROM_URL_SAFE).rstrip("=")
        return pybase64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


async def read_images(request: ImageRequest, limiter: anyio.CapacityLimiter) -> ImageRequest:
    """Return a request whose input images are bytes, or names of those that the service has.

    Args:
        request: To be sent.
        limiter: Bounds the threads that read files.

    Raises:
        ValueError: If an input image is not an image.
        OSError: If one cannot be read.
    """
    if not request.images:
        return request
    images = await to_thread.run_sync(_read_images, request.images, limiter=limiter)
    return replace(request, images=images)


def _read_images(sources: tuple[bytes | str | Path, ...]) -> tuple[bytes | str, ...]:
    return tuple(_read_image(source, number) for number, source in enumerate(sources, 1))


def _read_image(source: bytes | str | Path, number: int) -> bytes | str:
    if isinstance(source, str) and is_reference(source):
        return source
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if sniff_input_type(data) is None:
        name = f"input image {number}" if isinstance(source, bytes) else str(source)
        raise ValueError(f"{name} is not a PNG, JPEG, WebP, HEIC or HEIF image")
    return data
