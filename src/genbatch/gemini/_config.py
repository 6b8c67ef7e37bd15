"""A request in the types of google-genai, which builds its JSON."""

from __future__ import annotations

from google.genai import types

from ._request import ImageRequest


def contents_of(request: ImageRequest) -> types.Content:
    """Return the text and the input images."""
    parts = [types.Part(text=request.text)]
    for image in request.images:
        blob = types.Blob(data=image.data, mime_type=image.mime_type)
        parts.append(types.Part(inline_data=blob))
    return types.Content(role="user", parts=parts)


def config_of(request: ImageRequest) -> types.GenerateContentConfig:
    """Return how the image is to be made, and how the SDK is to behave."""
    image_config = None
    if request.aspect_ratio or request.image_size:
        image_config = types.ImageConfig(
            aspect_ratio=request.aspect_ratio, image_size=request.image_size
        )
    return types.GenerateContentConfig(
        response_modalities=["IMAGE"],
        image_config=image_config,
        seed=request.seed,
        should_return_http_response=True,
        # On by default: each would send further paid requests behind our back.
        automatic_continuation=False,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
