"""The jobs of a fake Batch API: what they are, how they go wrong, and what clients are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import anyio

from ._files import StoredFile, timestamp
from ._wire import JsonObject

State: TypeAlias = Literal[
    "PENDING", "RUNNING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"
]
_TYPES = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
_ENDS = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
# Code of RPC and message, as an operation or a row that went wrong has them.
ERRORS: dict[str, JsonObject] = {
    "CANCELLED": {"code": 1, "message": "The operation was cancelled."},
    "EXPIRED": {"code": 4, "message": "The batch expired before it was completed."},
    "FAILED": {"code": 13, "message": "An internal error has occurred."},
}


@dataclass(frozen=True, slots=True)
class Job:
    """One batch as it stood when it was looked at.

    Attributes:
        number: 1 for the first job that a server created.
        name: Name of the resource, such as ``batches/3a96``.
        display_name: What the client called it, empty if it did not.
        model: Model id in the path.
        keys: Keys of its rows, in the order of the file; empty for a row without one.
        state: Where it is: PENDING, RUNNING, or how it ended.
        images: Images made for it, that is, paid for.
    """

    number: int
    name: str
    display_name: str
    model: str
    keys: tuple[str, ...] = field(repr=False)
    state: State = "PENDING"
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFault:
    """How one job goes wrong.

    Attributes:
        state: State that it ends in.
        after: Share of its rows that are processed before it ends, from the first on, so that
            they are billed and answered; by default all if it succeeds, partially too, else none.
        output: Whether there is a file with the answers: without, what was made is lost.
        shuffle: Whether the answers come in another order than the rows: the last one first.
        edit: Called in a thread with each line of the answers, its newline apart; the lines it
            returns are sent in its place: none, several, or something that is no JSON.

    Raises:
        ValueError: If a value is out of its range.
    """

    state: State = "SUCCEEDED"
    after: float | None = None
    output: bool = True
    shuffle: bool = False
    edit: Callable[[bytes], Iterable[bytes]] | None = None

    def __post_init__(self) -> None:
        if self.state not in _ENDS:
            raise ValueError(f"state must be one of {', '.join(_ENDS)}, got {self.state}")
        if self.after is not None and not 0 <= self.after <= 1:
            raise ValueError(f"after must be in 0..1, got {self.after}")

    def rows_of(self, count: int) -> int:
        """Return how many of count rows are processed."""
        succeeds = self.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED")
        return round(count * (float(succeeds) if self.after is None else self.after))


@dataclass(slots=True)
class Batch:
    """A job while it goes on, and when it has ended; error is why, where it failed."""

    number: int
    id: str
    display_name: str
    model: str
    headers: Mapping[str, str] = field(repr=False)
    path: str
    input: StoredFile
    keys: tuple[str, ...]
    error: JsonObject | None = None
    state: State = "PENDING"
    images: int = 0
    succeeded: int = 0
    failed: int = 0
    output: StoredFile | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    # Cancelled by the client.
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def job(self) -> Job:
        """The job as it is now."""
        name = f"batches/{self.id}"
        keys, images = self.keys, self.images
        return Job(self.number, name, self.display_name, self.model, keys, self.state, images)

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in _ENDS

    def enter(self, state: State) -> None:
        """Go on to state."""
        self.state = state
        self.updated = datetime.now(UTC)

    def operation(self) -> JsonObject:
        """Return what the service tells about it."""
        name, state = f"batches/{self.id}", f"BATCH_STATE_{self.state}"
        times = {"createTime": timestamp(self.created), "updateTime": timestamp(self.updated)}
        output = {} if self.output is None else {"responsesFile": self.output.name}
        metadata: JsonObject = {
            "@type": _TYPES,
            "model": f"models/{self.model}",
            "displayName": self.display_name,
            "inputConfig": {"fileName": self.input.name},
            **({"output": output} if output else {}),
            **times,
            **({"endTime": times["updateTime"]} if self.ended else {}),
            "batchStats": self._stats(),
            "state": state,
            "name": name,
        }
        answer: JsonObject = {"name": name, "metadata": metadata}
        # Not for one that succeeded in part, which users report to stay undone for ever.
        if self.ended and self.state != "PARTIALLY_SUCCEEDED":
            answer["done"] = True
            if self.state != "SUCCEEDED":
                answer["error"] = self.error or ERRORS[self.state]
            elif output:
                answer["response"] = {"@type": f"{_TYPES}Output", **output}
        return answer

    def _stats(self) -> JsonObject:
        """Return the counts as the service does: in text, and without those that are 0."""
        counts = {
            "requestCount": len(self.keys),
            "successfulRequestCount": self.succeeded,
            "failedRequestCount": self.failed,
            "pendingRequestCount": len(self.keys) - self.succeeded - self.failed,
        }
        return {name: str(count) for name, count in counts.items() if count}
