"""Further takes of prompts that were run before: redo makes them, pick chooses one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from anyio import to_thread

from genbatch import GeminiClient, Store, Success
from genbatch._run import make_takes, plan_takes
from genbatch._store import export

from ._console import QuietConsole, plain
from ._demo import DEMO
from ._display import Display
from ._result import Options, Result
from ._run import begin, watch

_SPAN = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?")
_MOST = 1_000_000  # a slip of the finger should not fill the memory


def parse_indices(spans: Iterable[str]) -> list[int]:
    """Return the numbers that texts such as ``17`` and ``42-45`` stand for, each once, in order.

    Raises:
        ValueError: If a text stands for none.
    """
    found: list[range] = []
    for span in chain.from_iterable(each.split(",") for each in spans):
        match = _SPAN.fullmatch(span.strip())
        if match is None:
            raise ValueError(f"{span!r} is no prompt: give numbers as export shows them, or 42-45")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < _MOST:
            raise ValueError(f"{span!r} is no range of prompts: give the lower number first")
        found.append(range(first, last + 1))
    return sorted(set(chain.from_iterable(found)))


def spans_of(indices: Sequence[int]) -> str:
    """Return numbers in ascending order as parse_indices takes them."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][-1] + 1:
            spans[-1][1:] = [index]
        else:
            spans.append([index])
    return " ".join("-".join(map(str, span)) for span in spans)


async def run_takes(
    indices: Sequence[int],
    changes: Mapping[str, Any],
    client: GeminiClient,
    options: Options,
    display: Display,
) -> Result:
    """Make a further take of each prompt, show how it goes, and return what came of it."""
    await to_thread.run_sync(_check, options.save_dir, options.namespace)
    async with Store(options.save_dir) as store:
        takes = await plan_takes(store, indices, namespace=options.namespace, **changes)
        result = await begin(store, options)
        batch = make_takes(
            client,
            store,
            takes,
            max_concurrent=options.max_concurrent,
            budget=result.budget,
            price=options.price,
        )
        left = dict.fromkeys(indices)

        def at_its_index(outcome: Any) -> Any:
            index = indices[outcome.index]
            if isinstance(outcome, Success):
                del left[index]
            return replace(outcome, index=index)

        await watch(batch, result, client, options, display, at_its_index)
    result.end(len(takes))
    result.rest = f"genbatch redo {plain(options.save_dir)} {spans_of(list(left))}"
    return result


async def pick_take(folder: Path, index: int, take: int, namespace: str) -> None:
    """Choose which take of a prompt is shown."""
    await to_thread.run_sync(_check, folder, namespace)
    async with Store(folder) as store:
        await store.pick(index, take, namespace)
    QuietConsole().say(f"prompt {index} of {plain(folder)} shows take {take} now")


def _check(folder: Path, namespace: str) -> None:
    """Refuse a folder without a run, which a Store would create, and one that is of a demo only."""
    row = next(export(folder), None)
    if row and not namespace and row["namespace"] == DEMO:
        raise ValueError(f"the images in {plain(folder)} are those of a demo: add --demo")
