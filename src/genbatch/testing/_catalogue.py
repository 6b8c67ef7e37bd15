"""The models of the service: which there are, and the pages that list them."""

from __future__ import annotations

import re
from collections.abc import Collection

from ._access import is_vertex
from ._wire import JsonObject, Reply, error_reply, json_reply, page_of

MODELS = (
    "gemini-nano-banana-2.1",
    "gemini-3-pro-image",
    "gemini-3.1-flash-lite-image",
    "gemini-3-flash",
    "gemini-embedding-001",
)
_RETIRED = re.compile(r"gemini-(3\.1|2\.5)-flash-image(-preview)?|imagen-.*")
_LISTING = re.compile(r"/v1beta/models|/v1beta1/publishers/google/models")
_USUAL_PAGE, _LARGEST_PAGE = 50, 1000


def lacks(model: str, models: Collection[str] | None) -> bool:
    """Return whether a model cannot be called.

    Args:
        model: Its id.
        models: Ids there are; None for any that is not retired.
    """
    return bool(_RETIRED.fullmatch(model)) if models is None else model not in models


def not_found(model: str) -> str:
    """Return what the service says of a model that it has not, or no longer."""
    return (
        f"models/{model} is not found for API version v1beta, or is not supported for "
        "generateContent. Call ListModels to see the list of available models and their "
        "supported methods."
    )


def is_catalogue(path: str) -> bool:
    """Return whether a path lists models or describes one."""
    return bool(_LISTING.fullmatch(path) or _LISTING.fullmatch(path.rpartition("/")[0]))


def catalogue(path: str, query: str, models: Collection[str]) -> Reply:
    """Return one page of the models, or the one model that path names."""
    if not _LISTING.fullmatch(path):
        model = path.rpartition("/")[2]
        known = model in models
        return json_reply(_described(model, path)) if known else error_reply(404, not_found(model))
    found = page_of(query, len(models), _USUAL_PAGE, _LARGEST_PAGE)
    if found is None:
        return error_reply(400)
    start, end = found
    page = [_described(model, path) for model in list(models)[start:end]]
    answer: JsonObject = {"publisherModels" if is_vertex(path) else "models": page}
    if end < len(models):
        answer["nextPageToken"] = f"page-{end}"
    return json_reply(answer)


def _described(model: str, path: str) -> JsonObject:
    if is_vertex(path):
        return {"name": f"publishers/google/models/{model}", "launchStage": "GA"}
    methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return {
        "name": f"models/{model}",
        "version": "001",
        "displayName": model.replace("-", " ").title(),
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": ["embedContent"] if "embedding" in model else methods,
    }
