"""What the service says of jobs and files, read with an answer to everything."""

from __future__ import annotations

import re
from dataclasses import dataclass

from genbatch._values import InvalidResponse
from genbatch.gemini import JsonObject, excerpt, mapping

_NAME = re.compile(r"(batches|files)/[\w.-]{1,200}", re.ASCII)  # it becomes a part of a path
_ENDED = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at a job has shown.

    Attributes:
        state: PENDING, RUNNING, SUCCEEDED, PARTIALLY_SUCCEEDED, FAILED, CANCELLED, EXPIRED, or
            another word of the service.
        output: Name of the file with its results, None without one.
        message: Why it failed, empty where nobody says.
    """

    state: str
    output: str | None = None
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in _ENDED


def checked(name: str) -> str:
    """Return a name of a job or a file; InvalidResponse if it cannot be one."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidResponse(f"the service gave a name that is none: {excerpt(name, 50)!r}")
    return name


def name_in(answer: JsonObject, what: str) -> str:
    """Return the name that an answer gives to what it describes."""
    if not isinstance(name := answer.get("name"), str):
        raise InvalidResponse(f"the service did not name {what}")
    return checked(name)


def seen(operation: JsonObject) -> Seen:
    """Return how a job is, by what the service says of it."""
    metadata = mapping(operation.get("metadata"))
    error = mapping(operation.get("error"))
    state = str(metadata.get("state") or "").removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    if not state.strip():
        state = "FAILED" if error else "SUCCEEDED" if operation.get("done") else "PENDING"
    response = mapping(operation.get("response"))
    places = (metadata.get("output"), response.get("output"), response)
    named = (mapping(place).get("responsesFile") for place in places)
    output = next((name for name in named if isinstance(name, str)), None)
    return Seen(excerpt(state, 50), output, excerpt(str(error.get("message") or "")))
