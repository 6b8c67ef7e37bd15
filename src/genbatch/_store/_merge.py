"""Merge: the directories of several machines become one, and nothing is paid again.

1. What a directory has is added to what is there already; no file and no row is overwritten.
2. A row is known by its content and its ordinal among equal ones, an image by what its row says of
   it. So what was merged before, or copied from one directory to another, is not added twice.
3. Rows are added in the order of their numbers, whichever directory they are of: the shards of an
   input get the numbers, names and order that one run would have given them.
4. A row implies its file, complete: a merge that was killed is repeated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from genbatch._values import StoreError, extension_of

from . import _files as files
from ._archive import Archive
from ._choices import add_choices, choices_of
from ._journal import DAMAGED, HIDDEN, JOURNAL, Row, RunCost, Transaction
from ._keys import SHORT_KEY, folded, key_of
from ._match import free_number
from ._plan import Plan, Policy, choose_file, extra_stem, first_stem
from ._reports import no_journal, open_in_jobs, write_results

INPUTS = "inputs"  # the directory of input images that runs have fetched, by their URLs
ANSWERS = "answers.json"  # to the doubts about lines and columns of files
_SHARD = re.compile(r" shard [0-9]+/[0-9]+\Z")
_SAME = "sha256, model, usage, cost, elapsed, response_id, prompt"  # that tells images apart
_PROMPT = _SAME.split(", ").index("prompt")
_OTHERS = ("bytes", "mime_type", "text", "made", "width", "height")
_OF_ITEM = (
    *("digest", "ordinal", "name", "namespace", "prompt", "metadata", "kind", "message"),
    *("detail", "content", "row_id", "number"),
)
_IMAGES = f"""
SELECT {_SAME}, {", ".join(_OTHERS)}, take, file, extras,
    EXISTS (SELECT 1 FROM fake WHERE fake.item = image.item AND fake.take = image.take)
FROM image WHERE item = ? ORDER BY take
"""  # noqa: S608 - our names
_HAS_TAKE = "SELECT 1 FROM image WHERE item = ? AND take = ?"
_LAST_PLACE = """
SELECT namespace, source, position FROM place JOIN batch ON batch.id = place.batch
WHERE item = ? ORDER BY batch DESC
"""
_UNREAD = """
SELECT namespace, source, max(0, size - read) FROM batch WHERE id IN (
    SELECT max(id) FROM batch GROUP BY namespace, source)
