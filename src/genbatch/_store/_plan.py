"""Plan: what a store knows of a request before its call."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count, takewhile
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from genbatch._values import (
    UNKNOWN_EXTENSION,
    Blocked,
    DamagedImage,
    GenbatchError,
    ImageMissing,
    ImageRequest,
    NoImage,
    Rejected,
    SavedImage,
    StoreError,
    Usage,
    dimensions,
    sniff_mime_type,
)

from . import _files as files
from ._journal import (
    DAMAGED,
    HIDDEN,
    JOURNAL,
    ROW_ERRORS,
    ItemRow,
    Transaction,
    check_types,
    journal_error,
    storable,
)
from ._keys import DEFAULT_TEMPLATE, SHORT_KEY, candidates, folded, key_of

# The same request would only fail again: not asked, nor paid, twice.
_FINAL: tuple[type[GenbatchError], ...] = (Blocked, NoImage, Rejected, DamagedImage)
FINAL = {kind.__name__: kind for kind in _FINAL}
_KEPT = ("id", "variant", "filename", "model", "aspect_ratio", "image_size", "seed", "service")
_ATTEMPTS = """
SELECT attempt.id, item, attempt.name, attempt.prompt, price, job, digest, ordinal
FROM attempt JOIN item ON item.id = attempt.item
"""
_DETAILS = ("reason", "text", "status", "request_id")


class Plan(NamedTuple):
    """What is known of a request: to be made, made, or not to be made.

    Attributes:
        key: SHA-256, in hex, of all that is asked for; see Store.
        stem: File name of its image, without the extension.
        saved: The image, if there is one.
        error: Why it is not to be made: the failure of an earlier run, or ImageMissing.
        item: Its number in the journal.
        metadata: The prompt's, as JSON.
        asked: What a further take is asked for in place of the first, as JSON.
        further: Whether a further take is wanted beside the image that there is.
        fake: Whether the image that there is was made by a fake service.
    """

    key: str
    stem: str
    saved: SavedImage | None = None
    error: GenbatchError | None = None
    item: int = 0
    metadata: str = ""
    asked: str | None = None
    further: bool = False
    fake: bool = False


@dataclass(slots=True)
class BegunCall:
    """A call that was begun: what it is to make, and the row of its latest attempt.

    Attributes:
        overrun: The model, and how far its answer has exceeded what was reserved: most images,
            ratio, excess in US dollars.
    """

    plan: Plan
    take: int
    name: str
    attempt: int | None = None
    overrun: tuple[str, int, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Where images are saved, how they are named, and what is made again.

    Attributes:
        directory: Of the store.
        template: How files are named; see Store.
        redo_missing: Whether images whose files are gone are.
        retry_failed: Which prompts that failed for good are: all, none, or those of some kinds,
            ``"Blocked"``, ``"NoImage"``, ``"Rejected"``, ``"DamagedImage"``.
    """

    directory: Path
    template: str = DEFAULT_TEMPLATE
    redo_missing: bool = False
    retry_failed: bool | Collection[str] = False

    def plan(self, known: ItemRow, is_there: bool | None = None) -> Plan:
        """Return the plan of a request; this looks for its file if that is not known."""
        try:
            check_types(known)
            return self._plan(known, is_there)
        except ROW_ERRORS as exc:
            raise journal_error("read", self.directory / HIDDEN / JOURNAL, exc) from exc

    def _plan(self, known: ItemRow, is_there: bool | None) -> Plan:
        if is_there is None:
            is_there = has_file(known.file, f"{self.directory}{os.sep}")
        saved: SavedImage | None = None
        error: GenbatchError | None = None
        if known.take is not None:
            if is_there:
                saved = saved_image(known, self.directory, resumed=True)
            elif not self.redo_missing:
                path = self.directory / known.file
                what = files.wrong_kind(path) or "is gone, but it was paid for"
                error = ImageMissing(f"{path} {what}")
        elif known.kind in FINAL and not self.retries(known.kind):
            error = FINAL[known.kind](known.message or "", **json.loads(known.detail or "{}"))
        return Plan(
            key_of(known.digest, known.ordinal),
            known.name,
            saved,
            error,
            known.item,
            known.metadata,
            fake=bool(known.fake),
        )

    def retries(self, kind: str) -> bool:
        """Return whether prompts that failed for good with this kind of error are made again."""
        if isinstance(self.retry_failed, bool):
            return self.retry_failed
        return kind in self.retry_failed


def has_file(name: str | None, prefix: str) -> bool:
    """Return whether a file, if there is to be one, is there: a directory before its name."""
    try:
        return name is not None and S_ISREG(os.lstat(prefix + name).st_mode)
    except OSError:
        return False


def saved_image(known: ItemRow, directory: Path, *, resumed: bool) -> SavedImage:
    """Return the image of a row."""
    return SavedImage(
        path=directory / known.file,
        mime_type=known.mime_type,
        size_mb=known.bytes / 1e6,
        sha256=known.sha256,
        cost=known.cost,
        resumed=resumed,
        model=known.model,
        usage=Usage(*map(int, known.usage.split())) if known.usage else None,
        text=known.text,
        extras=tuple(directory / name for name in json.loads(known.extras)) if known.extras else (),
        width=known.width,
        height=known.height,
    )


