"""Feed: what a directory contains, kept as the JSON that pages are told, and what has changed.

1. A version is a number that grows with every change. Whoever knows one is told what is newer, so
   nothing is queued for a slow page, and one that comes back has missed nothing.
2. A thread reads the journal: seldom, where reading takes long, so that it takes a small share of
   the processor from a run beside it.
3. Only files of images that the journal knows have a picture here; nothing else is served.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from genbatch._store import Changed, Changes, Follower, Redo
from genbatch._values import StoreError
from genbatch.gallery import (
    Item,
    Picture,
    add_choices,
    fields_of,
    items_of,
    measure,
    to_json,
)

_PAUSE = 0.2  # seconds between two looks at the journal, at least
_SHARE = 9  # times as long as the last reading took is waited before the next

State = dict[str, Any]


@dataclass(slots=True)
class _Known:
    """An item as it was last told."""

    item: Item
    version: int
    json: str


class Feed:
    """Follows a directory in a thread, from its making to close.

    Args:
        directory: Where runs are made; it need not have a journal yet.
        state: Returns what a run in this process says of itself, None if there is none.
        tell_redos: Returns what a page is told of the further takes that were asked for.
    """

    def __init__(
        self,
        directory: Path,
        state: Callable[[], State] | None = None,
        tell_redos: Callable[[list[Redo]], list[State]] = lambda redos: [],
    ) -> None:
        self.directory = directory
        self._follower = Follower(directory)
        self._state = state
        self._reading, self._lock = Lock(), Lock()
        self._known: dict[str, _Known] = {}  # by key, those that changed last at the end
        self._fields: dict[str, object] = fields_of([])
        self._fields_version = 0
        self._head: State = {"spent": 0.0, "maybe": 0.0, "written": 0}
        self._tell_redos = tell_redos
        self._steered: State | None = None
        self._redos: list[Redo] = []
        self._epoch = secrets.token_hex(4)
        self.version = 0
        self.pictures: dict[str, Picture] = {}  # by file
        self.by_sha256: dict[str, Picture] = {}
        self.extras: set[str] = set()
        self.inputs: dict[str, list[str | None]] = {}  # paths of input images, by key
        self.is_closed = False
        self._closing = Event()
        self.refresh()
        self._thread = Thread(target=self._follow, name="genbatch view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read the journal a last time, and tell pages that nothing more comes."""
        self._closing.set()
        self._thread.join()
        self.refresh()
        with self._lock:
            self.is_closed = True
            self.version += 1

    def item(self, key: object) -> Item:
        """Return the item with a key.

        Raises:
            ValueError: If there is none.
        """
        with self._lock:
            if not isinstance(key, str) or key not in self._known:
                raise ValueError(f"there is no prompt {key!r:.80}")
            return self._known[key].item

    def page(self) -> tuple[State, list[str]]:
        """Return what a new page is told: the head, and every item as JSON."""
        with self._lock:
            known = sorted(self._known.values(), key=lambda each: each.item["order"])
            return self._headed(0), [each.json for each in known]

    def since(self, mark: str) -> tuple[str, str] | None:
        """Return what a page that knows a mark is still to be told, and its mark then.

        Returns:
            The mark and JSON, or None if there is nothing to tell.
        """
        epoch, _, number = mark.partition(":")
        version = int(number) if epoch == self._epoch and number.isdecimal() else 0
        with self._lock:
            if version == self.version:
                return None
            head = to_json(self._headed(version))
            return self.mark, f'{{"head":{head},"items":[{",".join(self._newer(version))}]}}'

    @property
    def mark(self) -> str:
        """What a page that has been told everything knows."""
        return f"{self._epoch}:{self.version}"

    def _newer(self, version: int) -> Iterator[str]:
        for each in reversed(self._known.values()):
            if each.version <= version:
                return
            yield each.json

    def _headed(self, version: int) -> State:
        fields = self._fields if self._fields_version > version or not version else {}
        return {**self._head, **fields, "mark": self.mark, "ended": self.is_closed}

    def _follow(self) -> None:
        took = 0.0
        while not self._closing.wait(max(_PAUSE, _SHARE * took)):
            began = time.thread_time()  # of the processor: a busy machine must not slow it further
            self.refresh()
            took = time.thread_time() - began

    def refresh(self) -> None:
        """Read what has changed; when it returns, pages are told what was written before."""
        with self._reading:
            self._refresh()

    def _refresh(self) -> None:
        running = self._follower.is_running()
        head = self._head | {"running": running, "state": self._state and self._state()}
        changed: list[Changed] = []
        found: Changes | None
        try:
            # As long as there is an image of the last minute, there may soon be none.
            found = self._follower.read(always=bool(self._head.get("lately")))
        except StoreError as error:
            found = None  # beside a run of this process, there may not be a journal yet
            head["problem"] = str(error) if self._known or not self._state else None
        if found is not None:
            spent = {"spent": found.spent.usd, "maybe": found.spent.maybe_usd}
            head |= {**spent, "lately": found.lately, "problem": None}
            self._steered, self._redos = found.steered, found.redos
            changed = found.items
        head |= {
            "steer": self._steered if running else None,
            "redos": self._tell_redos(self._redos),
        }
        items = [self._item_of(each) for each in changed]
        add_choices(items, found.choices if found else {})
        version = self.version + 1
        fields, newer = self._numbered(items, version)
        with self._lock:  # for a moment only: the event loop waits for it
            if newer or head != self._head:
                self.version, self._head = version, head
            for each in newer:
                self._known.pop(each.item["key"], None)
                self._known[each.item["key"]] = each
            if fields != self._fields:
                self._fields, self._fields_version = fields, version

    def _item_of(self, changed: Changed) -> Item:
        """Return an item, and know its files."""
        (item,) = items_of(changed.rows)
        item |= {"key": changed.rows[0]["key"], "order": changed.order}
        made = [row for row in changed.rows if row["take"] is not None]
        for take, row in zip(item.get("takes", ()), made, strict=True):
            picture = Picture(row["file"], row["sha256"], row["bytes"])
            known = (row["width"], row["height"]) if row["width"] and row["height"] else None
            size = measure(self.directory, picture, known)
            take["problem" if isinstance(size, str) else "size"] = size
            self.pictures[picture.file] = self.by_sha256[picture.sha256] = picture
            self.extras.update(row["extras"])
        inputs = changed.rows[0]["asked"].get("images", [])
        if any(inputs):
            self.inputs[item["key"]] = inputs
            item["inputs"] = [number for number, path in enumerate(inputs) if path]
        return item

    def _numbered(self, items: list[Item], version: int) -> tuple[dict[str, object], list[_Known]]:
        """Return the fields of all items with these, and the items that differ then."""
        known = [self._known.get(item["key"]) for item in items]
        if all(
            old and _labels_of(old.item) == _labels_of(item)
            for old, item in zip(known, items, strict=True)
        ):
            for old, item in zip(known, items, strict=True):
                if old and "at" in old.item:
                    item["at"] = old.item["at"]
            return self._fields, [_Known(item, version, to_json(item)) for item in items]
        every = {key: each.item for key, each in self._known.items()}
        every |= {item["key"]: item for item in items}
        before = {key: item.pop("at", None) for key, item in every.items()}
        fields = fields_of(sorted(every.values(), key=itemgetter("order")))
        new = {item["key"] for item in items}
        differing = [
            item for key, item in every.items() if key in new or item.get("at") != before[key]
        ]
        return fields, [_Known(item, version, to_json(item)) for item in differing]


def _labels_of(item: Item) -> tuple[object, ...]:
    """Return what the fields of an item depend on."""
    values = map(item.get, ("model", "asked", "metadata", "namespace"))
    return (*values, item["index"] is None)
