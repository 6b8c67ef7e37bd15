"""Prompts in, images out: at most k calls at once, exactly one outcome per prompt.

Under asyncio or trio:

    async with GeminiClient() as client:  # key from GEMINI_API_KEY or GOOGLE_API_KEY
        async with generate_images(client, prompts, save_dir="out") as outcomes:
            async for outcome in outcomes:
                match outcome:
                    case Success(_, prompt, image):
                        print(prompt, image.path)
                    case Failure(_, prompt, error):
                        print(prompt, error)

Batches: stream hands outcomes over as calls complete, collect returns them in input order. Both run
any ``async def generate(prompt)``. A batch lives inside its block: leaving it ends its calls.

Images: GeminiClient makes one of a prompt, generate_images many, saved in a directory that a later
run resumes from; Store is that directory, ObjectStore a bucket for many processes, and results the
rows of a directory for a data frame. A Prompt brings settings of its own.

Limits: max_concurrent of every batch, a CapacityLimiter shared by several, a Budget in dollars or
images, a Throttle that finds out what the service allows; estimate tells the cost beforehand.

Events: on_event of a client or a batch is called with what becomes of each call; genbatch.events
has their types, genbatch.otel makes spans and metrics of them.

Errors: a prompt's error is data, in its Failure; those of the service are GenbatchErrors.

For tests genbatch.testing has a server that speaks the service's wire, genbatch.gallery makes a
page of images, and ``genbatch --help`` tells of the command line.
"""

from importlib import import_module

TYPE_CHECKING = False  # without typing, which takes longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from ._bucket import ObjectStore
    from ._core import Failure, Outcome, OutcomeStream, Progress, Success, collect, stream
    from ._estimate import Estimate, estimate
    from ._money import Budget
    from ._run import ImageClient, generate_images
    from ._store import Store, results
    from ._throttle import Throttle, throttled
    from ._values import (
        Blocked,
        BudgetExhausted,
        DamagedImage,
        GenbatchError,
        Image,
        ImageMissing,
        ImageRequest,
        ImageSettings,
        InvalidResponse,
        NoImage,
        Prompt,
        QuotaExhausted,
        RateLimited,
        Rejected,
        SavedImage,
        Stopped,
        StoreError,
        TimedOut,
        Unauthorized,
        Unavailable,
        Usage,
    )
    from .gemini import GeminiClient

__all__ = [
    "Blocked",
    "Budget",
    "BudgetExhausted",
    "DamagedImage",
    "Estimate",
    "Failure",
    "GeminiClient",
    "GenbatchError",
    "Image",
    "ImageClient",
    "ImageMissing",
    "ImageRequest",
    "ImageSettings",
    "InvalidResponse",
    "NoImage",
    "ObjectStore",
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
    "Throttle",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "Usage",
    "collect",
    "estimate",
    "generate_images",
    "results",
    "stream",
    "throttled",
]

# Imported when it is first asked for: the core alone is light, and the command line has to be there
# before Ctrl-C.
_HOMES = {
    **dict.fromkeys(
        ("Failure", "Outcome", "OutcomeStream", "Progress", "Success", "collect", "stream"),
        "._core",
    ),
    "Budget": "._money",
    "Estimate": "._estimate",
    "GeminiClient": ".gemini",
    "ImageClient": "._run",
    "ObjectStore": "._bucket",
    "Store": "._store",
    "Throttle": "._throttle",
    "estimate": "._estimate",
    "generate_images": "._run",
    "results": "._store",
    "throttled": "._throttle",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "._values"), __name__), name)
    globals()[name] = value
    return value
