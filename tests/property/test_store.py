"""The store against a dict: runs that end well, are killed, or lose power, at any step.

A step is each call that changes the disk. A kill leaves what has been done. A power cut takes away
what was not synced: bytes of files, names in the directory, commits of the journal.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from genbatch import Blocked, StoreError
from genbatch._store import _files as files
from genbatch._store._archive import Archive
from genbatch._store._journal import Journal
from genbatch._store._reports import export, verify
from support.archives import begin, fail, image, open_archive, opened, plan_all

PROMPTS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8)
STEPS = st.none() | st.integers(0, 120)
CHANGES = ("open", "write", "fsync", "link", "rename", "unlink", "replace")


class _Cut(BaseException):
    """The end of a process, in the middle of something."""


class _Disk:
    """Stands in for os in the module that writes files: counts steps, and fails or cuts at one."""

    def __init__(self, directory: Path, *, cut: int | None, full: range, power: bool) -> None:
        self.directory = directory
        self.left: Path | None = None  # what the cut has left
        self._cut, self._full, self._power = cut, full, power
        self._steps = 0
        self._unsynced: set[int] = set()  # files, by their number
        self._unnamed: list[Path] = []  # names given since the directory was synced
        self.committed()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES or not callable(real):
            return real

        def change(*args: Any, **options: Any) -> Any:
            self.step(fails=name in ("write", "fsync", "link"))
            result = real(*args, **options)
            self._note(name, args, result)
            return result

        return change

    def step(self, *, fails: bool = False) -> None:
        number, self._steps = self._steps, self._steps + 1
        if number == self._cut:
            self.left = Path(tempfile.mkdtemp(dir=self.directory.parent))
            shutil.copytree(self.directory, self.left, dirs_exist_ok=True)
            if self._power:
                self._lose_power(self.left)
            raise _Cut
        if fails and number in self._full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def committed(self) -> None:
        self._journal = {
            path.name: path.read_bytes()
            for path in (self.directory / ".genbatch").glob("journal.sqlite*")
        }

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name == "open" and args[1] & os.O_CREAT:
            self._unsynced.add(os.fstat(result).st_ino)
        elif name == "fsync":
            self._unsynced.discard(os.fstat(args[0]).st_ino)
            if os.path.samestat(os.fstat(args[0]), os.stat(self.directory)):
                self._unnamed.clear()
        elif name == "link":
            self._unnamed.append(Path(args[1]))

    def _lose_power(self, left: Path) -> None:
        for path in self.directory.iterdir():
            if path.is_file() and path.stat().st_ino in self._unsynced:
                (left / path.name).write_bytes(b"")
        for path in self._unnamed:
            (left / path.name).unlink(missing_ok=True)
        for path in (left / ".genbatch").glob("journal.sqlite*"):
            path.unlink()
        for name, content in self._journal.items():
            (left / ".genbatch" / name).write_bytes(content)


@contextmanager
def simulated(disk: _Disk) -> Iterator[None]:
    """Let the block write to a simulated disk."""
    writing = Journal.writing

    @contextmanager
    def watched(self: Journal, *, durable: bool = True) -> Iterator[Any]:
        with writing(self, durable=durable) as transaction:
            disk.step()
            yield transaction
            disk.step()
        if durable:
            disk.committed()
        disk.step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", disk)
        patch.setattr(Journal, "writing", watched)
        yield


class Runs(RuleBasedStateMachine):
    """Runs into one directory; the model is a dict from key to SHA-256 of what a run was given."""

    def __init__(self) -> None:
        super().__init__()
        self._root = Path(tempfile.mkdtemp())
        self._directory = self._root / "out"
        self._made: dict[str, str] = {}
        self._refused: set[str] = set()
        self._paid = 0
        self._cuts = 0
        self._lost = 0  # paid images that a full disk never took

    def teardown(self) -> None:
        shutil.rmtree(self._root)

    @rule(prompts=PROMPTS, cut=STEPS, power=st.booleans())
    def run(self, prompts: list[str], cut: int | None, power: bool) -> None:
        """Run into the directory, to the end or to a step at which all ends."""
        self._simulate(prompts, _Disk(self._directory, cut=cut, full=range(0), power=power))

    @rule(prompts=PROMPTS, begin=st.integers(0, 80), length=st.integers(1, 40))
    def run_into_a_full_disk(self, prompts: list[str], begin: int, length: int) -> None:
        """Run while the disk is full for some steps."""
        full = range(begin, begin + length)
        self._simulate(prompts, _Disk(self._directory, cut=None, full=full, power=False))

    @rule(prompts=PROMPTS)
    def run_again(self, prompts: list[str]) -> None:
        """Run twice: the second finds everything."""
        for _ in range(2):
            self._simulate(prompts, _Disk(self._directory, cut=None, full=range(0), power=False))
        with opened(self._directory) as archive:
            for plan in plan_all(archive, prompts):
                assert plan.saved is not None or plan.error is not None

    def _simulate(self, prompts: list[str], disk: _Disk) -> None:
        archive: list[Archive] = []
        try:
            with simulated(disk):
                archive.append(open_archive(self._directory))
                self._work(archive[0], prompts)
        except _Cut:
            self._cuts += 1
            assert disk.left is not None
            for each in archive:
                each.journal.close()
                each._lock.release()
            shutil.rmtree(self._directory, ignore_errors=True)
            disk.left.rename(self._directory)
        except StoreError:
            pass  # a full disk, told

    def _work(self, archive: Archive, prompts: list[str]) -> None:
        try:
            for plan in plan_all(archive, prompts):
                if plan.saved is not None or plan.error is not None:
                    assert (plan.key in self._refused) == (plan.error is not None)
                    continue
                assert plan.key not in self._made
                call = begin(archive, plan)
                if plan.key.startswith(("0", "1")):
                    fail(archive, call, Blocked("no"))
                    self._refused.add(plan.key)
                    continue
                self._paid += 1
                new = image(self._paid)
                try:
                    archive.save(call, new, 1.0)
                except StoreError:
                    self._lost += 1  # unless it is written later
                    raise
                self._made[plan.key] = hashlib.sha256(new.data).hexdigest()
        except StoreError:
            archive.close()
            raise
        else:
            archive.close()

    @invariant()
    def nothing_is_lost_nor_half_written_nor_paid_twice(self) -> None:
        """What a run was told is there is there; there is nothing that no run was told of."""
        with opened(self._directory) as archive:
            spent = archive.spent()
        rows = [row for row in export(self._directory, all=True) if row["file"]]
        assert list(verify(self._directory)) == []
        found = {row["key"]: row["sha256"] for row in rows}
        assert found.items() >= self._made.items()
        assert len(found) == len(rows) == len({row["file"] for row in rows})
        assert spent.images == len(rows)
        assert self._paid <= len(rows) + self._cuts + self._lost
        self._made = found  # those adopted too


Runs.TestCase.settings = settings(max_examples=20, stateful_step_count=6, deadline=None)
TestRuns = Runs.TestCase


@pytest.mark.parametrize("template", ["{index}-{slug}-{key}", "{slug}"])
@pytest.mark.parametrize("power", [False, True])
def test_an_answer_of_many_images_that_is_cut_off_belongs_to_its_prompt_alone(
    tmp_path: Path, template: str, power: bool
) -> None:
    answer = image(1, extras=(image(2), image(3)))
    digests = {hashlib.sha256(image(number).data).hexdigest() for number in (1, 2, 3)}
    found: set[int] = set()  # how many images of the answer a cut has left
    for cut in count():
        directory = tmp_path / str(cut)
        with opened(directory, template=template) as archive:
            plans = plan_all(archive, ["cat", "cat 2", "cat 3"])
            calls = [begin(archive, plan) for plan in plans]
            disk = _Disk(directory, cut=cut, full=range(0), power=power)
            try:
                with simulated(disk):
                    archive.save(calls[0], answer, 1.0)
            except _Cut:
                pass
        if disk.left is None:
            break
        for _ in range(2):
            with opened(disk.left, template=template) as archive:
                first, *others = plan_all(archive, ["cat", "cat 2", "cat 3"])
                spent = archive.spent()
            assert [plan.saved for plan in others] == [None, None]
            assert first.saved is None or first.saved.sha256 in digests
            assert list(verify(disk.left)) == []
        images = len(list(disk.left.glob("*.png")))
        assert spent.images == images
        assert spent.maybe_images == 2 + (images < 3)
        found.add(images)
    assert found == {0, 1, 2, 3}
