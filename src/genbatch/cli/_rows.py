"""Rows of --json: an outcome as a line of JSON, in the words of export."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from genbatch import Failure, Outcome, Prompt, SavedImage, Success
from genbatch.gemini import model_id

from ._result import NOT_MADE

_dump = json.JSONEncoder(ensure_ascii=False, default=str).encode


def row_of(outcome: Outcome[str | Prompt, SavedImage], model: str) -> str:
    """Return the row of an outcome, with its line break.

    Args:
        outcome: Of a run.
        model: That prompts without one of their own are for.
    """
    prompt = Prompt.of(outcome.prompt)
    row: dict[str, Any] = {
        "index": outcome.index,
        "id": prompt.id,
        "prompt": prompt.text,
        "status": "done",
        "file": None,
        "error": None,
        "sha256": None,
        "bytes": None,
        "mime_type": None,
        "model": model_id(prompt.model or model),
        "cost": None,
        "usage": None,
        "text": "",
        "elapsed": round(outcome.elapsed, 3),
        "extras": [],
        "resumed": False,
        "metadata": dict(prompt.metadata),
    }
    match outcome:
        case Success(value=image):
            row |= _made(image)
        case Failure(error=error):
            row["status"] = "to do" if isinstance(error, NOT_MADE) else "failed"
            row["error"] = {"kind": type(error).__name__, "message": str(error)}
    return _dump(row) + "\n"


def _made(image: SavedImage) -> dict[str, Any]:
    found = {
        "file": image.path.name,
        "sha256": image.sha256,
        "bytes": round(image.size_mb * 1e6),
        "mime_type": image.mime_type,
        "model": image.model,
        "cost": image.cost,
        "usage": image.usage and asdict(image.usage),
        "text": image.text,
        "extras": [path.name for path in image.extras],
        "resumed": image.resumed,
    }
    return {name: value for name, value in found.items() if value is not None}
