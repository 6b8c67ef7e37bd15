"""The client of OpenAI's Images API, and of the servers that speak it."""

from ._client import OpenAIClient

__all__ = ["OpenAIClient"]
