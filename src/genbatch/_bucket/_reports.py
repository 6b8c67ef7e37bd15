"""What is in a bucket, as the reports of a local folder tell it; everything here blocks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genbatch._store import Spent, Status

from ._claims import live_sessions
from ._objects import Objects

_THREADS = 16
_OF_IMAGE = ("file", "sha256", "bytes", "mime_type", "width", "height", "model", "cost", "usage")


def bucket_status(url: str) -> Status:
    """Return how far a bucket has come; prompts left are known while a process runs there."""
    objects = Objects(url)
    rows = list(objects.done())
    failed = Counter(str(row["kind"]) for row in objects.failures({each.key for each in rows}))
    running = live_sessions(objects.place)
    size = max((int(str(each["size"] or 0)) for each in running), default=0)
    usd = sum(each.cost or 0.0 for each in rows)
    granted = objects.ledger().values()
    maybe = max(0.0, sum(each["dollars"] for each in granted) - usd)
    calls = max(0, round(sum(each["images"] for each in granted)) - len(rows))
    spent = Spent(usd, maybe, len(rows), calls)
    to_do = max(0, size - len(rows) - failed.total())
    return Status(len(rows), dict(failed), {}, to_do, 0, 0.0, spent, [], None, 0.0)


def bucket_keys(url: str) -> tuple[set[str], dict[str, str]]:
    """Return the keys that have an image, and the kind of error of those refused for good."""
    objects = Objects(url)
    made = objects.keys()
    return made, {str(row["key"]): str(row["kind"]) for row in objects.failures(made)}


def bucket_rows(url: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each prompt that has an image or was refused, with the columns of export."""
    objects = Objects(url)
    made = [(row, "done", None) for row in objects.rows()]
    refused = [
        (row, "failed", {"kind": row["kind"], "message": row["message"]})
        for row in objects.failures({row["key"] for row, *_ in made})
    ]
    for row, status, error in sorted([*made, *refused], key=lambda each: each[0].get("index") or 0):
        first = {name: row.get(name) for name in ("index", "id", "prompt")}
        taken = 1 if status == "done" else 0
        yield {
            **first,
            "status": status,
            "file": None,
            "error": error,
            **{name: row.get(name) for name in _OF_IMAGE},
            "asked": row.get("asked") or {},
            "text": row.get("text") or "",
            "elapsed": row.get("elapsed"),
            "response_id": row.get("response_id"),
            "extras": row.get("extras") or [],
            "take": taken or None,
            "takes": taken,
            "picked": bool(taken),
            "made": row.get("made"),
            "namespace": row.get("namespace") or "",
            "key": row["key"],
            "metadata": row.get("metadata") or {},
        }


def bucket_problems(url: str) -> Iterator[str]:
    """Yield what is wrong with the images of a bucket, a line each; all of them are read."""
    objects = Objects(url)

    def problem(row: dict[str, Any]) -> str | None:
        uri = objects.place.uri(row["file"])
        data = objects.place.read(row["file"])
        if data is None:
            return f"{uri} is missing"
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            return f"{uri} has changed: {len(data)} bytes, {row['bytes']} were saved"
        missing = [name for name in row.get("extras") or () if objects.place.read(name) is None]
        return f"{objects.place.uri(missing[0])} is missing" if missing else None

    with ThreadPoolExecutor(_THREADS) as threads:
        yield from filter(None, threads.map(problem, objects.rows()))
