"""Attempts through google-genai. Slow to import, so only an opening client does it.

The SDK builds the request and reads errors. It hands the body of an answer over unread: its own
reading warns about enum values it does not know, and parses images slowly.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from anyio import fail_after
from google import genai
from google.genai import types

from ._config import config_of, contents_of
from ._json import JsonObject, parse_answer
from ._request import ImageRequest
from ._settings import Secret
from ._translate import THIRD_PARTY, showable, translate, without_frames
from ._transport import open_http_client

if TYPE_CHECKING:
    import httpx2


class Wire:
    """An open client of the SDK and the connections under it.

    Args:
        secret: The key.
        base_url: Where to send it.
        http_client: Stays the caller's; None opens one of our own.
        timeout: Seconds an attempt may take in all.
    """

    def __init__(
        self,
        secret: Secret,
        base_url: str,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None,
        timeout: float,
    ) -> None:
        self._secret = secret
        self._timeout = timeout
        self._owned = open_http_client() if http_client is None else None
        options = types.HttpOptions(
            httpx_async_client=self._owned or http_client,
            # Not used. The one the SDK would build reads proxies from the environment.
            httpx_client=httpx.Client(transport=httpx.BaseTransport()),
            base_url=base_url,
            api_version="v1beta",
            timeout=None if math.isinf(timeout) else math.ceil(timeout * 1000),
        )
        with _no_warning_about_two_keys():
            self._sdk = genai.Client(api_key=secret.reveal(), vertexai=False, http_options=options)

    async def ask(self, request: ImageRequest) -> JsonObject:
        """Make one attempt.

        Returns:
            The answer's JSON. Nothing awaits after the SDK has read it, so a cancellation
            cannot take it away.

        Raises:
            TimeoutError: If the answer is not whole in time, however steadily it drips.
            GenbatchError: If the service or the way to it failed.
        """
        # Built outside the try: a setting of the wrong type is the caller's mistake.
        contents, config = contents_of(request), config_of(request)
        try:
            with fail_after(self._timeout):
                answer = await self._sdk.aio.models.generate_content(
                    model=request.model, contents=contents, config=config
                )
        except THIRD_PARTY as exc:
            error = self._translate(exc, request.model)
        else:
            assert answer.sdk_http_response is not None  # noqa: S101 - narrows the type
            body = self._secret.hide(answer.sdk_http_response.body or "")
            del answer  # or an error's traceback would hold the body as it was sent
            return parse_answer(body, request.model)
        # Outside the except clause, so that a cause that shows the key is not even the context.
        raise error

    def _translate(self, exc: Exception, model: str) -> Exception:
        error = translate(exc, model=model, timeout=self._timeout, secret=self._secret)
        error.__cause__ = without_frames(exc) if showable(exc, self._secret) else None
        return error

    async def aclose(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owned is not None:
            await self._owned.aclose()


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
