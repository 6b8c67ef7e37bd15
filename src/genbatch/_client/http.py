"""HTTP for the clients of services: connections, and what goes wrong as genbatch's errors.

Slow to import: the HTTP libraries are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2

from genbatch._http import ConnectionStack, most_connections
from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    QuotaExhausted,
    RateLimited,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
)

from ._wire import Secret, excerpt


def _named(*names: str) -> tuple[type[Exception], ...]:
    """Return the exceptions of these names in every HTTP library.

    httpcore's too: a caller's own transport may let them through.
    """
    libraries = (httpx, httpx2, httpcore, httpcore2)
    return tuple(
        getattr(library, name) for library in libraries for name in names if hasattr(library, name)
    )


# What an attempt may raise. ValueError and RecursionError: of the JSON of error answers.
# OSError: timeouts, and sockets httpx left untranslated.
LOST: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    RecursionError,
    *_named("HTTPError", "NetworkError", "ProtocolError", "ProxyError", "TimeoutException"),
    *_named("UnsupportedProtocol"),
)
_TIMEOUTS: tuple[type[Exception], ...] = (TimeoutError, *_named("TimeoutException"))
_GARBAGE: tuple[type[Exception], ...] = (ValueError, RecursionError, *_named("DecodingError"))
# The request was not fully sent, so there was nothing to bill.
_UNSENT = _named(
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "WriteError",
    "WriteTimeout",
)


class HttpWire:
    """The connections of an open client, its own ones or a caller's client.

    Args:
        http_client: Stays the caller's; None opens one.
        trust_env: Whether our own connections use the proxies of the environment.

    Attributes:
        stack: The connections, None where they are the caller's.
        http: Sends requests over them.

    Raises:
        ValueError: If a proxy of the environment cannot be used.
    """

    def __init__(
        self, http_client: httpx.AsyncClient | httpx2.AsyncClient | None, *, trust_env: bool
    ) -> None:
        self.stack: ConnectionStack | None = None
        self.http: Any = http_client
        if http_client is None:
            self.stack = ConnectionStack(trust_env=trust_env, most=most_connections())
            self.http = self.stack.client()

    @property
    def most_connections(self) -> float:
        """Most connections at once, infinite where they are the caller's."""
        return math.inf if self.stack is None else self.stack.most

    def room(self) -> AbstractAsyncContextManager[None]:
        """Wait until there may be one more connection, and keep that for the block."""
        return nullcontext() if self.stack is None else self.stack.room()

    async def turn(self) -> None:
        """Wait until a request may be made; see ConnectionStack.turn."""
        if self.stack is not None:
            await self.stack.turn()

    async def aclose(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self.stack is not None:
            await self.http.aclose()


def error_of(exc: Exception, *, model: str, timeout: float, secret: Secret) -> GenbatchError:
    """Return genbatch's error for what HTTP raised in an attempt.

    Args:
        exc: One of LOST.
        model: Full id of the model, for the message.
        timeout: Seconds the attempt had, for the message.
        secret: The key, masked in the message.
    """
    if isinstance(exc, _TIMEOUTS):
        message = f"no answer from {model} within {timeout:g} s"
        return TimedOut(message, maybe_paid=not isinstance(exc, _UNSENT))
    reason = excerpt(secret.hide(str(exc))) or type(exc).__name__
    if isinstance(exc, _GARBAGE):
        return InvalidResponse(f"{model} sent an unreadable answer: {reason}", maybe_paid=True)
    if isinstance(exc, _UNSENT):
        error = Unavailable(f"the service could not be reached: {reason}")
        error.is_reached = False
        return error
    return Unavailable(f"the connection to {model} was lost: {reason}", maybe_paid=True)


def error_of_status(status: int, message: str, model: str) -> GenbatchError:
    """Return the error for an HTTP status, as every service means it, and the message with it."""
    message = excerpt(message)
    if status == 402:
        return QuotaExhausted(f"{model} takes no more calls until it is paid for: {message}")
    if status == 429:
        return RateLimited(f"too many calls of {model}: {message}")
    if status in (401, 403):
        return Unauthorized(f"{model} refused the API key ({status}): {message}")
    if status == 408 or status >= 500:
        return Unavailable(f"{model} is not available ({status}): {message}")
    if status < 300:
        return InvalidResponse(
            f"{model} sent an unexpected answer ({status}): {message}", maybe_paid=True
        )
    if status < 400:
        error = Rejected(f"a redirect of {model} ({status}) was not followed: correct the base URL")
        error.scope = "service"
        return error
    error = Rejected(f"{model} refused the request ({status}): {message}")
    if status == 404:
        error.scope = "model"
    return error


def cause_of(exc: Exception, secret: Secret) -> BaseException | None:
    """Return exc without its frames as the cause of an error, None if it shows the key."""
    return without_frames(exc) if showable(exc, secret) else None


def showable(exc: BaseException, secret: Secret) -> bool:
    """Return whether neither exc nor its causes show the key, so that it can be chained."""
    return all(secret.hide(text) == text for text in map(str, _chain(exc)))


def without_frames(exc: BaseException) -> BaseException:
    """Remove the tracebacks of exc and its causes, and return it.

    The frames hold the request with its input images, and show the key to any tool that prints
    local variables.
    """
    for each in _chain(exc):
        each.__traceback__ = None
    return exc


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def delay_in(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the header Retry-After asks to wait, None without one."""
    header = headers.get("retry-after", "")
    seconds = seconds_of(header)
    return _seconds_between(headers.get("date", ""), header) if seconds is None else seconds


def seconds_of(text: str) -> float | None:
    """Return a number of seconds that a text is, None if it is none that can be waited."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_between(date: str, later: str) -> float | None:
    """Return the seconds between two HTTP dates of the server, whose clock may differ from ours."""
    try:
        delta = parsedate_to_datetime(later) - parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return max(0.0, delta.total_seconds())
