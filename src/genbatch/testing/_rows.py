"""The rows of a job: lines of JSON read from one file, and answered in another.

Everything here reads or writes files, or draws: it belongs in threads. A few rows at a time, so
that neither file has to fit in memory, and a job can be left between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ._faults import Fault, reply_in_place
from ._jobs import Batch
from ._service import Service
from ._wire import Call, JsonObject, Reply, error_body, json_object, mapping, prompt_of, refusal

_ROWS, _BYTES = 32, 16 * 1024 * 1024  # at most so many are taken at once, or a single larger row
# Codes of RPC, which rows have in place of those of HTTP.
_CODES = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    408: 4,
    409: 10,
    429: 8,
    499: 1,
    500: 13,
    501: 12,
    503: 14,
    504: 4,
}
_UNKNOWN = 2


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of some rows."""

    succeeded: int
    failed: int
    images: int


def scan(path: Path) -> tuple[tuple[str, ...], JsonObject | None]:
    """Return the keys of a file's rows, and the error of a file that is none of rows."""
    keys: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            row = json_object(line)
            if not row:
                message = f"Line {number} of the input file is no JSON object."
                return tuple(keys), {"code": 3, "message": message}
            keys.append(str(row.get("key", "")))
    if keys:
        return tuple(keys), None
    return (), {"code": 3, "message": "The input file has no requests."}


def read(batch: Batch, offset: int, count: int) -> tuple[list[Call], int]:
    """Return the next rows of a job, at most count, and where in its file those after them begin.

    Args:
        batch: The job.
        offset: Where the next row begins, in bytes.
        count: Most rows to return, which are there.
    """
    done = batch.succeeded + batch.failed
    calls: list[Call] = []
    with batch.input.path.open("rb") as file:
        file.seek(offset)
        while len(calls) < min(count, _ROWS) and file.tell() - offset < _BYTES:
            line = file.readline()
            if line.isspace():
                continue
            row = json_object(line)
            content, key = mapping(row.get("request")), str(row.get("key", ""))
            number = done + len(calls) + 1
            prompt = prompt_of(content)
            calls.append(Call(number, batch.model, prompt, content, batch.headers, batch.path, key))
        return calls, file.tell()


def answer(
    service: Service,
    rows: Sequence[tuple[Call, Fault]],
    output: Path,
    edit: Callable[[bytes], Iterable[bytes]] | None,
) -> Answered:
    """Answer rows, each with its fault, at the end of the output file."""
    failed = images = 0
    with output.open("ab") as file:
        for call, fault in rows:
            line, has_failed, made = _answer(service, call, fault)
            failed += has_failed
            images += made
            lines = edit(line) if edit else (line,)
            file.writelines(each + b"\n" for each in lines)
    return Answered(len(rows) - failed, failed, images)


def _answer(service: Service, call: Call, fault: Fault) -> tuple[bytes, bool, int]:
    """Return the line that answers a row, whether that is an error, and how many are billed."""
    if wrong := refusal(call):
        return _error(call.key, wrong), True, 0
    instead = reply_in_place(replace(fault, reset=False))
    if instead is not None and not fault.late:
        return *_in_place(call.key, instead), 0
    response, images = service.make(call, fault)
    if instead is not None:
        return *_in_place(call.key, instead), images
    return json.dumps({"response": response, "key": call.key}).encode(), False, images


def _in_place(key: str, reply: Reply) -> tuple[bytes, bool]:
    """Return the line that a fault gives, and whether that is an error."""
    if reply.status >= 300:
        return _error(key, reply), True
    if response := json_object(reply.body):
        return json.dumps({"response": response, "key": key}).encode(), False
    return reply.body.replace(b"\n", b" "), False


def _error(key: str, reply: Reply) -> bytes:
    """Return the line of a row that failed as reply tells: a status of RPC."""
    described = mapping(json_object(reply.body).get("error"))
    error: JsonObject = {
        "code": _CODES.get(reply.status, _UNKNOWN),
        "message": described.get("message") or error_body(reply.status)["error"]["message"],
    }
    if "details" in described:
        error["details"] = described["details"]
    return json.dumps({"error": error, "key": key}).encode()


def reverse(path: Path) -> None:
    """Put the lines of a file in the opposite order."""
    begins = [0]
    other = path.with_suffix(".reversed")
    with path.open("rb") as file, other.open("wb") as target:
        begins += [file.tell() for _ in iter(file.readline, b"")]
        for begin in reversed(begins[:-1]):
            file.seek(begin)
            target.write(file.readline())
    other.replace(path)