def note_failure(journal: Transaction, call: BegunCall, error: Exception) -> None:
    """Record why a call returned no image; what is kept in place of it was paid for."""
    if isinstance(error, DamagedImage) and error.file is not None:
        journal.execute(
            "UPDATE attempt SET name = ?, price = coalesce(?, price) WHERE id = ?",
            (error.file, error.cost, call.attempt),
        )
        (known,) = journal.first("SELECT count(*) FROM attempt WHERE name = ?", error.file)
        for _ in range(known, error.images):  # their cost is in that of the first
            journal.execute(
                """INSERT INTO attempt (item, name, price, began)
                SELECT item, name, 0.0, began FROM attempt WHERE id = ?""",
                (call.attempt,),
            )
    if isinstance(error, DamagedImage) and call.overrun is not None:
        journal.note_overrun(*call.overrun)
    if call.plan.further:
        return
    found = {name: getattr(error, name, None) for name in _DETAILS}
    detail = json.dumps({name: value for name, value in found.items() if value})
    journal.execute(
        "UPDATE item SET kind = ?, message = ?, detail = ? WHERE id = ?",
        (type(error).__name__, storable(str(error)), detail, call.plan.item),
    )


def damaged_stem(key: str, attempt: int | None) -> str:
    """Return the name, without extension, of what came in place of the image of an attempt."""
    return f"{DAMAGED}{key}-{attempt}"


def request_to_json(request: ImageRequest) -> str:
    """Return what is asked for, but for the metadata; bytes of input images are not kept."""
    images = [image if isinstance(image, bytes) else str(image) for image in request.images]
    own = {name: getattr(request, name) for name in _KEPT} | {
        "images": [None if isinstance(image, bytes) else image for image in images],
        "settings": request.options,
    }
    given = {name: value for name, value in own.items() if value not in (None, [], {}, "")}
    return json.dumps({"text": request.text, **given}, default=_no_json)


def request_from_json(content: str, metadata: str) -> ImageRequest | None:
    """Return what was asked for, None if it had bytes or settings that are not kept."""
    request = kept_request(content)
    if b"" in request.images or _is_marked(request.options):
        return None
    return replace(request, metadata=json.loads(metadata) if metadata else {})


def kept_request(content: str) -> ImageRequest:
    """Return what is kept of a request: no metadata, and no bytes where it worked from bytes."""
    asked = json.loads(content)
    options = asked.pop("settings", {})
    images = tuple(b"" if each is None else each for each in asked.pop("images", ()))
    return ImageRequest(**asked, **options, images=images)


def metadata_to_json(metadata: Mapping[str, object]) -> str:
    """Return the metadata of a prompt, empty where there is none."""
    return json.dumps(dict(metadata), default=str) if metadata else ""


def _no_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else {"not kept": repr(value)}


def _is_marked(value: object) -> bool:
    if isinstance(value, dict):
        return "not kept" in value or any(map(_is_marked, value.values()))
    return isinstance(value, list) and any(map(_is_marked, value))


@dataclass(slots=True)
class PlanRequest:
    """A request to be planned, then its plan or why it cannot be."""

    index: int
    request: ImageRequest
    content: str
    metadata: str
    digest: str
    earlier: str
    ordinal: int = 0  # among those first seen with the same content, once it is planned
    plan: Plan | None = None
    error: Exception | None = None

    @classmethod
    def of(
        cls, index: int, request: ImageRequest, digest: str, earlier: str | None = None
    ) -> PlanRequest:
        """Return the request at an index to be planned; its digest may once have been another."""
        metadata = metadata_to_json(request.metadata)
        content = request_to_json(request)
        return cls(index, request, content, metadata, digest, earlier or digest)


def choose_name(
    journal: Transaction, wanted: PlanRequest, number: int, key: str, policy: Policy
) -> tuple[str, dict[str, Any] | None]:
    """Return the name of a new item and, if its image exists already, the row of that."""
    for name in candidates(policy.template, number, wanted.request, key):
        if journal.first("SELECT 1 FROM item WHERE folded = ?", folded(name)) is not None:
            continue
        if files.find(policy.directory, name) is None:
            return name, None
        if name == with_key(name, key) and (image := _look(journal, policy.directory, name, key)):
            return name, image  # its row was lost, or there was no journal yet
    raise StoreError(f"{policy.directory / name} and others are in the way: move them elsewhere")


def at(journal: Transaction, index: int, namespace: str) -> ItemRow | None:
    """Return the item with a number in a namespace, None if there is none."""
    sql = "SELECT id FROM item WHERE namespace = ? AND number = ?"
    row = journal.first(sql, namespace, index)
    return None if row is None else journal.item(*row)


