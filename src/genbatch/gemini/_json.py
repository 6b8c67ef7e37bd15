"""Reading JSON that a server may have got wrong: every look has an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic_core import from_json

from genbatch._values import InvalidResponse

from ._ahead import DATA, QUOTE, Ahead

JsonObject: TypeAlias = dict[str, Any]


def parse_answer(
    body: str | bytes | bytearray | Ahead, model: str, hide: Callable[[str], str] = str
) -> JsonObject:
    """Return the JSON object that body holds.

    Args:
        body: The answer.
        model: Full id of the model asked, for the message.
        hide: Applied to every string but the data of images, which nothing shows.

    Returns:
        It. Where body is not a string, the data of images are views of it, not strings: an image is
        neither copied nor parsed; one that was decoded as it came is bytes.

    Raises:
        InvalidResponse: If it holds something else; shows the beginning of it.
    """
    try:
        images: list[memoryview | bytes] = []
        small = body if isinstance(body, str) else _without_images(body, images)
        return _object(_shown(from_json(small), hide, images))
    # An image is paid for: a stray byte or half a character in the text beside it, which the fast
    # and strict parser refuses, must not lose it. Garbage may nest deeper than either goes.
    except (ValueError, RecursionError):
        content = body.content if isinstance(body, Ahead) else body
        text = (
            content if isinstance(content, str) else bytes(content).decode("utf-8-sig", "replace")
        )
        body = content = small = text = hide(text)  # every name: tracebacks hold them
        images.clear()
    try:
        return _object(json.loads(text))
    except (ValueError, RecursionError) as exc:
        shown = excerpt(text) or "an empty body"
        message = f"{model} sent an answer that is not JSON: {shown}"
        raise InvalidResponse(message, status=200, maybe_paid=True) from exc


def _without_images(body: bytes | bytearray | Ahead, images: list[memoryview | bytes]) -> bytes:
    """Return body with numbers in place of the data of images, which go to images."""
    ahead = body if isinstance(body, Ahead) else None
    view = memoryview(body.content if isinstance(body, Ahead) else body)
    pieces: list[bytes | memoryview] = []
    end = 0
    # Only ever a name: within a string of JSON its quotes would be escaped.
    while found := DATA.search(view, end):
        start = found.end()
        pieces += [view[end : start - 1], b"%d" % len(images)]
        # Base64 has no quote that could be escaped. What is cut short here parses as no JSON.
        if ahead is not None and ahead.image is not None and ahead.start == start:
            end = ahead.end
            images.append(ahead.image)
        elif quote := QUOTE.search(view, start):
            end = quote.start()
            images.append(view[start:end])
        else:
            raise ValueError("an image without an end")
        end += 1
    return b"".join([*pieces, view[end:]])


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} in place of an object")
    return value


def _shown(value: Any, hide: Callable[[str], str], images: list[memoryview | bytes]) -> Any:
    """Return value with hide applied to its strings, and images in their places."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_shown(item, hide, images) for item in value]
    if isinstance(value, dict):
        return {
            name: _image(each, images) if name == "data" else _shown(each, hide, images)
            for name, each in value.items()
        }
    return value


def _image(value: Any, images: list[memoryview | bytes]) -> Any:
    return images[value] if type(value) is int and 0 <= value < len(images) else value


def mapping(value: object) -> JsonObject:
    """Return value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[JsonObject]:
    """Return the objects in value if it is a list, else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def excerpt(text: str, length: int = 200) -> str:
    """Return the beginning of text on one line, without control characters."""
    # Cut twice: a body may be megabytes, and joining its words shortens it.
    printable = "".join(c if c.isprintable() else " " for c in text[: 5 * length])
    line = " ".join(printable.split())
    return line if len(line) <= length else line[: length - 1] + "…"
