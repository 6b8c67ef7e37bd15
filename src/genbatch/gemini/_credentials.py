"""Google credentials for Vertex: a token that is fresh whenever a call is sent.

Slow to import, so it is imported only when a client for Vertex is opened.

1. A token is replaced 600 s before it expires, or halfway through a shorter life: metadata servers
   hand out the token they have, which must not mean a refresh for each call.
2. One refresh serves every call that waits for it. If it fails, all of them fail with its error,
   and the next call tries again.
3. It runs in a thread that a cancelled call leaves running; the next call waits for it.
4. The SDK is given credentials that only carry the token and never expire. Otherwise it would
   refresh them itself, with asyncio, under trio too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import anyio
import google.auth
import google.oauth2.credentials
from anyio import to_thread
from google.auth.credentials import Credentials, with_scopes_if_required
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import Request

from genbatch._client import Secret, excerpt
from genbatch._values import GenbatchError, Unauthorized, Unavailable

from ._client import Vertex, check_project

AHEAD = 600.0  # seconds between the replacement of a token and its expiry
_REQUEST_TIMEOUT = (
    30.0  # seconds; google-auth's own two minutes are too long to keep a call waiting
)
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_NONE = "no Google credentials{}: run 'gcloud auth application-default login' or pass credentials="
_EXPRESS = (
    "; Vertex with an API key (express mode) is not supported: to use the key with the Gemini API, "
    "set GOOGLE_GENAI_USE_ENTERPRISE=false or pass vertexai=False"
)


class Access:
    """Access to Vertex for one project, kept fresh.

    Finding credentials may block for seconds: construct it in a thread.

    Args:
        vertex: Project and credentials; None in it stands for the machine's defaults.
        secret: Holds the token and masks it in messages.
        threads: Bounds the threads that refresh.

    Attributes:
        project: Its id or number.
        location: Where to call.
        for_sdk: Carries the token for the SDK; of no other use.

    Raises:
        Unauthorized: If there are no credentials.
        ValueError: If there is no project.
    """

    def __init__(self, vertex: Vertex, secret: Secret, threads: anyio.CapacityLimiter) -> None:
        self._credentials, found = _find(vertex.credentials)
        project = vertex.project or found
        if not project:
            missing = "no Google Cloud project: pass project= or set GOOGLE_CLOUD_PROJECT"
            raise ValueError(missing + _about_a_key())
        check_project(project)
        self.project = project
        self.location = vertex.location
        quota_project = getattr(self._credentials, "quota_project_id", None)
        self.for_sdk = google.oauth2.credentials.Credentials(  # type: ignore[no-untyped-call]
            token=None, quota_project_id=quota_project
        )
        self._secret = secret
        self._threads = threads
        # Made in a thread, it belongs to no event loop until its first use.
        self._lock = anyio.Lock()
        self._refreshing = threading.Lock()
        self._stale_at = 0.0  # by time.monotonic(): wall clocks jump
        self._refreshes = 0
        self._failure: Callable[[], GenbatchError] | None = None
        if self._credentials.token:
            self._take_token(of_unknown_age=True)

    async def ensure_fresh(self) -> None:
        """Return once the token is fresh.

        Raises:
            Unauthorized: If the credentials are refused.
            Unavailable: If they cannot be refreshed for now.

        Cancellation: Leaves at once; other waiting calls are not affected.
        """
        if time.monotonic() < self._stale_at:
            return
        seen = self._refreshes
        async with self._lock:
            if self._refreshes == seen:
                refresh = partial(self._refresh, seen)
                await to_thread.run_sync(refresh, abandon_on_cancel=True, limiter=self._threads)
        if self._failure is not None:
            raise self._failure()

    def _refresh(self, seen: int) -> None:
        # A thread left by a cancelled call may still be refreshing.
        with self._refreshing:
            if self._refreshes != seen:
                return
            try:
                request = partial(Request(), timeout=_REQUEST_TIMEOUT)
                self._credentials.refresh(request)  # type: ignore[no-untyped-call]
                self._take_token()
                self._failure = None
            # Credentials may be anybody's code. Their error is not chained: its frames hold
            # secrets, and it is raised once for each waiting call.
            except Exception as exc:  # noqa: BLE001
                self._failure = self._translate(exc)
            finally:
                self._refreshes += 1

    def _take_token(self, *, of_unknown_age: bool = False) -> None:
        token, expiry = self._credentials.token, self._credentials.expiry
        if not token:
            raise ValueError("they have no token")
        self._secret.renew(token)
        self.for_sdk.token = token
        left = float("inf") if expiry is None else _seconds_until(expiry)
        ahead = AHEAD if left > AHEAD or of_unknown_age else left / 2
        self._stale_at = time.monotonic() + left - ahead

    def _translate(self, exc: Exception) -> Callable[[], GenbatchError]:
        said = exc.args[0] if exc.args and isinstance(exc.args[0], str) else type(exc).__name__
        for name in ("token", "refresh_token", "client_secret"):
            if isinstance(secret := getattr(self._credentials, name, None), str) and secret:
                said = said.replace(secret, f"[{name}]")
        passing = isinstance(exc, (TransportError, OSError)) or (
            isinstance(exc, GoogleAuthError) and exc.retryable
        )
        if passing:
            return partial(Unavailable, f"Google credentials not refreshed: {excerpt(said)}")
        return partial(Unauthorized, f"Google credentials were refused: {excerpt(said)}")


def _find(credentials: Credentials | None) -> tuple[Credentials, str | None]:
    """Return credentials for Vertex and their project, None where they have none."""
    if credentials is not None:
        project = getattr(credentials, "project_id", None)
        scoped = with_scopes_if_required(credentials, _SCOPES)  # type: ignore[no-untyped-call]
        return scoped, project if isinstance(project, str) else None
    try:
        return google.auth.default(scopes=_SCOPES)
    except GoogleAuthError as exc:
        # Worth showing only if the user has named a file.
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        reason = f" ({excerpt(str(exc))})" if named else ""
        raise Unauthorized(_NONE.format(reason) + _about_a_key()) from exc


def _about_a_key() -> str:
    """Return what to do with the API key of the environment, nothing without one."""
    has_key = os.environ.get("GEMINI_API_KEY") or os.environ.get("GOOGLE_API_KEY")
    return _EXPRESS if has_key else ""


def _seconds_until(expiry: datetime) -> float:
    """Return the seconds until a time; google-auth gives UTC without a zone."""
    if expiry.tzinfo is None:
        expiry = expiry.replace(tzinfo=UTC)
    return (expiry - datetime.now(UTC)).total_seconds()
