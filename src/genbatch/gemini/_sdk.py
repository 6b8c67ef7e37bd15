"""Attempts through google-genai. Slow to import, so only an opening client does it.

The SDK builds the request and reads errors. It hands the body of an answer over unread: its own
reading warns about enum values it does not know, and parses images slowly.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

import httpx
from anyio import fail_after
from google import genai
from google.genai import types

from genbatch._values import GenbatchError, ImageRequest, InvalidResponse

from ._config import config_of, contents_of
from ._json import JsonObject, parse_answer
from ._sdk_types import Nowhere, build, client_to
from ._settings import Secret
from ._translate import THIRD_PARTY, showable, translate, without_frames
from ._transport import LaneClient, open_http_client, set_aside
from ._turns import Turns

if TYPE_CHECKING:
    import httpx2

    from ._credentials import Access


class Wire:
    """An open client of the SDK and the connections under it.

    Args:
        secret: The key.
        base_url: Where to send it; None for where the SDK does.
        http_client: Stays the caller's; None opens one of our own.
        timeout: Seconds an attempt may take in all.
        access: To Vertex, where that is called; the key is then its token.
        trust_env: Whether connections of our own take proxies from the environment.

    Raises:
        ValueError: If a proxy of the environment cannot be used.
    """

    def __init__(
        self,
        secret: Secret,
        base_url: str | None,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None,
        timeout: float,
        access: Access | None = None,
        *,
        trust_env: bool = False,
    ) -> None:
        self._secret = secret
        self._access = access
        self._timeout = timeout
        self._turns = Turns()
        self._owned: LaneClient | None = None
        if http_client is None:
            self._owned = open_http_client(self._turns, trust_env=trust_env)
        options = types.HttpOptions(
            httpx_async_client=self._owned or http_client,
            # Not used. The one the SDK would build reads proxies from the environment.
            httpx_client=httpx.Client(transport=httpx.BaseTransport()),
            base_url=base_url,
            api_version="v1beta" if access is None else "v1beta1",
            timeout=None if math.isinf(timeout) else math.ceil(timeout * 1000),
        )
        with _no_warning_about_two_keys():
            build()
            if access is None:
                key = secret.reveal()
                self._sdk = genai.Client(api_key=key, vertexai=False, http_options=options)
            else:
                self._sdk = genai.Client(
                    vertexai=True,
                    project=access.project,
                    location=access.location,
                    credentials=access.for_sdk,
                    http_options=options,
                )

    @property
    def certificates(self) -> ssl.SSLContext | None:
        """Those that connections of our own trust, None where there are none."""
        return None if self._owned is None else self._owned.certificates

    async def ask(self, request: ImageRequest) -> JsonObject:
        """Make one attempt.

        Returns:
            The answer's JSON. Nothing awaits after its last byte, so no cancellation can take it
            away.

        Raises:
            TimedOut: If the answer is not whole in time, however steadily it drips.
            GenbatchError: If the service or the way to it failed.
        """
        if self._access is not None:
            await self._access.ensure_fresh()
        await self._turns.take()
        # Built outside the try: a setting of the wrong type is the caller's mistake.
        contents, config = contents_of(request), config_of(request)
        try:
            with fail_after(self._timeout), set_aside() as aside:
                answer = await self._sdk.aio.models.generate_content(
                    model=request.model, contents=contents, config=config
                )
        except THIRD_PARTY as exc:
            error = self._translate(exc, request.model)
        else:
            assert answer.sdk_http_response is not None  # noqa: S101 - narrows the type
            if aside.body is None:  # a client that is not ours
                aside.body = answer.sdk_http_response.body
            del answer  # or an error's traceback would hold the body as it was sent
            return parse_answer(aside.take(), request.model, self._secret.hide)
        # Outside the except clause, so that a cause that shows the key is not even the context.
        raise error

    async def list_models(self, token: str | None) -> tuple[list[str], str | None]:
        """Ask for one page of the models there are, in one attempt.

        Args:
            token: Of the page; None for the first.

        Returns:
            Ids of those that answer generateContent, and the token of the next page if any.

        Raises:
            GenbatchError: If the service or the way to it failed.
        """
        if self._access is not None:
            await self._access.ensure_fresh()
        config = types.ListModelsConfig(page_size=1000, page_token=token)
        try:
            with fail_after(self._timeout):
                page = await self._sdk.aio.models.list(config=config)
        except THIRD_PARTY as exc:
            error = self._translate(exc, "the service")
            error.maybe_paid = False  # lists are free
        # The SDK trusts a list of models to have the right shape.
        except (AttributeError, KeyError, TypeError):
            error = InvalidResponse("the service sent a list of models that is none")
        else:
            names = [
                (model.name or "").rpartition("models/")[2]
                for model in page.page
                # Vertex does not say what a model answers.
                if "generateContent" in (model.supported_actions or ["generateContent"])
            ]
            return names, page.config.get("page_token") or None
        raise error

    def _translate(self, exc: Exception, model: str) -> GenbatchError:
        error = translate(exc, model=model, timeout=self._timeout, secret=self._secret)
        error.__cause__ = without_frames(exc) if showable(exc, self._secret) else None
        return error

    async def aclose(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owned is not None:
            await self._owned.aclose()


@cache
def bodies() -> Bodies:
    """Return what makes the JSON of requests; the first time this blocks for some 20 ms."""
    return Bodies()


class Bodies:
    """Makes the JSON that attempts send, without sending it; from any thread."""

    def __init__(self) -> None:
        self._http_client = Nowhere(transport=httpx.BaseTransport())
        self._lock = Lock()
        with _no_warning_about_two_keys():
            self._sdk = client_to(self._http_client)

    def of(self, request: ImageRequest) -> bytes:
        """Return the JSON of a request, on one line.

        Raises:
            ValueError: As config_of.
        """
        contents, config = contents_of(request), config_of(request)
        with self._lock:
            self._sdk.models.generate_content(model=request.model, contents=contents, config=config)
            return self._http_client.content


@contextmanager
def _no_warning_about_two_keys() -> Iterator[None]:
    """Keep the SDK from warning that it takes GOOGLE_API_KEY: it takes the key it is given."""

    def other_than_that(record: logging.LogRecord) -> bool:
        return "Both GOOGLE_API_KEY and GEMINI_API_KEY" not in record.getMessage()

    logger = logging.getLogger("google_genai._api_client")
    logger.addFilter(other_than_that)
    try:
        yield
    finally:
        logger.removeFilter(other_than_that)
