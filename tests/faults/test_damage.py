"""Folders whose files are damaged, or have something else in their places."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from genbatch import Blocked, Image, ImageMissing, ImageRequest, StoreError
from genbatch._store import BegunCall
from genbatch._store._reports import export, status, verify, write_results
from genbatch.batch_api import jobs
from genbatch.gallery import write_gallery
from support.archives import begin, fail, opened, plan_all
from support.folders import picture

PROMPTS: list[Any] = [
    *(f"a cup, number {number}" for number in range(6)),
    ImageRequest("a mug", id="mug", seed=3, metadata={"a": [1, "é"]}),
    "refused",
]
REMEDY = re.compile(r"journal\.sqlite(-\w+)? (is damaged|was written by|is a) .*run again")


_LONGEST = 60  # seconds for a command, far more than any takes: one that waits for a pipe ends so


@pytest.fixture(autouse=True)
def _wake() -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.signal(signal.SIGALRM, before)


def drawn(number: int, **changes: Any) -> Image:
    return Image(picture(number), "image/png", model="m", cost=0.5, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, a further one, another take, a refusal, and a gallery."""
    directory = tmp_path_factory.mktemp("whole") / "out"
    with opened(directory) as archive:
        plans = plan_all(archive, PROMPTS)
        fail(archive, begin(archive, plans.pop()), Blocked("no", reason="SAFETY"))
        for number, plan in enumerate(plans):
            extras = (drawn(100),) if number == 2 else ()
            archive.save(begin(archive, plan), drawn(number, extras=extras), 1.0)
        archive.save(begin(archive, archive.further(1, "", {"seed": 5})[0]), drawn(50), 1.0)
        begin(archive, archive.further(3, "", {})[0])
    write_results(directory)
    write_gallery(directory)
    return directory


# Each kind of command, by what it does in a folder.


def resume(folder: Path) -> None:
    with opened(folder) as archive:
        for number, plan in enumerate(plan_all(archive, PROMPTS)):
            if isinstance(plan.error, ImageMissing):
                raise plan.error
            if plan.saved is None and plan.error is None:
                call = archive.begin(plan)
                if isinstance(call, BegunCall):
                    archive.send(call, 0.25)
                    archive.save(call, drawn(number), 1.0)
        archive.spent()
        archive.costs_by_run()
    write_results(folder)


def redo(folder: Path) -> None:
    list(export(folder))
    with opened(folder) as archive:
        plan, request = archive.further(6, "", {"seed": 8})
        assert request.seed == 8
        archive.save(begin(archive, plan), drawn(60), 1.0)


def pick(folder: Path) -> None:
    list(export(folder))
    with opened(folder) as archive:
        archive.pick(1, 1, "")


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "run": resume,
    "redo": redo,
    "pick": pick,
    "status": status,
    "export": lambda folder: list(export(folder, all=True)),
    "verify": lambda folder: list(verify(folder)),
    "gallery": write_gallery,
    "jobs": jobs,
}


def said(command: Callable[[Path], Any], folder: Path) -> str:
    """Return what a command tells of a folder: its problems, or its error, which is one of ours."""
    signal.alarm(_LONGEST)
    try:
        found = command(folder)
    except (StoreError, ImageMissing) as error:
        return str(error)
    except ValueError as error:
        if not re.match(r"(there is no prompt|prompt) \d", str(error)):
            raise
        return str(error)
    finally:
        signal.alarm(0)
    return "\n".join(found) if isinstance(found, list) and command is COMMANDS["verify"] else ""


# Something else in the place of a file


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


THINGS: dict[str, Callable[[Path, Path], object]] = {
    "directory": lambda path, _: (path / "within").mkdir(parents=True),
    "pipe": lambda path, _: os.mkfifo(path),
    "device": lambda path, _: path.symlink_to("/dev/zero"),
    "link to a file": lambda path, others: path.symlink_to(others / "file"),
    "link to a directory": lambda path, others: path.symlink_to(others),
    "link to nothing": lambda path, others: path.symlink_to(others / "nothing"),
    "file": lambda path, _: path.write_bytes(b"something else"),
}
# Places, and the commands that name what is there
IMAGE = "0001-a-cup-number-1-??????.png"
PLACES = {
    IMAGE: {"run", "verify"},
    "results.jsonl": {"run", "redo", "pick", "verify"},
    "damaged": {"run", "redo", "pick", "verify"},
    "index.html": {"gallery"},
    ".genbatch/lock": {"run", "redo", "pick", "verify"},
    ".genbatch/thumbs": {"run", "redo", "pick", "verify", "gallery"},
    ".genbatch/jobs": {"run", "redo", "pick", "verify"},
    ".genbatch/journal.sqlite": set(COMMANDS),
    ".genbatch/journal.sqlite-wal": set(COMMANDS),
    ".genbatch/journal.sqlite-shm": set(COMMANDS),
    ".genbatch/journal.sqlite-journal": set(COMMANDS),
}
# In its right place there, whatever is in it: written anew, not read, or left alone.
RIGHT = {("damaged", "directory"), ("results.jsonl", "file"), (".genbatch/lock", "file")} | {
    *((f".genbatch/{name}", "directory") for name in ("thumbs", "jobs")),
    *((f".genbatch/journal.sqlite-{name}", "file") for name in ("wal", "shm", "journal")),
}


