"""A process that has to bear a hostile server, and tells what came of it.

``python -m support.bearing URL BACKEND NAME...`` asks for an image of each kind (see hostile.py),
for a job and for its results, over the connections that earlier answers have left, and then for two
images that are fine. A line of JSON has what came of each, and how much memory it took.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from ctypes import CDLL
from pathlib import Path
from typing import Any

import anyio

from genbatch import GenbatchError
from genbatch.batch_api._api import _open
from genbatch.batch_api._service import BatchService
from genbatch.gemini import GeminiClient

TIMEOUT = 2.0  # seconds, of the client
_ENOUGH = 30.0  # seconds after which it hangs, and is cancelled


async def bear(url: str, names: Iterable[str]) -> None:
    """Ask for an image of each kind, and for a job and results; tell what came of each."""
    async with GeminiClient("a-key", base_url=url, timeout=TIMEOUT, max_retries=0) as client:
        service, http = _open(client, client._opened())
        assert http is not None
        async with http:
            await _calls_that_end_in_a_close(client)
            for name in names:
                tell(await _outcomes(client, service, name))


async def _outcomes(client: GeminiClient, service: BatchService, name: str) -> dict[str, str]:
    word, told = f"hostile-{name}", {"kind": name}
    gc.collect()
    CDLL(None).malloc_trim(0)  # what earlier kinds have freed is not memory that this one takes
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of memory
    told["call"] = await _outcome(client.generate_image, word)
    told["job"] = await _outcome(service.look, f"batches/{word}")
    told["results"] = await _outcome(_lines, service, f"files/{word}")
    told["peak"] = str(_peak())
    for number in range(2):
        told[f"next {number}"] = await _outcome(client.generate_image, f"a cat, {number} {name}")
    return told


def tell(outcomes: dict[str, str]) -> None:
    sys.stdout.write(f"{json.dumps(outcomes)}\n")
    sys.stdout.flush()


async def _calls_that_end_in_a_close(client: GeminiClient) -> None:
    outcomes: dict[str, str] = {"kind": ""}

    async def calls(lane: int) -> None:
        for number in range(6):
            prompt = f"a cat, {lane} {number} that closes"
            outcomes[prompt] = await _outcome(client.generate_image, prompt)

    async with anyio.create_task_group() as tasks:
        for lane in range(10):
            tasks.start_soon(calls, lane)
    tell(outcomes)


async def _lines(service: BatchService, file: str) -> bytes:
    lines = [len(line) async for line in service.lines(file)]
    return bytes(len(lines))


async def _outcome(ask: Callable[..., Awaitable[Any]], *arguments: Any) -> str:
    """Return the name of the error of a call, or "image" if it got its own."""
    try:
        with anyio.fail_after(_ENOUGH):
            answer = await ask(*arguments)
    except GenbatchError as error:
        return type(error).__name__
    except TimeoutError:
        return "cancelled"
    except Exception as error:  # noqa: BLE001 - it is told
        return f"untyped {error!r:.200}"
    if not hasattr(answer, "mime_type"):
        return "answer"
    word = "hostile" if arguments[0].startswith("hostile") else arguments[0]
    is_own = answer.data.startswith(b"\x89PNG\r\n\x1a\n" + word.encode())
    return "image" if is_own else f"wrong {answer.data[:60]!r}"


def _peak() -> int:
    """Return megabytes of memory at most since they were forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024


if __name__ == "__main__":
    anyio.run(bear, sys.argv[1], sys.argv[3:], backend=sys.argv[2])
