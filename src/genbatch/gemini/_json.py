"""Reading JSON that a server may have got wrong: every look has an answer."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from genbatch._errors import InvalidResponse

JsonObject: TypeAlias = dict[str, Any]


def parse_answer(body: str, model: str) -> JsonObject:
    """Return the JSON object that body holds.

    Raises:
        InvalidResponse: If it holds something else; shows the beginning of it.
    """
    try:
        answer = json.loads(body)
    # Garbage may nest deeper than the parser goes.
    except (ValueError, RecursionError) as exc:
        raise _not_json(body, model) from exc
    if not isinstance(answer, dict):
        raise _not_json(body, model)
    return answer


def _not_json(body: str, model: str) -> InvalidResponse:
    message = f"{model} sent an answer that is not JSON: {excerpt(body) or 'an empty body'}"
    return InvalidResponse(message, status=200, maybe_paid=True)


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