def is_named(command: str, place: str, thing: str) -> bool:
    if (place, thing) == (IMAGE, "file"):
        return command == "verify"  # bytes are not compared in a run
    if (place, thing) == (".genbatch/journal.sqlite-journal", "file"):
        return command != "run"  # which removes it
    return command in PLACES[place] and (place, thing) not in RIGHT


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Path]:
    """Return a directory of others, to which nothing must be done."""
    directory = tmp_path / "others"
    directory.mkdir()
    (directory / "file").write_bytes(b"of others")
    (directory / f"{'0' * 64}-1x1.webp").write_bytes(b"of others")
    yield directory
    assert sorted(path.read_bytes() for path in directory.iterdir()) == [b"of others"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_in_the_place_of_a_file_is_named_and_never_followed(
    whole: Path, others: Path, tmp_path: Path, place: str, thing: str
) -> None:
    for name, command in COMMANDS.items():
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        path = next(folder.glob(place), folder / place)
        remove(path)
        THINGS[thing](path, others)
        before = os.lstat(path)
        told = said(command, folder)
        if is_named(name, place, thing):
            assert path.name in told
            assert "\n" not in told
            assert re.search("move it elsewhere|has changed", told)
        elif place != IMAGE:
            assert told == ""
        if (place, thing) not in RIGHT:
            assert os.path.samestat(before, os.lstat(path))  # left as it was
    folder = tmp_path / "run"
    path = next(folder.glob(place), folder / place)
    # What was told to do helps.
    remove(path)
    if place == IMAGE:
        shutil.copy(next(whole.glob(place)), path)
    assert said(resume, folder) == ""
    assert list(verify(folder)) == []


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_in_the_place_of_a_thumbnail_is_never_followed(
    whole: Path, others: Path, tmp_path: Path, thing: str
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    path, *_ = sorted((folder / ".genbatch" / "thumbs").iterdir())
    path.unlink()
    THINGS[thing](path, others)
    told = said(write_gallery, folder)
    if thing == "directory":
        assert told == f"{path} is a directory, not a file: move it elsewhere"
        shutil.rmtree(path)
        assert said(write_gallery, folder) == ""
    assert stat.S_ISREG(path.lstat().st_mode)


def test_results_cut_short_are_left_and_logged(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    (folder / "results.jsonl").write_bytes(b'{"index": 0, "id')
    write_results(folder)
    assert "results.jsonl was not written by genbatch: move it elsewhere" in caplog.text


@pytest.mark.parametrize("name", ["results.jsonl", "index.html"])
def test_the_mode_of_a_file_is_kept(whole: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    (folder / name).chmod(0o640)
    write_results(folder)
    write_gallery(folder)
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o640


# Bytes of the journal


def flipped(content: bytes, choose: random.Random) -> bytes:
    """Return content with a few bytes changed, most of them a bit, where there is something."""
    changed = bytearray(content)
    used = [at for at, byte in enumerate(content) if byte]
    for _ in range(choose.choice((1, 1, 1, 2, 8))):
        at = choose.choice(used)
        changed[at] = choose.choice((content[at] ^ 1 << choose.randrange(8), choose.randrange(256)))
    return bytes(changed)


def check_damaged(folder: Path, content: bytes, cause: str) -> None:
    """Look at a folder with this journal in each way; damage is told in our words."""
    journal = folder / ".genbatch" / "journal.sqlite"
    for name, command in COMMANDS.items():
        for path in journal.parent.glob("journal.sqlite*"):
            path.unlink()
        journal.write_bytes(content)
        try:
            told = said(command, folder)
        except Exception as error:
            error.add_note(f"{name}: {cause}")
            raise
        if "journal.sqlite" in told:
            assert REMEDY.search(told), (cause, name, told)
            journal.unlink()  # the files beside it are left
            resume(folder)
            assert len([row for row in export(folder) if row["file"]]) == len(PROMPTS)


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_journal_is_named_with_a_remedy_that_works(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    flip_journals(whole, tmp_path / "out", seed, 5)


@pytest.mark.slow
def test_many_flipped_journals_are_named(whole: Path, tmp_path: Path) -> None:
    flip_journals(whole, tmp_path / "out", 100, 100)


def flip_journals(whole: Path, folder: Path, seed: int, times: int) -> None:
    content = (whole / ".genbatch" / "journal.sqlite").read_bytes()
    for number in range(times):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        cause = f"seed {seed}, {number}"
        check_damaged(folder, flipped(content, random.Random(cause)), cause)
