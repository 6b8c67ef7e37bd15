"""Copies of images: as they are or converted, with names, texts beside them, and as data sets.

1. A copy is complete under its name, and nothing of others is overwritten or written through.
2. The same call again writes what is missing, or was made in another way, and nothing else.
3. A data set is what was last selected: our files that are no part of it any more are removed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, count, islice
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from genbatch._store import (
    HIDDEN,
    JOURNAL,
    check_template,
    flat_row,
    laid_out,
    place,
    read_file,
    safe_name,
    wrong_kind,
)
from genbatch._values import EXTENSIONS, ImageRequest

from ._convert import Conversion, Converted
from ._copylog import CopyLog, LoggedFile, opened
from ._rows import KeptRows, Row

# Those of the template of a run, but for the input, which rows do not have.
NAME_FIELDS = ("index", "slug", "key", "id", "name", "seed", "model", "n", "take")
SPLIT = "train"  # of a data set; without one its readers take words of file names for it
_METADATA = f"{SPLIT}/metadata.jsonl"
_MOST_FILES = 10_000  # in a folder that Hugging Face takes
_THREADS = min(8, os.cpu_count() or 1)
_CLAIMED = 200  # names at a time
_MOST_PROBLEMS = 100
_EARLY = 1_000  # rows of a data set, from which its readers tell the kinds of columns
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_OF_ROW = ("index", "id", "base_id", "variant", "prompt", "model", "take", "cost")
_CHOSEN = ("verdict", "stars", "note")
_SAFE = re.compile(r'[^\x00-\x1f\x7f/\\:*?"<>|]{1,160}')


@dataclass(slots=True)
class Copied:
    """What was copied.

    Attributes:
        copied: Images that were written now.
        there: Images that an earlier call had written.
        removed: Files of a data set that are no part of it any more.
        bytes: Of the images that were written now.
        problems: Why images were left out, a line each, as far as they are not too many.
        failed: How many were left out.
    """

    copied: int = 0
    there: int = 0
    removed: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    failed: int = 0

    def leave_out(self, problem: str) -> None:
        """Note why an image is left out."""
        self.failed += 1
        if self.failed <= _MOST_PROBLEMS:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """How images are copied.

    Attributes:
        directory: That a Store has written.
        out: The folder of the copies.
        conversion: What is done to them.
        template: Of their names; those of the directory without one.
        sidecar: ``"json"`` or ``"txt"``: what is written in a file beside each.
        layout: ``"imagefolder"`` or ``"parquet"``: a data set of Hugging Face.

    Raises:
        ValueError: If the template is malformed, or out is no place for copies.
    """

    directory: Path
    out: Path
    conversion: Conversion
    template: str | None = None
    sidecar: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None:
            check_template(self.template, NAME_FIELDS)
        if self.layout == "parquet" and self.sidecar is not None:
            raise ValueError(
                "--sidecar goes with copies as files: rows of Parquet have what it would say"
            )
        ours, out = self.directory.resolve(), self.out.resolve()
        if ours == out or ours in out.parents:
            raise ValueError(f"{self.out} is in {self.directory}: choose a folder outside of it")
        if self.layout is not None and out in ours.parents:
            raise ValueError(f"{self.directory} is in {self.out}: a data set has its own folder")
        if (self.out / HIDDEN / JOURNAL).exists():
            raise ValueError(f"{self.out} is the folder of a run: choose another one for copies")
        if problem := wrong_kind(out, "directory"):
            raise ValueError(f"{self.out} {problem}")

    def stems(self, row: Row, position: int) -> Iterator[str]:
        """Yield the names that the copy of an image may have, without extension, the best first."""
        stem = self._stem(row)
        if self.layout is not None:
            stem = stem.replace("/", "-")
        if self.layout == "imagefolder":
            files = _MOST_FILES // (1 if self.sidecar is None else 2)
            stem = f"{SPLIT}/{position // files:04d}/{stem}"
        key, take = row["key"], row["take"]
        yield stem
        yield f"{stem}-{key[:6]}"
        yield f"{stem}-{key[:12]}-take{take}"
        yield from (f"{stem}-{key[:12]}-take{take}-{number}" for number in count(2))

    def _stem(self, row: Row) -> str:
        if self.template is None or row["index"] is None:  # a removed prompt has no number
            path = PurePath(row["file"])
            parts = [
                *path.parts[:-1],
                path.stem if path.suffix in EXTENSIONS.values() else path.name,
            ]
            return "/".join(part if _is_safe(part) else safe_name(part) for part in parts)
        asked = row["asked"]
        request = ImageRequest(
            row["prompt"],
            model=row["model"],
            seed=asked.get("seed"),
            id=row["id"],
            filename=asked.get("filename"),
            variant=row["variant"],
        )
        return laid_out(self.template, row["index"], request, row["key"], take=row["take"])

    def read(self, row: Row) -> bytes | str:
        """Return the bytes of an image, or what is wrong with it."""
        path, ours = self.directory / row["file"], self.directory.resolve()
        if ours not in (folder := path.parent.resolve(), *folder.parents):
            return f"{path} is not in {self.directory}"
        data = read_file(path)
        if data is None:
            return f"{path} {wrong_kind(path) or 'is missing, or cannot be read'}"
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            return f"{path} has changed since it was saved"
        return data

    def produce(self, row: Row) -> Converted | str:
        """Return the copy of an image, or what is wrong with it."""
        data = self.read(row)
        if isinstance(data, str):
            return data
        told = {"prompt": row["prompt"], "settings": {"model": row["model"], **_asked(row)}}
        try:
            return self.conversion.apply(data, told)
        # Decoders raise whatever they stumble over in bytes that are not an image.
        except Exception as exc:  # noqa: BLE001
            return f"{self.directory / row['file']} cannot be converted: {exc}"

    def made_of(self, row: Row) -> str:
        """Return what tells whether the copy of an image would be made alike again."""
        parts: list[Any] = [row["sha256"]]
        if self.conversion.format is not None or self.conversion.max_size is not None:
            told = [row["prompt"], row["model"], _asked(row)] if self.conversion.told else None
            parts += [asdict(self.conversion), told]
        return _digest(parts)


def _is_safe(part: str) -> bool:
    is_reserved = safe_name(part.partition(".")[0]).startswith("_") != part.startswith("_")
    return bool(_SAFE.fullmatch(part)) and part == part.strip(". ") and not is_reserved


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _asked(row: Row) -> dict[str, Any]:
    """Return the settings that were asked for; of input images no more than the name."""
    asked = {name: value for name, value in row["asked"].items() if name != "filename"}
    if images := asked.pop("images", None):
        asked["images"] = [PurePath(each).name if each else "(bytes)" for each in images]
    return asked


def facts_of(row: Row, name: str, about: dict[str, Any]) -> Row:
    """Return what is told of a copy, beside it or in a data set."""
    facts = {"file_name": name, **{each: row[each] for each in _OF_ROW}}
    facts |= {each: row[each] for each in ("mime_type", "width", "height", "bytes", "sha256")}
    facts |= about | {each: row[each] for each in _CHOSEN}
    return facts | {"asked": _asked(row), "metadata": row["metadata"]}


def copy_images(
    rows: KeptRows, how: Copying, progress: Callable[[int, int], object] = lambda done, of: None
) -> Copied:
    """Copy images.

    Args:
        rows: Of the images, from a Filter.
        how: They are copied.
        progress: Called in this thread with the number of images that are done, and their total.

    Raises:
        StoreError: If one cannot be written.
        ValueError: If a name would be in the directory itself.
    """
    done = Copied()
    with opened(how.out) as log, ThreadPoolExecutor(_THREADS) as threads:
        if how.layout == "parquet":
            from ._shards import write_shards  # needs pyarrow, which files do not

            write_shards(rows, how, log, threads, done, progress)
        else:
            facts = _copy_files(rows, how, log, threads, done, progress)
            if how.layout is None:
                for _ in facts:
                    pass
            else:
                _write_metadata(KeptRows(map(flat_facts, facts)), how, log, done)
        if how.layout is not None:
            done.removed = log.remove_others()
    return done


# Files


@dataclass(frozen=True, slots=True)
class _Job:
    row: Row
    name: str
    made_of: str
    known: LoggedFile | None
    sidecar: str | None
    known_sidecar: LoggedFile | None


def _copy_files(
    rows: KeptRows,
    how: Copying,
    log: CopyLog,
    threads: ThreadPoolExecutor,
    done: Copied,
    progress: Callable[[int, int], object],
) -> Iterator[Row]:
    """Copy images, and yield what is told of each."""
    numbered, finished = enumerate(rows), 0
    while some := list(islice(numbered, _CLAIMED)):
        jobs = [_job(row, position, how, log) for position, row in some]
        log.commit()  # claimed before they are written
        # Closing the results cancels those not begun, where this is interrupted.
        with closing(threads.map(partial(_copy, how), jobs)) as results:  # type: ignore[type-var]
            for job, result in zip(jobs, results, strict=True):
                finished += 1
                if isinstance(result, str):
                    done.leave_out(result)
                else:
                    for file in result:
                        log.note(file)
                    is_there = result[0] is job.known
                    done.there += is_there
                    done.copied += not is_there
                    done.bytes += 0 if is_there else result[0].bytes
                    yield facts_of(job.row, job.name, result[0].about)
                progress(finished, len(rows))


def _job(row: Row, position: int, how: Copying, log: CopyLog) -> _Job:
    extension = how.conversion.extension(row["mime_type"])
    extensions = [*EXTENSIONS.values(), *([f".{how.sidecar}"] if how.sidecar else [])]

    def is_free(stem: str) -> bool:
        if ours in (folder := (out / stem).parent, *folder.parents):
            raise ValueError(f"--name would make files in {how.directory}, which it copies from")
        there = [each for each in extensions if os.path.lexists(f"{out / stem}{each}")]
        # Of a log that was lost, or copied in another way: the very file may stay.
        return not there or (
            there[0] == extension and _is_same(Path(f"{out / stem}{extension}"), row)
        )

    ours, out = how.directory.resolve(), how.out.resolve()
    stem = log.claim(row["file"], how.stems(row, position), is_free)
    sidecar = f"{stem}.{how.sidecar}" if how.sidecar else None
    return _Job(
        row,
        stem + extension,
        how.made_of(row),
        log.known(stem + extension),
        sidecar,
        log.known(sidecar) if sidecar else None,
    )


def _is_same(path: Path, row: Row) -> bool:
    if wrong_kind(path) or path.stat().st_size != row["bytes"]:
        return False
    digest: str = row["sha256"]
    return hashlib.sha256(read_file(path) or b"").hexdigest() == digest


def _copy(how: Copying, job: _Job) -> list[LoggedFile] | str:
    """Copy an image, with what is beside it; return the files, or what is wrong."""
    image = job.known
    if image is None or image.made_of != job.made_of or not image.is_unchanged(how.out):
        made = how.produce(job.row)
        if isinstance(made, str):
            return made
        about = about_copy(made, job.name) if made.size else {}
        settled = settle(how.out, job.name, made.data, job.known, job.made_of, about)
        if isinstance(settled, str):
            return settled
        image = settled
    if job.sidecar is None:
        return [image]
    text = job.row["prompt"]
    if how.sidecar == "json":
        facts = facts_of(job.row, PurePath(job.name).name, image.about)
        text = f"{json.dumps(facts, ensure_ascii=False, indent=2)}\n"
    data = text.encode("utf-8", "replace")
    made_of = hashlib.sha256(data).hexdigest()
    beside = job.known_sidecar
    if beside is not None and beside.made_of == made_of and beside.is_unchanged(how.out):
        return [image, beside]
    settled = settle(how.out, job.sidecar, data, beside, made_of, {})
    return settled if isinstance(settled, str) else [image, settled]


def about_copy(made: Converted, name: str) -> dict[str, Any]:
    """Return what is another one of a converted copy than of its image."""
    kinds = {extension: kind for kind, extension in EXTENSIONS.items()}
    width, height = made.size or (None, None)
    digest = hashlib.sha256(made.data).hexdigest()
    about = {"width": width, "height": height, "bytes": len(made.data), "sha256": digest}
    return {"mime_type": kinds[PurePath(name).suffix], **about}


def settle(
    out: Path,
    name: str,
    data: bytes | Callable[[BinaryIO], object],
    known: LoggedFile | None,
    made_of: str,
    about: dict[str, Any],
) -> LoggedFile | str:
    """Write a file of ours; return it, or why what is there is left.

    Args:
        out: The folder.
        name: In it.
        data: What is written, or what writes it.
        known: What the log has of it.
        made_of: As for LoggedFile.
        about: As for LoggedFile.
    """
    for folder in list(PurePath(name).parents)[-2::-1]:
        if problem := wrong_kind(out / folder, "directory"):
            return f"{out / folder} {problem}"
    is_ours = known is not None and (known.bytes < 0 or known.is_unchanged(out))
    if is_ours or not os.path.lexists(out / name):
        write = (lambda file: file.write(data)) if isinstance(data, bytes) else data
        is_placed = place(out, name, write, replacing=is_ours)
    else:  # written by a call that was killed before it noted it
        is_placed = isinstance(data, bytes) and read_file(out / name) == data
    if not is_placed:
        return f"{out / name} was not written by genbatch copy, or changed since: it is left"
    return LoggedFile.at(out, name, made_of, about)


# Data sets


def flat_facts(facts: Row) -> Row:
    """Return what is told of a copy as columns that are not nested, in order."""
    flat = {}
    for name, value in flat_row(facts).items():
        if isinstance(value, dict | list):
            value = json.dumps(value, ensure_ascii=False)
        # Readers take those that end like this for further files.
        is_special = name != "file_name" and name.endswith(("file_name", "file_names"))
        flat[f"{name}_" if is_special else name] = value
    return flat


def _late_kinds(rows: Iterable[Row]) -> dict[int, Row]:
    """Return the rows, by position, that first tell the kind of a column, but come late.

    Datasets take it from the first megabytes: nulls alone have no kind, and dates alone are times.
    """
    kinds: dict[str, str] = {}
    late = {}
    for position, row in enumerate(rows):
        for name, value in row.items():
            if value is None or kinds.get(name) == "text":
                continue
            kind = "date" if isinstance(value, str) and _DATE.match(value) else "text"
            if kinds.get(name) != kind:
                kinds[name] = kind
                if position >= _EARLY:
                    late[position] = row
    return late


def _write_metadata(rows: KeptRows, how: Copying, log: CopyLog, done: Copied) -> None:
    """Write what is told of the images of a data set, every column with a value in every row."""
    columns = dict.fromkeys(name for name, shape in rows.shape.items() if shape is not None)
    first = _late_kinds(rows.shaped())
    others = (row for position, row in enumerate(rows.shaped()) if position not in first)

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=True)
        for row in chain(first.values(), others):
            row["file_name"] = row["file_name"].removeprefix(f"{SPLIT}/")
            told = {name: row.get(name) for name in columns}
            text.write(f"{json.dumps(told, ensure_ascii=False)}\n")
        text.detach()

    problem = write_own(_METADATA, write, "", how, log) if len(rows) else None
    if problem is not None:
        done.leave_out(problem)


def write_own(
    name: str, write: Callable[[BinaryIO], object], made_of: str, how: Copying, log: CopyLog
) -> str | None:
    """Write a file of a data set, and note it; return why what is there is left."""
    known = log.known(name)
    if known is None and not os.path.lexists(how.out / name):
        known = LoggedFile(name, "", -1, 0, {})
        log.note(known)
        log.commit()
    settled = settle(how.out, name, write, known, made_of, {})
    if isinstance(settled, str):
        return settled
    log.note(settled)
    return None
