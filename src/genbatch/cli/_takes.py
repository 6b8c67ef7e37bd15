"""Further takes of prompts: which ones are wanted, what is asked for, and making them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from genbatch import Store, Success
from genbatch._run import Take, make_takes, takes_in
from genbatch._store import export

from ._console import plain
from ._result import ProgressFile
from ._run import ShownBatch, count_earlier_runs, in_order, watch

_SPAN = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?")
_MOST = 1_000_000  # a typing mistake must not exhaust the memory


@dataclass(frozen=True, slots=True)
class TakesWanted:
    """The takes that a command is to make.

    Attributes:
        folder: That has the prompts.
        indices: Their numbers, each once.
        changes: Fields of the ImageRequest to change.
        variants: How many takes of each.
        namespace: Of the prompts.
    """

    folder: Path
    indices: Sequence[int]
    changes: Mapping[str, Any]
    variants: int
    namespace: str

    def plan(self, client: Any) -> list[Take]:
        """Return the takes, without a call; see takes_in."""
        return takes_in(
            client,
            self.folder,
            self.indices,
            namespace=self.namespace,
            variants=self.variants,
            **self.changes,
        )


async def make_more_takes(wanted: TakesWanted, batch: ShownBatch) -> None:
    """Make further takes."""
    options, result = batch.options, batch.result
    store = await batch.closed_last.enter_async_context(Store(options.output))
    batch = replace(batch, store=store)
    takes = wanted.plan(batch.client)
    await count_earlier_runs(store, batch)
    client, proven = await in_order(store, batch)
    result.progress = ProgressFile(options.output)
    outcomes = make_takes(
        client,
        store,
        takes,
        max_concurrent=options.max_concurrent,
        budget=result.budget,
        price=options.price,
        on_event=result.progress.on_event,
    )
    left = Counter(take.index for take in takes)

    def at_its_index(outcome: Any) -> Any:
        index = takes[outcome.index].index
        left[index] -= isinstance(outcome, Success)
        return replace(outcome, index=index)

    await watch(outcomes, batch, proven, at_its_index)
    result.end(len(takes))
    result.rest = _commands_for(left, options.output)


def _commands_for(left: Mapping[int, int], folder: Path) -> str:
    """Return the commands that make so many takes of prompts."""
    by_number = defaultdict(list)
    for index, number in sorted(left.items()):
        by_number[number].append(index)
    commands = []
    for number, indices in by_number.items():
        variants = f" --variants {number}" if number > 1 else ""
        if number:
            commands.append(f"genbatch redo {plain(folder)} {spans_of(indices)}{variants}")
    return " and ".join(commands)


def indices_of(names: Sequence[str], folder: Path, namespace: str) -> list[int]:
    """Return the numbers of prompts that are named by number, range, id or file, in order.

    Raises:
        ValueError: If one is none of these.
        StoreError: If the folder has no journal, or it cannot be read.
    """
    others = [name for name in names if not all(map(_is_span, name.split(",")))]
    found = set(parse_indices(name for name in names if name not in others))
    if others:
        numbers = _numbers_by_name(folder, namespace, {Path(name).name for name in others})
        for name in others:
            known = numbers.get(Path(name).name)
            found.update(parse_indices([name]) if known is None else known)
    return sorted(found)


def _is_span(text: str) -> bool:
    return _SPAN.fullmatch(text.strip()) is not None


def _numbers_by_name(
    folder: Path, namespace: str, names: Collection[str]
) -> Mapping[str, list[int]]:
    """Return the numbers of the prompts with these ids, or files with or without extension."""
    found = defaultdict(list)
    for row in export(folder, all=True):
        if row["namespace"] == namespace and row["index"] is not None:
            file = row["file"] or ""
            for name in {row["id"], file, Path(file).stem}.intersection(names):
                found[name].append(row["index"])
    return found


def parse_indices(spans: Iterable[str]) -> list[int]:
    """Return the numbers in texts such as ``17`` and ``42-45``, each once, in order.

    Raises:
        ValueError: If a text is not a number or a range.
    """
    found: list[range] = []
    for span in chain.from_iterable(each.split(",") for each in spans):
        match = _SPAN.fullmatch(span.strip())
        if match is None:
            raise ValueError(
                f"{span!r} is not a prompt number: give numbers as export shows them, "
                "or 42-45, or ids or file names of the folder"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < _MOST:
            raise ValueError(f"{span!r} is not a range: give the lower number first")
        found.append(range(first, last + 1))
    return sorted(set(chain.from_iterable(found)))


def spans_of(indices: Sequence[int]) -> str:
    """Return ascending numbers in the form that parse_indices takes."""
    # The difference between a number and its place is the same throughout a range.
    runs = groupby(enumerate(indices), lambda each: each[1] - each[0])
    spans = [[index for _, index in run] for _, run in runs]
    return " ".join("-".join(map(str, dict.fromkeys((s[0], s[-1])))) for s in spans)