"""


class Merged(NamedTuple):
    """What a merge has done.

    Attributes:
        prompts: In the directories merged, equal ones counted once.
        images: Copied.
        known: Images that were there already.
        pins: Short names of models that stand for different ones in the directories.
    """

    prompts: int
    images: int
    known: int
    pins: list[str]


class _ItemOfSource(NamedTuple):
    """All that a directory has of an item."""

    columns: dict[str, Any]
    pick: int | None
    images: list[Row]
    attempts: list[Row]
    former: list[Row]
    choices: list[Row]
    place: Row | None

    @property
    def key(self) -> str:
        return key_of(self.columns["digest"], self.columns["ordinal"])

    def with_inputs_in(self, directory: Path) -> _ItemOfSource:
        """Return it with the input images that runs have fetched where a directory has them."""
        prompt = self.columns["prompt"]
        attempts = [(n, _with_inputs(each, directory), *rest) for n, each, *rest in self.attempts]
        images = [
            (*row[:_PROMPT], _with_inputs(row[_PROMPT], directory), *row[_PROMPT + 1 :])
            for row in self.images
        ]
        columns = {**self.columns, "prompt": _with_inputs(prompt, directory)}
        return self._replace(columns=columns, images=images, attempts=attempts)


def merge(
    sources: Sequence[Path],
    directory: Path,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> Merged:
    """Add all that directories have to another one, which may be new.

    Args:
        sources: That runs have written. They keep what they have.
        directory: Where it is to be.
        progress: Called with the number of prompts done, and of all.

    Raises:
        ValueError: If a directory is named twice.
        StoreError: If one has no journal, cannot be read or written, is in use, or has open jobs.
    """
    places = Counter(path.resolve() for path in (*sources, directory))
    for place, times in places.items():
        if times > 1:
            raise ValueError(f"{place} is named twice: merge different folders into another one")
    for path in sources:
        if not os.path.lexists(path / HIDDEN / JOURNAL):
            raise no_journal(path)
    with ExitStack() as opened:
        archives = []
        for path in (*sources, directory):
            archives.append(Archive(Policy(path), fresh=False))
            opened.callback(archives[-1].close)
        *read, into = archives
        merged = _Merge(into).add(read, progress)
        with suppress(StoreError):  # export gives it again
            write_results(directory)
    return merged


class _Merge:
    def __init__(self, into: Archive) -> None:
        self._into = into
        self._batches: dict[tuple[str, str], int] = {}  # by namespace and input
        self._copied = self._known = 0
        self._items: set[int] = set()

    def add(self, sources: Sequence[Archive], progress: Callable[[int, int], object]) -> Merged:
        """Add what directories have, and return what was done."""
        order: list[tuple[str, int, int, int]] = []
        for number, source in enumerate(sources):
            with source.journal.writing(durable=False) as journal:
                if jobs := open_in_jobs(journal)[0]:
                    raise StoreError(
                        f"{source.directory} has {jobs} prompts in jobs: collect them first, by "
                        "running it with --via batch"
                    )
                rows = journal.execute("SELECT namespace, number, id FROM item").fetchall()
            order += [(namespace, index, number, item) for namespace, index, item in rows]
        for source in sources:
            _add_inputs(source.directory, self._into.directory)
            _add_answers(source.directory, self._into.directory)
        pins = self._add_what_is_common(sources)
        for done, (_, _, number, item) in enumerate(sorted(order)):
            progress(done, len(order))
            self._add_item(sources[number], item)
        self._count_unread(sources)
        return Merged(len(self._items), self._copied, self._known, pins)

    def _add_what_is_common(self, sources: Sequence[Archive]) -> list[str]:
        """Add what is not of a single item; return the short names that are pinned differently."""
        pins: list[str] = []
        for source in sources:
            with source.journal.writing(durable=False) as journal:
                runs, proven = RunCost.read(journal), journal.proven()
                pinned, overruns = journal.pinned(), journal.overruns()
            with self._into.journal.writing(durable=False) as journal:
                known = {began for (began,) in journal.execute("SELECT began FROM session")}
                for began in sorted({run.began for run in runs} - known):
                    journal.insert("session", began=began)
                for mark in proven:
                    journal.prove(mark)
                for overrun in overruns:
                    journal.note_overrun(*overrun)
                if pinned:
                    journal.pin(pinned)
                    now = journal.pinned()
                    pins += [name for name, model in pinned.items() if now[name] != model]
        return pins

    def _add_item(self, source: Archive, number: int) -> None:
        with source.journal.writing(durable=False) as journal:
            found = _read(journal, number)
        found = found.with_inputs_in(self._into.directory)
        with self._into.journal.writing(durable=False) as journal:
            item, pick = self._find_or_add(journal, found)
            self._items.add(item)
            takes = self._add_images(journal, item, found, source.directory)
            if pick is None and found.pick in takes:
                journal.pick(item, takes[found.pick])
            elif pick is None and not takes:
                journal.execute(
                    """UPDATE item SET kind = ?, message = ?, detail = ?
                    WHERE id = ? AND kind IS NULL""",
                    (*map(found.columns.get, ("kind", "message", "detail")), item),
                )
            self._add_attempts(journal, item, found, source.directory)
            for content, chosen in found.former:
                values = (item, content, takes.get(chosen))
                journal.execute("INSERT OR IGNORE INTO former VALUES (?, ?, ?)", values)
            if found.choices:
                chosen = [(takes[take], *rest) for take, *rest in found.choices if take in takes]
                add_choices(journal, item, chosen)
            if found.place is not None:
                self._put(journal, item, *found.place)

    def _find_or_add(self, journal: Transaction, found: _ItemOfSource) -> tuple[int, int | None]:
        """Return the item here, and the take that is picked of it."""
        columns = found.columns
        sql = "SELECT id, pick FROM item WHERE digest = ? AND ordinal = ?"
        if known := journal.first(sql, columns["digest"], columns["ordinal"]):
            return int(known[0]), known[1]
        name = _free_name(journal, columns["name"], found.key)
        number = free_number(journal, columns["namespace"], columns["number"])
        changed = {"name": name, "folded": folded(name), "number": number}
        failure = dict.fromkeys(("kind", "message", "detail"))  # noted where no image follows
        return journal.insert("item", **columns | failure | changed), None

    def _add_images(
        self, journal: Transaction, item: int, found: _ItemOfSource, directory: Path
    ) -> dict[int, int]:
        """Add the images that are not here yet; return which take here is which one there."""
        same = len(_SAME.split(","))
        known = {row[-4]: row[:same] for row in journal.execute(_IMAGES, (item,))}
        takes: dict[int, int] = {}
        for row in found.images:
            take, file, extras, is_fake = row[-4:]
            here = next((each for each, said in known.items() if said == row[:same]), None)
            if here is not None:
                del known[here]
                self._known += 1
            else:
                is_taken = journal.first(_HAS_TAKE, item, take)
                here = journal.next_take(item) if is_taken else take
                names = dict(zip((*_SAME.split(", "), *_OTHERS), row, strict=False))
                parts = [file, *json.loads(extras or "[]")]
                name, *further = self._copy(journal, item, here, found.key, directory, parts)
                names |= {"file": name, "extras": json.dumps(further) if further else None}
                journal.add_image(item, here, pick=False, **names)
                if is_fake:
                    journal.note_fake(item, here)
                self._copied += 1
            takes[take] = here
        return takes

    def _copy(
        self,
        journal: Transaction,
        item: int,
        take: int,
        key: str,
        directory: Path,
        parts: Sequence[str],
    ) -> Iterator[str]:
        """Copy the image of a take, and the further ones of its answer; yield their names here."""
        into = self._into.directory
        (name,) = journal.first("SELECT name FROM item WHERE id = ?", item)
        plan = Plan(key, name, item=item)
        stem = first_stem(plan, take)
        data = files.read(directory / parts[0])
        there = files.find(into, stem)
        # A merge that was killed may have copied it without its row.
        if there is None or journal.is_known(there) or files.read(into / there) != data:
            stem = choose_file(into, plan, take)
        for number, part in enumerate(parts, 1):
            each = stem if number == 1 else extra_stem(stem, key, number)
            yield _copy_file(directory / part, into, each)

    def _add_attempts(
        self, journal: Transaction, item: int, found: _ItemOfSource, directory: Path
    ) -> None:
        """Add attempts that were paid, or may have been, with what came in place of images."""
        sql = "SELECT name, prompt, price, began FROM attempt WHERE item = ?"
        known = Counter(journal.execute(sql, (item,)).fetchall())
        for name, *rest in found.attempts:
            if name.startswith(DAMAGED):
                # An attempt has another number here, by which an earlier file may be named.
                data = files.read(directory / name)
                if data is not None:
                    stem = f"{DAMAGED}{found.key}-{sha256(data).hexdigest()[:16]}"
                    there = name
                    name = _copy_file(directory / there, self._into.directory, stem)
                    journal.execute(
                        "UPDATE item SET message = replace(message, ?, ?) WHERE id = ?",
                        (there, name, item),
                    )
            row = (name, *rest)
            if known[row]:
                known[row] -= 1
                continue
            values = zip(("name", "prompt", "price", "began"), row, strict=True)
            journal.insert("attempt", item=item, **dict(values))

    def _put(
        self, journal: Transaction, item: int, namespace: str, source: str, position: int
    ) -> None:
        """Give an item its place in the input that it is of, or the next free one."""
        batch = self._batch(journal, namespace, source)
        if journal.first("SELECT 1 FROM place WHERE item = ? AND batch = ?", item, batch):
            return
        if journal.at(batch, position) is not None:
            (last,) = journal.first("SELECT max(position) FROM place WHERE batch = ?", batch)
            position = last + 1
        journal.put(batch, [(item, position)])

    def _batch(self, journal: Transaction, namespace: str, source: str) -> int:
        """Return the input here that prompts of some files belong to, whichever shard it was."""
        wanted = (namespace, _files_of(source))
        if wanted not in self._batches:
            for number, each in journal.execute(
                "SELECT id, source FROM batch WHERE namespace = ? ORDER BY id", (namespace,)
            ):
                self._batches[namespace, _files_of(each)] = number
        if wanted not in self._batches:
            values = {"session": self._into.session, "namespace": namespace}
            source = _SHARD.sub("", source)
            self._batches[wanted] = journal.insert("batch", **values, source=source)
        return self._batches[wanted]

    def _count_unread(self, sources: Sequence[Archive]) -> None:
        """Note how many prompts of each input are still to be read."""
        unread: Counter[tuple[str, str]] = Counter()
        for source in sources:
            with source.journal.writing(durable=False) as journal:
                for namespace, files_of, number in journal.execute(_UNREAD).fetchall():
                    unread[namespace, _files_of(files_of)] += number or 0
        with self._into.journal.writing() as journal:
            for wanted, batch in self._batches.items():
                if wanted not in unread:
                    continue
                (read,) = journal.first("SELECT count(*) FROM place WHERE batch = ?", batch)
                values = (read, read + unread[wanted], batch)
                journal.execute("UPDATE batch SET read = ?, size = ? WHERE id = ?", values)


def _read(journal: Transaction, item: int) -> _ItemOfSource:
    """Return all that a journal has of an item."""
    sql = f"SELECT pick, {', '.join(_OF_ITEM)} FROM item WHERE id = ?"  # noqa: S608 - our names
    pick, *values = journal.first(sql, item)
    attempts = "SELECT name, prompt, price, began FROM attempt WHERE item = ? ORDER BY id"
    return _ItemOfSource(
        dict(zip(_OF_ITEM, values, strict=True)),
        pick,
        journal.execute(_IMAGES, (item,)).fetchall(),
        journal.execute(attempts, (item,)).fetchall(),
        journal.execute("SELECT content, pick FROM former WHERE item = ?", (item,)).fetchall(),
        choices_of(journal, item),
        journal.first(_LAST_PLACE, item),
    )


def _add_inputs(directory: Path, into: Path) -> None:
    """Copy the input images that runs have fetched; each is complete or absent."""
    found = directory / HIDDEN / INPUTS
    for path in sorted(found.iterdir()) if found.is_dir() else ():
        there = into / HIDDEN / INPUTS / path.name
        if path.suffix == ".part" or there.exists():
            continue
        files.make_private(there.parent)
        part = there.with_suffix(".part")
        shutil.copyfile(path, part)
        os.replace(part, there)


def _with_inputs(prompt: str | None, directory: Path) -> str | None:
    """Return a request, as JSON, whose fetched input images are those of a directory."""
    asked = json.loads(prompt) if prompt and HIDDEN in prompt else {}
    for number, image in enumerate(asked.get("images", ())):
        there = directory / HIDDEN / INPUTS / os.path.basename(image or "")
        if image and Path(image).parts[-3:-1] == (HIDDEN, INPUTS) and there.exists():
            asked["images"][number] = str(there)
            prompt = json.dumps(asked)
    return prompt


def _add_answers(directory: Path, into: Path) -> None:
    """Add the answers to doubts; one that is there already counts."""
    paths = [each / HIDDEN / ANSWERS for each in (into, directory)]
    there, found = (_json_object(path) for path in paths)
    added = {file: {**kinds, **there.get(file, {})} for file, kinds in found.items()}
    if added:
        files.replace(paths[0], iter([json.dumps(there | added, indent=1)]))


def _json_object(path: Path) -> dict[str, dict[str, int]]:
    """Return the object in a file, an empty one where it is missing or damaged."""
    with suppress(ValueError):
        found = json.loads(files.read(path) or b"{}")
        if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()):
            return found
    return {}


def _free_name(journal: Transaction, name: str, key: str) -> str:
    """Return a name for an item: its own, or with more of its key where another has that."""
    stem = name.removesuffix(f"-{key[:SHORT_KEY]}")
    for each in (name, *(f"{stem}-{key[:length]}" for length in (SHORT_KEY, 12, len(key)))):
        if journal.first("SELECT 1 FROM item WHERE folded = ?", folded(each)) is None:
            return each
    raise StoreError(f"the name {name} is taken: merge into a new folder")


def _files_of(source: str) -> str:
    """Return what tells an input from others, wherever its files are and whichever shard it is."""
    whole = _SHARD.sub("", source)
    with suppress(ValueError, TypeError):
        return json.dumps([os.path.basename(name) for name in json.loads(whole)])
    return whole


def _copy_file(path: Path, directory: Path, stem: str) -> str:
    """Copy a file to a directory, unless it is there; return its name, also of one that is gone."""
    data = files.read(path)
    name = f"{stem}{path.suffix}"
    if data is None or files.read(directory / name) == data:
        return name
    return files.publish(directory, stem, path.suffix or extension_of(data), data)
