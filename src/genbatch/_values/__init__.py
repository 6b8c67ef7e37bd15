"""The values that everything else speaks of: prompts, images and errors."""

from genbatch._core import GenbatchError, Stopped

from ._errors import (
    Blocked,
    BudgetExhausted,
    DamagedImage,
    ImageMissing,
    InvalidResponse,
    NoImage,
    QuotaExhausted,
    RateLimited,
    Rejected,
    StoreError,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from ._image import (
    EXTENSIONS,
    UNKNOWN_EXTENSION,
    Image,
    SavedImage,
    Usage,
    dimensions,
    extension_of,
    is_whole,
    sniff_input_type,
    sniff_mime_type,
)
from ._request import ImageRequest, ImageSettings, Prompt, takes_settings

__all__ = [
    "EXTENSIONS",
    "UNKNOWN_EXTENSION",
    "Blocked",
    "BudgetExhausted",
    "DamagedImage",
    "GenbatchError",
    "Image",
    "ImageMissing",
    "ImageRequest",
    "ImageSettings",
    "InvalidResponse",
    "NoImage",
    "Prompt",
    "QuotaExhausted",
    "RateLimited",
    "Rejected",
    "SavedImage",
    "Stopped",
    "StoreError",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "Usage",
    "dimensions",
    "extension_of",
    "is_whole",
    "sniff_input_type",
    "sniff_mime_type",
    "takes_settings",
]
