"""The first look of a run: one call of each model goes first, or as many as --look asks for.

A model that has made an image in this folder, with this key and these settings, is not looked at
again. The journal keeps marks of that, a salt and a hash each: no key can be read from them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from genbatch import Store
from genbatch._run import FirstLook, Service

from ._console import QuietConsole, can_ask, count, plain
from ._options import Options

_MOST_OPENED = 3  # images at once, else their folder


class ProvenModels:
    """Which models have made images in a folder with the keys of a client.

    Args:
        store: Of the folder; open.
        client: An ImageClient.
        options: The settings of the run, which are a part of what is proven.
    """

    def __init__(self, store: Store, client: Any, options: Options) -> None:
        self._store = store
        self._fingerprint = Service(client).fingerprint
        self._settings = json.dumps(
            {**options.settings, "model": None}, sort_keys=True, default=str
        )
        self._marks: list[str] = []
        self._noted: set[str] = set()

    async def read(self) -> None:
        """Read what the journal knows."""
        self._marks = await self._store.run_in_thread(self._store.archive.proven)

    def has(self, model: str) -> bool:
        """Return whether a model, by its full id, is proven."""
        salts = (mark.partition(":")[0] for mark in self._marks)
        return any(self._mark(salt, model) in self._marks for salt in salts)

    async def note(self, model: str) -> None:
        """Note that a model has made an image."""
        if model not in self._noted and not self.has(model):
            mark = self._mark(secrets.token_hex(8), model)
            await self._store.run_in_thread(self._store.archive.prove, mark)
        self._noted.add(model)

    def _mark(self, salt: str, model: str) -> str:
        return f"{salt}:{self._fingerprint(salt, model, self._settings)}"


class LookingClient:
    """A client that tells a run in which order to make its first calls."""

    def __init__(self, client: Any, look: FirstLook) -> None:
        self._client = client
        self.look = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def looking(client: Any, proven: ProvenModels | None, options: Options) -> LookingClient:
    """Return a client for a run that looks first, at models that are not proven."""
    is_proven = (lambda model: False) if proven is None else proven.has
    return LookingClient(client, FirstLook(is_proven, options.look))


def show(paths: Sequence[Path]) -> None:
    """Say where images are, and open them where somebody can look."""
    out = QuietConsole(stderr=True)
    for path in paths:
        out.say(plain(path))
    if not (paths and can_ask()):
        return
    opened = paths if len(paths) <= _MOST_OPENED else [paths[0].parent]
    for path in opened:
        with suppress(OSError):  # there is no desktop
            typer.launch(str(path.absolute()))


def wants_the_rest(left: int, options: Options) -> bool:
    """Ask whether to make the rest, after a look."""
    if options.yes:
        return True
    if not can_ask():
        again = "the same command without --look makes them, --yes goes on at once"
        QuietConsole(stderr=True).error(f"{count(left, 'prompt')} left after the look: {again}")
        return False
    return typer.confirm(f"Make the other {left:,}?", err=True)
