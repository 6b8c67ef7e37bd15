"""Archive: the directory, the journal and the lock of a store, as one; everything here blocks.

1. A row of an image implies its file, complete; both are on disk when save returns.
2. An image on its way to a disk that is full is kept, and written with the next one or at close;
   so is what came in place of one. A descriptor is kept for a process that may open no more files.
3. An attempt that was sent and never settled keeps its row: it may have been paid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import astuple, replace
from functools import partial
from logging import ERROR, INFO, getLogger
from pathlib import Path
from threading import Lock as ThreadLock
from typing import Any, TypeVar

from genbatch._logs import log, log_context
from genbatch._values import (
    UNKNOWN_EXTENSION,
    DamagedImage,
    GenbatchError,
    Image,
    ImageRequest,
    Rejected,
    SavedImage,
    StoreError,
    extension_of,
)

from . import _files as files
from ._files import Lock
from ._journal import (
    HIDDEN,
    JOURNAL,
    LOCK,
    ItemRow,
    Journal,
    Row,
    RunCost,
    Spent,
    storable,
    strangers,
)
from ._match import BatchInput, derive_contents, find_or_add, plan_ahead
from ._plan import (
    BegunCall,
    Plan,
    PlanRequest,
    Policy,
    adopt_lost,
    adopt_orphans,
    at,
    changed,
    choose_file,
    damaged_stem,
    extra_stem,
    further,
    has_file,
    no_prompt,
    note_failure,
    saved_image,
)

_log = getLogger("genbatch.store")

R = TypeVar("R")

# Columns, as an Image has them.
_SAME = ("mime_type", "model", "text", "cost", "response_id", "width", "height")
_FILE = ItemRow._fields.index("file")


def _is_fresh(directory: Path) -> bool:
    """Return whether a directory has nothing, or only what precedes its first run."""
    is_new = not (directory / HIDDEN / JOURNAL).exists()
    return is_new and all(each.name == HIDDEN for each in directory.iterdir())


class Archive:
    """A directory, locked, with its journal open.

    Args:
        policy: Its directory is created, with its parents.
        fresh: Whether to refuse a directory that is not empty.

    Raises:
        StoreError: If directory cannot be written to, another runner is in it, its journal cannot
            be read, or it is not empty and was to be.
    """

    def __init__(self, policy: Policy, *, fresh: bool) -> None:
        self.directory = directory = policy.directory
        self._policy = policy
        self._unsaved: list[Callable[[], object]] = []
        self._unsaved_lock = ThreadLock()
        self._spare: int | None = None
        self._spare_lock = ThreadLock()
        self._ahead: set[int] = set()  # inputs that are planned as a whole
        self._forgotten: set[str] = set()  # messages of refusals that say nothing of a request
        hidden = directory / HIDDEN
        try:
            files.make_directory(directory)
            if fresh and not _is_fresh(directory):
                full = StoreError(
                    f"{directory} is not empty, as a fresh run needs it: give another folder"
                )
                raise full from FileExistsError(errno.EEXIST, "not empty")
            if not hidden.is_dir():  # it may be a link, to a disk that can hold a journal
                files.make_private(hidden)
            for problem in strangers(directory):
                raise StoreError(problem)
            with ExitStack() as undo:
                self._lock = Lock(hidden / LOCK)
                undo.callback(self._lock.release)
                for each in (directory, hidden):
                    files.sweep(each)
                files.sync_directory(directory)
                self.journal = Journal(hidden / JOURNAL)
                undo.callback(self.journal.close)
                self._spare = _spare_descriptor()
                undo.callback(self._close_spare)
                with self.journal.writing() as journal:
                    self.session = journal.insert("session", began=time.time())
                    adopt_orphans(journal, directory)
                undo.pop_all()
        except OSError as exc:
            raise files.disk_error(f"cannot save images in {directory}", directory, exc) from exc

    def close(self) -> None:
        """Write what could not be written so far, if it can be now, and let the next one in.

        What still cannot be is lost. Its StoreError was raised when it was saved, and its call
        stays counted as possibly paid.
        """
        try:
            self._save_unsaved()
        finally:
            self._close_spare()
            self.journal.close()
            self._lock.release()

    def begin_batch(self, namespace: str, asked: BatchInput | None = None) -> int:
        """Return the number of a new input, planned as a whole where it is not too long."""
        asked = asked or BatchInput()
        with self.journal.writing(durable=False) as journal:
            journal.prune()
            derive_contents(journal, asked.canonical)
            batch = journal.insert(
                "batch",
                session=self.session,
                namespace=namespace,
                source=asked.source,
                size=asked.size,
            )
            if asked.is_planned_ahead:
                plan_ahead(journal, batch, namespace, asked.wanted(namespace), self._policy)
                self._ahead.add(batch)
        return batch

    def end_batch(self, batch: int, places: dict[int, int], *, whole: bool) -> None:
        """Note the last places of an input, and where it is whole, forget the earlier ones."""
        with self.journal.writing() as journal:
            journal.put(batch, places.items())
            journal.count_read(batch, len(places))
            if whole:
                journal.supersede(batch)

    def plan(
        self,
        batch: int,
        namespace: str,
        wanted: list[PlanRequest],
        places: dict[int, int],
        ahead: int,
    ) -> list[Row]:
        """Plan what is wanted, in this order, and return what probably comes next, for recall.

        Args:
            batch: The input that they belong to.
            namespace: Of that input.
            wanted: Get their plans, or errors.
            places: Items of that input planned before, with their positions.
            ahead: How many to return at most of those that come next: in this input where it is
                planned ahead, each after its position, else in an earlier one.
        """
        with self.journal.writing(durable=False) as journal:
            journal.put(batch, places.items())
            found: list[tuple[PlanRequest, ItemRow]] = []
            for each in wanted:
                try:
                    known = find_or_add(journal, batch, namespace, each, self._policy)
                except StoreError as exc:
                    each.error = exc
                    continue
                journal.put(batch, [(known.item, each.index)])
                found.append((each, known))
            is_ahead = batch in self._ahead
            if found and is_ahead:
                following = journal.upcoming(batch, found[-1][0].index, ahead)
            else:
                following = journal.following(found[-1][1].item, batch, ahead) if found else []
            if not is_ahead:
                journal.count_read(batch, len(places) + len(found))
        for each, known in found:  # not before the rows are committed
            each.ordinal, each.plan = known.ordinal, self._policy.plan(known)
        prefix = f"{self.directory}{os.sep}"
        # What has lost its file is not previewed: it is looked for again when it is wanted.
        file = _FILE + is_ahead  # after the position
        return [row for row in following if row[file] is None or has_file(row[file], prefix)]

    def recall(self, row: Row) -> Plan:
        """Return the plan of what has come next; this one method does not block."""
        return self._policy.plan(ItemRow._make(row), True)

    def begin(self, plan: Plan) -> BegunCall | SavedImage:
        """Begin the call of a request, or return the image if it has been made meanwhile."""
        with self.journal.writing() as journal:
            if not plan.further:
                adopt_lost(journal, self.directory, plan)
                known = self._policy.plan(journal.item(plan.item))
                if known.saved is not None and not (plan.fake and known.fake):
                    return known.saved
            take = journal.next_take(plan.item)
            return BegunCall(plan, take, choose_file(self.directory, plan, take))

    def send(self, call: BegunCall, price: float | None) -> None:
        """Note that an attempt of a call is about to be sent.

        Args:
            call: As begin returned it.
            price: US dollars that it is expected to cost, None where unknown.

        Raises:
            GenbatchError: If a job may still make the image.
        """
        with self.journal.writing() as journal:
            if (job := journal.job_of(call.plan.item)) is not None:
                raise GenbatchError(f"it is in job {job[1]}: --via batch collects it")
            call.attempt = journal.insert(
                "attempt",
                item=call.plan.item,
                name=call.name,
                prompt=call.plan.asked,
                price=price,
                began=time.time(),
            )

    def unsend(self, call: BegunCall) -> None:
        """Forget the latest attempt of a call: it cannot have been paid."""
        with self.journal.writing() as journal:
            journal.execute("DELETE FROM attempt WHERE id = ?", (call.attempt,))

    def fail(self, call: BegunCall, error: Exception) -> None:
        """Record why a call returned no image, and where what came in place of it is kept.

        Raises:
            StoreError: If it cannot be written now; what came is kept, to be written later.
        """
        if isinstance(error, DamagedImage):
            self._write(partial(self._fail, call, error))
        elif not call.plan.further:
            self._fail(call, error)

    def _fail(self, call: BegunCall, error: Exception) -> None:
        if isinstance(error, DamagedImage):
            self.keep_damaged(call, error)
        with self.journal.writing() as journal:
            if str(error) not in self._forgotten:
                note_failure(journal, call, error)

    def forget_refusals(self, messages: Collection[str]) -> None:
        """Forget refusals with these messages, also those that are still to be recorded."""
        with self.journal.writing() as journal:
            self._forgotten.update(messages)
            journal.executemany(
                """UPDATE item SET kind = NULL, message = NULL, detail = NULL
                WHERE kind = ? AND message = ?""",
                [(Rejected.__name__, storable(message)) for message in messages],
            )

    def keep_damaged(self, call: BegunCall, error: DamagedImage) -> None:
        """Publish what came in place of an image, and tell the error where; its row comes later.

        Raises:
            StoreError: If it cannot be written.
        """
        if error.data is None or error.file is not None:
            return
        stem = damaged_stem(call.plan.key, call.attempt)
        file = files.find(self.directory, stem, UNKNOWN_EXTENSION)
        # One that is there may be of an attempt whose number was given again.
        if file is None or files.read(self.directory / file) != error.data:
            file = files.publish(self.directory, stem, extension_of(error.data), error.data)
        error.file = file

    def save(self, call: BegunCall, image: Image, elapsed: float) -> SavedImage:
        """Save an image with its extras, and return when both files and row are on disk.

        Raises:
            StoreError: If it cannot be written now; it is kept, to be written later.
        """
        saved = self._write(partial(self._save, call, image, elapsed, []))
        cost = "cost unknown" if saved.cost is None else f"${saved.cost:.4f}"
        # Told here, in a thread: handlers may block, and none is cancelled.
        with log_context(model=saved.model, cost=saved.cost, elapsed=elapsed, key=call.plan.key):
            log(_log, INFO, "saved %s, %s", saved.path, cost, path=str(saved.path))
        return saved

    def _write(self, write: Callable[[], R]) -> R:
        """Write what is paid for, and keep it in memory where the disk does not take it now."""
        try:
            written = self._open_at_all_costs(write)
        except StoreError as error:
            with self._unsaved_lock:
                self._unsaved.append(write)
            log(_log, ERROR, "an image is not saved, and kept in memory", error=error)
            raise
        if self._unsaved:  # space is back
            self._save_unsaved()
        return written

    def _save_unsaved(self) -> None:
        with self._unsaved_lock:
            waiting, self._unsaved = self._unsaved, []
            for write in waiting:
                try:
                    self._open_at_all_costs(write)
                except StoreError:
                    self._unsaved.append(write)

    def _open_at_all_costs(self, write: Callable[[], R]) -> R:
        """Write, where the process may open no more files with the descriptor kept for this."""
        try:
            return write()
        except StoreError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._spare_lock:
            self._close_spare()
            try:
                return write()  # has one file open at a time
            finally:
                self._spare = _spare_descriptor()

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _save(
        self, call: BegunCall, image: Image, elapsed: float, arrived: list[str]
    ) -> SavedImage:
        """Save an image; arrived are those of its files that an earlier try has written."""
        for part in _parts(call, image)[len(arrived) :]:
            file = files.publish(self.directory, *part)
            arrived.append(file)
        main = len(image.extras)
        extras, file, damaged = arrived[:main], arrived[main], arrived[main + 1 :]
        with self.journal.writing() as journal:
            journal.add_image(
                call.plan.item,
                call.take,
                pick=not call.plan.further or (call.plan.fake and not image.is_placeholder),
                file=file,
                sha256=hashlib.sha256(image.data).hexdigest(),
                bytes=len(image.data),
                usage=" ".join(map(str, astuple(image.usage))) if image.usage else None,
                elapsed=elapsed,
                extras=json.dumps(extras) if extras else None,
                prompt=call.plan.asked,
                **{name: getattr(image, name) for name in _SAME},
            )
            journal.execute("DELETE FROM attempt WHERE id = ?", (call.attempt,))
            for each in damaged:  # its cost is in that of the answer
                journal.insert(
                    "attempt", item=call.plan.item, name=each, price=0.0, began=time.time()
                )
            if image.is_placeholder:
                journal.note_fake(call.plan.item, call.take)
            if call.overrun is not None:
                journal.note_overrun(*call.overrun)
            row = journal.item(call.plan.item, call.take)
        saved = saved_image(row, self.directory, resumed=False)
        return replace(saved, damaged=tuple(self.directory / each for each in damaged))

    def costs_by_run(self) -> list[RunCost]:
        """Return what each run in the directory has paid."""
        with self.journal.writing() as journal:
            return RunCost.read(journal)

    def spent(self) -> Spent:
        """Return what all runs in the directory have paid."""
        with self.journal.writing() as journal:
            return Spent.read(journal)

    def prove(self, mark: str) -> None:
        """Note that what a mark stands for has made an image in the directory."""
        with self.journal.writing(durable=False) as journal:
            journal.prove(mark)

    def proven(self) -> list[str]:
        """Return the marks that were noted."""
        with self.journal.writing(durable=False) as journal:
            return journal.proven()

    def pin(self, models: Mapping[str, str]) -> None:
        """Note what short names of models stand for in the directory, if that is not known yet."""
        with self.journal.writing(durable=False) as journal:
            journal.pin(models)

    def overruns(self) -> list[Row]:
        """Return, by model, how far its answers have exceeded their reservations; see Overrun."""
        with self.journal.writing(durable=False) as journal:
            return journal.overruns()

    def further(
        self, index: int, namespace: str, changes: Mapping[str, Any]
    ) -> tuple[Plan, ImageRequest]:
        """Plan a further take of the prompt at an index, and return it with what to ask for.

        Raises:
            ValueError: If there is no such prompt, or not all of its request is known.
        """
        with self.journal.writing() as journal:
            found = further(journal, index, namespace)
        return changed(found, index, namespace, changes)

    def pick(self, index: int, take: int, namespace: str) -> None:
        """Choose the take that is shown.

        Raises:
            ValueError: If there is no such prompt or take.
        """
        with self.journal.writing() as journal:
            known = at(journal, index, namespace)
            is_picked = known is not None and journal.pick(known.item, take)
        if known is None:
            raise no_prompt(index, namespace)
        if not is_picked:
            raise ValueError(f"prompt {index} has no take {take}")


def _parts(call: BegunCall, image: Image) -> list[tuple[str, str, bytes]]:
    """Return name, extension and bytes of each file of an answer, in the order to publish them.

    The image comes after its extras: where it exists, the answer is complete.
    """
    key = call.plan.key
    kept = damaged_stem(key, call.attempt)
    return [
        *(
            (extra_stem(call.name, key, number), each.extension, each.data)
            for number, each in enumerate(image.extras, 2)
        ),
        (call.name, image.extension, image.data),
        *((f"{kept}-{n}", extension_of(each), each) for n, each in enumerate(image.damaged, 1)),
    ]


def _spare_descriptor() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None
