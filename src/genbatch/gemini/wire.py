"""What speaks with the service by google-genai and httpx, whose import takes a while."""

from genbatch._client.http import showable, without_frames

from ._sdk import Wire, json_of
from ._translate import THIRD_PARTY, error_within, of_status, refused, translate

__all__ = [
    "THIRD_PARTY",
    "Wire",
    "error_within",
    "json_of",
    "of_status",
    "refused",
    "showable",
    "translate",
    "without_frames",
]
