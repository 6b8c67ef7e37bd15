"""The Gemini client: one prompt in, one image out, over google-genai."""

from ._client import GeminiClient

__all__ = ["GeminiClient"]
