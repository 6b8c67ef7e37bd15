"""Prompts in, images out: at most k calls at once, exactly one outcome per prompt."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._outcome import Failure, Outcome, Success
from ._progress import Progress
from ._stream import OutcomeStream, collect, stream

if TYPE_CHECKING:
    from ._errors import (
        Blocked,
        GenbatchError,
        InvalidResponse,
        NoImage,
        QuotaExhausted,
        RateLimited,
        Rejected,
        Stopped,
        StoreError,
        Unauthorized,
        Unavailable,
    )
    from ._image import Image, SavedImage, Usage
    from ._images import generate_images
    from ._prompt import Prompt
    from ._store import Store
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
    "Stopped",
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

# What has to do with images is imported when it is first asked for: the core alone is light.
_HOMES = {
    "GeminiClient": ".gemini",
    "Image": "._image",
    "Prompt": "._prompt",
    "SavedImage": "._image",
    "Store": "._store",
    "Usage": "._image",
    "generate_images": "._images",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "._errors"), __name__), name)
    globals()[name] = value
    return value
