"""Prompts in, images out: at most k calls at once, exactly one outcome per prompt."""

from ._errors import (
    Blocked,
    GenbatchError,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    RateLimited,
    Rejected,
    StoreError,
    Unauthorized,
    Unavailable,
)
from ._image import Image, SavedImage, Usage
from ._images import generate_images
from ._outcome import Failure, Outcome, Success
from ._progress import Progress
from ._prompt import Prompt
from ._store import Store
from ._stream import OutcomeStream, collect, stream
from .gemini import GeminiClient

__all__ = [
    "Blocked",
    "Failure",
    "GeminiClient",
    "GenbatchError",
    "Image",
    "InvalidResponse",
    "NoImage",
    "Outcome",
    "OutcomeStream",
    "Progress",
    "Prompt",
    "QuotaExhausted",
    "RateLimited",
    "Rejected",
    "SavedImage",
    "Store",
    "StoreError",
    "Success",
    "Unauthorized",
    "Unavailable",
    "Usage",
    "collect",
    "generate_images",
    "stream",
]
