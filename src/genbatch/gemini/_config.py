"""A request in the types of google-genai, which builds its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.genai import types
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from genbatch._values import ImageRequest, sniff_mime_type

from ._sdk_types import Config, Content, Part

# Its names as the SDK has them and as the wire has them.
_FIELDS = {
    name: field
    for field in types.GenerateContentConfig.model_fields
    for name in (field, to_camel(field))
}
# How the SDK is to behave. Nothing about the image, and this client relies on it.
_OURS: Mapping[str, Any] = {
    "should_return_http_response": True,
    # On by default: each would send further paid requests behind our back.
    "automatic_continuation": False,
    "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
}
_NOT_TO_BE_GIVEN = {*_OURS, "http_options", "continuation_token"}


def contents_of(request: ImageRequest) -> types.Content:
    """Return the text and the input images."""
    parts: list[types.Part] = [Part(text=request.text)]
    for image in request.images:
        blob = types.Blob(data=image, mime_type=sniff_mime_type(image))  # type: ignore[arg-type]  # read
        parts.append(Part(inline_data=blob))
    return Content(role="user", parts=parts)


def config_of(request: ImageRequest) -> types.GenerateContentConfig:
    """Return how the image is to be made, and how the SDK is to behave.

    Raises:
        ValueError: If a setting is of the wrong type, or generation_config has a key twice or one
            that is not its business.
    """
    fields, raw = _sorted_out(request.generation_config or {})
    try:
        _override(fields, request)
        if thinking := fields.pop("thinking_config", None):
            # The SDK would leave its fields in snake case.
            raw["thinkingConfig"] = thinking.model_dump(
                mode="json", by_alias=True, exclude_none=True
            )
        if raw:
            extra = {"generationConfig": raw}
            fields["http_options"] = types.HttpOptions(extra_body=extra)
        fields = {"response_modalities": ["IMAGE"], **fields, **_OURS}
        return Config(**fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or exc.title
        raise ValueError(f"{where}: {first['msg']}, got {first['input']!r:.100}") from None
    except AttributeError as exc:  # the SDK's enumerations trip over what is no string
        raise ValueError(f"generation_config: {exc}") from None


def _sorted_out(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that the SDK knows, by its names, and those that go out as they are."""
    fields: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    for name, value in given.items():
        field = _FIELDS.get(name)
        if field in _NOT_TO_BE_GIVEN:
            raise ValueError(f"generation_config must not have {name!r}: the client settles it")
        if field in fields:
            raise ValueError(f"generation_config has {field!r} twice: as {name!r} too")
        if field is None:
            raw[name] = value
        else:
            fields[field] = value
    return fields, raw


def _override(fields: dict[str, Any], request: ImageRequest) -> None:
    """Put the settings that have names of their own over those in fields."""
    named = {
        "temperature": request.temperature,
        "seed": request.seed,
        "system_instruction": request.system_instruction,
        "image_config": _merged(
            types.ImageConfig,
            fields.get("image_config"),
            aspect_ratio=request.aspect_ratio,
            image_size=request.image_size,
        ),
        "thinking_config": _merged(
            types.ThinkingConfig, fields.get("thinking_config"), thinking_level=request.thinking
        ),
    }
    fields.update({name: value for name, value in named.items() if value is not None})


def _merged(kind: type[Any], given: object, **named: object) -> Any:
    """Return given as kind, those of named in it that are not None; None if there is neither."""
    named = {name: value for name, value in named.items() if value is not None}
    if given is None:
        return kind(**named) if named else None
    own = kind.model_validate(given).model_dump(exclude_unset=True)
    return kind.model_validate(own | named)