def further(
    journal: Transaction, index: int, namespace: str
) -> tuple[Plan, ImageRequest | None] | None:
    """Plan a further take of the prompt at an index, and return it with what was asked for.

    Returns:
        None in place of what was asked for where that is not kept, None if there is no such prompt.
    """
    known = at(journal, index, namespace)
    if known is None:
        return None
    (content,) = journal.first("SELECT prompt FROM item WHERE id = ?", known.item)
    key, is_fake = key_of(known.digest, known.ordinal), bool(known.fake)
    plan = Plan(key, known.name, item=known.item, further=True, fake=is_fake)
    return plan, request_from_json(content, known.metadata)


def changed(
    found: tuple[Plan, ImageRequest | None] | None,
    index: int,
    namespace: str,
    changes: Mapping[str, Any],
) -> tuple[Plan, ImageRequest]:
    """Return what further has found with other fields of the request.

    Raises:
        ValueError: If there is no such prompt, or not all of its request is known.
    """
    if found is None:
        raise no_prompt(index, namespace)
    plan, request = found
    if request is None:
        raise ValueError(
            f"prompt {index} cannot be asked for again: it was asked for with bytes or "
            "settings that the journal does not keep"
        )
    if changes:
        request = replace(request, **changes)
        plan = plan._replace(asked=request_to_json(request))
    return plan, request


def no_prompt(index: int, namespace: str) -> ValueError:
    """Return the error of an index without a prompt."""
    where = f" of namespace {namespace!r}" if namespace else ""
    return ValueError(f"there is no prompt {index} in the latest input{where}")


def with_key(name: str, key: str) -> str:
    """Return name, with a part of the key where it has none: no other request gets that."""
    return name if key[:SHORT_KEY] in name else f"{name}-{key[:SHORT_KEY]}"


def choose_file(directory: Path, plan: Plan, take: int) -> str:
    """Return the name of the file of a take: what is in the way now is not taken for it later."""
    first = first_stem(plan, take)
    name = with_key(first, plan.key)
    names = chain((first, name), (f"{name}.{turn}" for turn in count(2)))
    return next(each for each in names if files.find(directory, each) is None)


def first_stem(plan: Plan, take: int) -> str:
    """Return the name of the file of a take where nothing is in its way."""
    return plan.stem if take == 1 else f"{with_key(plan.stem, plan.key)}-take{take}"


def adopt_orphans(journal: Transaction, directory: Path) -> None:
    """Give their rows to images that were published and whose runner died before it noted it.

    Their names are those of attempts, which were noted first. Of an answer that was cut off there
    are only further images: one of them is taken, and the attempt is still one of no known end.
    """
    rows = journal.execute(_ATTEMPTS).fetchall()
    for number, item, name, prompt, price, job, digest, ordinal in rows:
        key = key_of(digest, ordinal)
        file = files.find(directory, damaged_stem(key, number), UNKNOWN_EXTENSION)
        if file is not None and file != name and job is None:  # a job is read again
            error = DamagedImage("an invalid image came")
            error.file = file
            note_failure(journal, BegunCall(Plan(key, name, item=item), 1, name, number), error)
        elif (image := _look(journal, directory, name, key)) is not None:
            take = journal.next_take(item)
            images = 1 + len(json.loads(image["extras"] or "[]"))
            cost = None if price is None else price * images
            journal.add_image(item, take, pick=False, prompt=prompt, cost=cost, **image)
            if Path(image["file"]).stem == name:
                journal.execute("DELETE FROM attempt WHERE id = ?", (number,))


def adopt_lost(journal: Transaction, directory: Path, plan: Plan) -> None:
    """Add the lost row of an image that exists where a call is about to begin."""
    if journal.job_of(plan.item) is not None:
        return  # which may have published it just now, and notes it next
    if plan.stem == with_key(plan.stem, plan.key) and journal.next_take(plan.item) == 1:
        if (image := _look(journal, directory, plan.stem, plan.key)) is not None:
            add_lost(journal, directory, plan, image)


def add_lost(
    journal: Transaction, directory: Path, plan: Plan, image: dict[str, Any] | None
) -> None:
    """Add the row of the first take of an item, and those of the further ones that there are."""
    for take in count(2):
        if image is None:
            return
        journal.add_image(plan.item, take - 1, pick=take == 2, **image)
        image = _look(journal, directory, first_stem(plan, take), plan.key)


def _look(journal: Transaction, directory: Path, name: str, key: str) -> dict[str, Any] | None:
    """Return the row for the images of an answer with this name, if there are any without one."""
    further = (files.find(directory, extra_stem(name, key, number)) for number in count(2))
    found = [files.find(directory, name), *takewhile(bool, further)]
    unknown = [each for each in found if each and not journal.is_known(each)]
    if not unknown or (data := files.read(directory / unknown[0])) is None:
        return None
    file, *extras = unknown
    if (mime_type := sniff_mime_type(data)) is None:
        return None
    width, height = dimensions(data) or (None, None)
    return {
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "mime_type": mime_type,
        "width": width,
        "height": height,
        "extras": json.dumps(extras) if extras else None,
    }


def extra_stem(name: str, key: str, number: int) -> str:
    """Return the name of a further image, counted from 2, of the answer whose image has a name."""
    return f"{with_key(name, key)}-{number}"
