"""The SDK's types of a request, cheaper to read, and built before they are needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import httpx
from google import genai
from google.genai import types


class Content(types.Content):
    """What is sent in one turn of a conversation.

    The SDK asks ``name in content`` before it looks for an attribute of that name. Its own types
    have no such test, so Python walks through all their fields, finds pairs that equal no name,
    and says no. Asked fifty times for each request, that is half of what the SDK costs.
    """

    def __contains__(self, name: object) -> bool:
        return False


class Part(types.Part):
    """A text or an image in a Content."""

    def __contains__(self, name: object) -> bool:
        return False


class Config(types.GenerateContentConfig):
    """How an image is made."""

    def __contains__(self, name: object) -> bool:
        return False


class Nowhere(httpx.Client):
    """Sends nothing, and unlike a client does not log that it asked the service for something.

    Attributes:
        content: Body of the last request that was not sent.
    """

    content = b""

    def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
        self.content = request.read()
        return httpx.Response(200, content=b"{}", request=request)


@cache
def build() -> None:
    """Make a call that goes nowhere: it builds all types of one.

    They are built when they are first used, which would stall the event loop for 50 ms.
    """
    with Nowhere(transport=httpx.BaseTransport()) as http_client:
        client_to(http_client).models.generate_content(
            model="none",
            contents=Content(role="user", parts=[Part(text="none")]),
            config=Config(
                should_return_http_response=True,
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            ),
        )


def client_to(http_client: httpx.Client) -> genai.Client:
    """Return a client of the SDK that sends its requests to an HTTP client."""
    unused = httpx.AsyncClient(transport=httpx.AsyncBaseTransport())
    options = types.HttpOptions(httpx_client=http_client, httpx_async_client=unused)
    return genai.Client(api_key="none", vertexai=False, http_options=options)
