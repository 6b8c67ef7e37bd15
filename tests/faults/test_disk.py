"""What a disk does: full, read-only, gone wrong, without hard links, with traps planted."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genbatch import SavedImage, StoreError
from genbatch._store import _files as files
from genbatch._store._journal import Journal
from genbatch._store._reports import export, status, verify
from support.archives import begin, image, make_all, open_archive, opened, plan_all

PROMPTS = ["a cup", "a mug", "a jug", "a pot", "a pan"]


def full(*args: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def test_bytes_are_synced_before_they_have_a_name_and_the_name_before_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, link, commit = os.fsync, os.link, Journal.writing

    def recording_fsync(descriptor: int) -> None:
        steps.append("sync directory" if is_directory(descriptor) else "sync file")
        fsync(descriptor)

    def recording_link(*args: Any) -> None:
        steps.append("link")
        link(*args)

    with opened(tmp_path) as archive:
        call = begin(archive, plan_all(archive, ["a cup"])[0])
        monkeypatch.setattr(os, "fsync", recording_fsync)
        monkeypatch.setattr(os, "link", recording_link)
        monkeypatch.setattr(
            Journal, "writing", lambda *args, **kw: steps.append(f"row {kw}") or commit(*args, **kw)
        )
        archive.save(call, image(), 1.0)
        monkeypatch.undo()
    assert steps == ["sync file", "link", "sync directory", "row {}"]


def test_a_commit_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    with opened(tmp_path) as archive, archive.journal.writing() as journal:
        assert journal.first("PRAGMA synchronous") == (2,)
        assert journal.first("PRAGMA journal_mode") == ("wal",)
        assert journal.first("PRAGMA locking_mode") == ("normal",)


@pytest.mark.parametrize("step", ["write", "fsync", "link and rename", "fsync of the directory"])
def test_a_full_disk_leaves_nothing_and_the_image_is_written_once_space_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fsync = os.fsync
    with opened(tmp_path) as archive:
        plans = plan_all(archive, PROMPTS[:3])
        first, second, third = (begin(archive, plan) for plan in plans)
        with monkeypatch.context() as patch:
            match step:
                case "fsync":
                    patch.setattr(os, "fsync", full)
                case "fsync of the directory":
                    patch.setattr(os, "fsync", lambda fd: full() if is_directory(fd) else fsync(fd))
                case _:
                    for name in step.split(" and "):
                        patch.setattr(os, name, full)
            for call, number in ((first, 1), (second, 2)):
                with pytest.raises(StoreError, match=r"No space left on device \(disk /.*MB free"):
                    archive.save(call, image(number), 1.0)
            assert list(tmp_path.glob("*")) == [tmp_path / ".genbatch"]
        archive.save(third, image(3), 1.0)  # and with it the other two
        again = plan_all(archive, PROMPTS[:3])
        assert [plan.saved.path.read_bytes() for plan in again if plan.saved] == [
            image(number).data for number in (1, 2, 3)
        ]
        assert archive.spent() == (1.5, 0.0, 3, 0)


def test_an_image_whose_row_could_not_be_written_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        call = begin(archive, plan_all(archive, ["a cup"])[0])
        with archive.journal.writing() as journal:
            (pages,) = journal.first("PRAGMA page_count")
        archive.journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        made = image(text="x" * 100_000, extras=(image(2),))
        with pytest.raises(StoreError, match=r"journal\.sqlite: database or disk is full \(disk"):
            archive.save(call, made, 1.0)
        archive.journal._connection.execute("PRAGMA max_page_count = 1000000")
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert status(tmp_path).done == 1
    assert list(verify(tmp_path)) == []


def test_an_image_that_the_disk_never_took_stays_counted_as_possibly_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = open_archive(tmp_path)
    call = begin(archive, plan_all(archive, ["a cup"])[0])
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StoreError, match="No space left"):
        archive.save(call, image(), 1.0)
    archive.close()
    monkeypatch.undo()
    with opened(tmp_path) as archive:
        assert plan_all(archive, ["a cup"])[0].saved is None
        assert archive.spent().maybe_images == 1


def test_a_disk_that_takes_a_part_without_an_error_is_given_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    with opened(tmp_path) as archive:
        make_all(archive, ["a cup"])
    monkeypatch.undo()
    assert list(verify(tmp_path)) == []


def test_a_real_limit_is_reported(tmp_path: Path) -> None:
    """A file size limit writes a part and then refuses, as a full disk does."""
    script = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from support.archives import *
with opened(Path({str(tmp_path)!r})) as archive:
    call = begin(archive, plan_all(archive, ["a cup"])[0])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80, most))
    try:
        archive.save(call, image(), 1.0)
    except Exception as exc:
        print(exc)
    print(list(Path({str(tmp_path)!r}).glob("*")) == [Path({str(tmp_path)!r}) / ".genbatch"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""
    # Coverage, where it is measured, could not write its own file there.
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    result = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        check=False,
    )
    assert "cannot save" in result.stdout
    assert "File too large (disk" in result.stdout
    assert result.stdout.endswith("True\n")
    assert list(verify(tmp_path)) == []
    assert status(tmp_path).done == 1


def test_a_read_only_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*args: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(StoreError, match=r"cannot save images in .*Read-only file system"):
            open_archive(tmp_path)
    with opened(tmp_path):
        pass


def test_reports_read_a_directory_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, PROMPTS)
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert len(list(export(tmp_path))) == 5
    assert {path.name for path in (tmp_path / ".genbatch").iterdir()} == {"journal.sqlite", "lock"}


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*args: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for extension in (".png", ".jpg", ".png"):
        files.publish(tmp_path, "a", extension, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.2.png", "a.jpg", "a.png"]


def test_nothing_is_overwritten_nor_written_through(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        plans = plan_all(archive, ["a cup", "a mug"])
        (tmp_path / f"{plans[0].stem}.png").symlink_to(tmp_path / "target")
        (tmp_path / f"{plans[1].stem}.png").write_text("mine")
        saved = [archive.save(begin(archive, plan), image(), 1.0) for plan in plans]
    assert not (tmp_path / "target").exists()
    assert (tmp_path / f"{plans[1].stem}.png").read_text() == "mine"
    assert [each.path.name for each in saved] == [f"{plan.stem}.2.png" for plan in plans]


@pytest.mark.parametrize("trap", ["symlink", "directory", "pipe"])
def test_what_is_no_file_is_not_adopted(tmp_path: Path, trap: str) -> None:
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
        begin(archive, plan)
    path = tmp_path / f"{plan.stem}.png"
    match trap:
        case "symlink":
            (tmp_path / "elsewhere").write_bytes(image().data)
            path.symlink_to(tmp_path / "elsewhere")
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
    with opened(tmp_path) as archive:
        assert plan_all(archive, ["a cup"])[0].saved is None


def test_what_a_killed_process_left_is_swept_and_what_it_published_is_adopted(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
        begin(archive, plan, 0.25)
    (tmp_path / f".{'a' * 16}.part").write_bytes(b"half")
    (tmp_path / ".mine.part").write_bytes(b"")
    (tmp_path / f"{plan.stem}.png").write_bytes(image().data)
    with opened(tmp_path) as archive:
        (again,) = plan_all(archive, ["a cup"])
        assert again.saved is not None
        assert again.saved.cost == 0.25
        assert archive.spent() == (0.25, 0.0, 1, 0)
    assert not (tmp_path / f".{'a' * 16}.part").exists()
    assert (tmp_path / ".mine.part").exists()


def test_a_take_that_is_adopted_is_not_picked(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        make_all(archive, ["a cup"])
        call = begin(archive, archive.further(0, "", {})[0])
    (tmp_path / f"{call.name}.png").write_bytes(image(2).data)
    with opened(tmp_path):
        pass
    (row,) = export(tmp_path)
    assert (row["take"], row["takes"]) == (1, 2)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a kill leaves it, all of its journal still in the write-ahead log."""
    directory = tmp_path_factory.mktemp("killed")
    with opened(directory / "live") as archive:
        make_all(archive, PROMPTS)
        shutil.copytree(directory / "live", directory / "left")
    return directory / "left"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "both"])
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_log_loses_no_image(killed: Path, tmp_path: Path, damage: str, seed: int) -> None:
    """A log ends where it is damaged; images whose rows are lost have their key in their name."""
    import random

    choose = random.Random(f"{damage} {seed}")
    directory = tmp_path / "left"
    shutil.copytree(killed, directory)
    log = directory / ".genbatch" / "journal.sqlite-wal"
    (directory / ".genbatch" / "journal.sqlite-shm").unlink()
    content = bytearray(log.read_bytes())
    if damage != "truncated":
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    if damage != "flipped":
        del content[choose.randrange(len(content)) :]
    log.write_bytes(content)
    with opened(directory) as archive:
        for plan in plan_all(archive, PROMPTS):
            assert plan.saved is not None or isinstance(archive.begin(plan), SavedImage)
    assert list(verify(directory)) == []


def test_a_journal_on_a_file_system_that_cannot_hold_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    class WithoutLog(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("= WAL", "= DELETE"), *args)

    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **kw: connect(*args, factory=WithoutLog, **kw)
    )
    with pytest.raises(StoreError, match="cannot hold a journal"):
        open_archive(tmp_path)
