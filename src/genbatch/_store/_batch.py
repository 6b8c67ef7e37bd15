"""Batch: one input of a store, planned prompt by prompt as it is pulled.

An input that an earlier run has read comes in the same order, mostly. So each look into the journal
brings along what came next then: a run that resumes asks once in a thousand prompts, and keeps no
more than those in memory. What is not previewed is looked up, for all who wait together.
"""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from genbatch._core import ParkingLot
from genbatch._values import ImageRequest, StoreError

from ._journal import ItemRow, Row
from ._keys import both_digests
from ._match import BatchInput
from ._plan import Plan, PlanRequest, metadata_to_json

if TYPE_CHECKING:
    from ._store import Store

_LEAST_AHEAD = 16
_METADATA = ItemRow._fields.index("metadata")
_MOST_AHEAD = 1024  # requests previewed, about a kilobyte each


class Batch:
    """One input of a store; made by Store.batch.

    Args:
        place: Does the work in threads; open when the first prompt is planned.
        namespace: Its prompts share no image with those of another.
        asked: What is known of the input.
    """

    def __init__(self, place: Store, namespace: str, asked: BatchInput | None = None) -> None:
        self._place = place
        self._namespace = namespace
        self._asked = asked or BatchInput()
        self._upcoming: dict[int, Row] = {}  # by position, where it is planned ahead
        self._number = 0
        self._previewed: dict[str, list[Row]] = {}  # by digest; of equal prompts the last one first
        self._hits = 0
        self._places: dict[int, int] = {}  # of items that were previewed, not yet in the journal
        self._wanted: list[PlanRequest] = []
        self._asking = False
        self._answered = ParkingLot()

    async def plan(self, index: int, request: ImageRequest) -> Plan:
        """Return what is known of a request, and fix the name of its file.

        Args:
            index: Position of the prompt in this input.
            request: With its model's full id.

        Raises:
            OSError: If an input image cannot be read.
            StoreError: If the journal cannot be written, or no name is free.
        """
        digests = partial(both_digests, self._namespace, request, self._asked.canonical)
        digest, earlier = await self._place.run_in_thread(digests) if request.images else digests()
        metadata = metadata_to_json(request.metadata)
        if (plan := self.recall(digest, index, metadata, request.id)) is not None:
            return plan
        wanted = PlanRequest.of(index, request, digest, earlier)
        self._wanted.append(wanted)
        while (plan := wanted.plan) is None:
            if wanted.error is not None:
                raise wanted.error
            if self._asking:
                await self._answered.park()
            # Another prompt's look into the journal may have fetched it.
            elif wanted in self._wanted and (
                plan := self.recall(digest, index, metadata, request.id)
            ):
                self._wanted.remove(wanted)
                return plan
            else:
                await self._ask()
        return plan

    async def end(self, *, whole: bool) -> None:
        """Note the order of the input; where the disk is full, the next run does.

        Args:
            whole: Whether it was read to its end: it then takes the place of earlier ones.
        """
        if self._number:
            places, self._places = self._places, {}
            end = partial(self._place.archive.end_batch, self._number, places, whole=whole)
            with suppress(StoreError):  # a save has reported the disk already
                await self._place.run_in_thread(end)

    def recall(
        self, digest: str, index: int, metadata: str = "", row_id: str | None = None
    ) -> Plan | None:
        """Return what is known of a request without asking the journal, None if that must be asked.

        Args:
            digest: Of its content.
            index: Position of the prompt in this input.
            metadata: The prompt's, as JSON.
            row_id: The prompt's.
        """
        row = self._upcoming.pop(index, None)
        is_ahead = row is not None
        if row is None:
            if not (rows := self._previewed.get(digest)):
                return None
            row = rows.pop()
        if row[-2:] != (digest, row_id) or row[_METADATA] != metadata:
            self._previewed.pop(digest, None)  # the journal may give this row one of them
            return None
        plan = self._place.archive.recall(row)
        self._hits += 1
        if not is_ahead:
            self._places[plan.item] = index
        return plan

    async def _ask(self) -> None:
        """Look up all that is wanted now."""
        self._asking = True
        wanted, self._wanted = self._wanted, []
        places, self._places = self._places, {}
        ahead = min(max(4 * self._hits, _LEAST_AHEAD), _MOST_AHEAD)
        try:
            following = await self._place.run_in_thread(self._plan, wanted, places, ahead)
        except Exception as exc:  # noqa: BLE001 - raised in each task that waits
            self._places = places | self._places
            for each in wanted:
                each.error = copy(exc)  # each prompt its own: a raised one grows its traceback
        else:
            if following:
                self._preview(following, wanted)
        finally:
            self._asking = False
            self._answered.unpark()

    def _plan(self, wanted: list[PlanRequest], places: dict[int, int], ahead: int) -> list[Row]:
        if not self._number:
            self._number = self._place.archive.begin_batch(self._namespace, self._asked)
        return self._place.archive.plan(self._number, self._namespace, wanted, places, ahead)

    def _preview(self, following: list[Row], wanted: list[PlanRequest]) -> None:
        """Keep what probably comes next; equal prompts get their images in order."""
        self._hits = 0
        self._previewed = {}
        if self._asked.is_planned_ahead:
            self._upcoming = {position: tuple(row) for position, *row in following}
            return
        next_ones = {each.digest: each.ordinal + 1 for each in wanted if each.plan}
        for row in following:
            item, ordinal, digest = row[0], row[2], row[-2]
            if ordinal != next_ones.get(digest, 0):
                continue  # one before it is still to come
            next_ones[digest] = ordinal + 1
            if item not in self._places:  # or it was taken meanwhile
                self._previewed.setdefault(digest, []).insert(0, row)
