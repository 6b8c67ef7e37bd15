"""The shared store by itself: its index, its ledger, and the places it may be in."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from genbatch import StoreError
from genbatch._bucket import Objects
from genbatch._bucket import _objects as _store
from genbatch._bucket._places import Bucket
from support.stores import KEY, OTHER_KEY, image


def keys(count: int) -> list[str]:
    return [f"{number:064x}" for number in range(count)]


def save(objects: Objects, count: int) -> None:
    for key in keys(count):
        objects.save(key, image(key))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the done objects that were read."""
    found: list[str] = []
    row = Objects.row
    monkeypatch.setattr(Objects, "row", lambda self, key: (found.append(key), row(self, key))[1])
    return found


def test_what_is_indexed_is_not_read_again(tmp_path: Path, reads: list[str]) -> None:
    save(Objects(tmp_path), 20)
    assert sorted(each.key for each in Objects(tmp_path).done()) == keys(20)
    assert sorted(reads) == keys(20)
    again = list(Objects(tmp_path).done())
    assert sorted(each.key for each in again) == keys(20)
    assert len(reads) == 20
    assert set(again) == {Objects(tmp_path).find(key) for key in keys(20)}


def test_what_is_in_two_segments_comes_once(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    save(objects, 3)
    done = list(objects.done())
    objects.add_segments(done)
    assert sorted(each.key for each in objects.done()) == keys(3)


def test_many_segments_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store, "_MOST_SEGMENTS", 3)
    objects = Objects(tmp_path)
    for key in keys(5):
        objects.add_segments([objects.save(key, image(key))])
    assert sorted(each.key for each in objects.done()) == keys(5)
    assert len(list((tmp_path / "index").iterdir())) == 1
    assert sorted(each.key for each in objects.done()) == keys(5)


def test_an_index_knows_nothing_of_what_is_gone(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    save(objects, 3)
    list(objects.done())
    (tmp_path / "done/00/00" / f"{keys(3)[1]}.json").unlink()
    assert sorted(each.key for each in objects.done()) == [keys(3)[0], keys(3)[2]]


def test_a_damaged_object_says_what_to_do(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    objects.save(KEY, image("a"))
    (tmp_path / f"done/ab/ab/{KEY}.json").write_text("{")
    with pytest.raises(StoreError, match=r"json is damaged: remove it"):
        objects.find(KEY)


def test_a_ledger_keeps_the_last_note_of_each_run(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    assert objects.ledger() == {}
    for dollars in (1.0, 2.0):
        objects.note("a", {"dollars": dollars, "images": 1.0})
    objects.note("b", {"dollars": 5.0, "images": 2.0})
    assert objects.ledger() == {
        "a": {"dollars": 2.0, "images": 1.0},
        "b": {"dollars": 5.0, "images": 2.0},
    }


def test_the_image_stands_before_what_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked: list[str] = []
    link = os.link
    monkeypatch.setattr(
        os, "link", lambda a, b: (linked.append(Path(b).relative_to(tmp_path).parts[0]), link(a, b))
    )
    objects = Objects(tmp_path)
    linked.clear()
    objects.save(KEY, image("a"))
    assert linked == ["images", "done"]


def test_what_a_kill_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    Objects(tmp_path)
    old, new = tmp_path / "tmp/old", tmp_path / "tmp/new"
    for path in (old, new):
        path.write_bytes(b"half an im")
    os.utime(old, (0, time.time() - 1e6))
    Objects(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_place_that_overwrites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Bucket._put
    monkeypatch.setattr(
        Bucket, "_put", lambda self, name, data, _: put(self, name, data, "overwrite")
    )
    with pytest.raises(StoreError, match="does not create objects exclusively"):
        Objects("memory://overwriting")


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot use .*file"):
        Objects(tmp_path / "file")


def test_an_error_of_a_service_names_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects("memory://failing")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("reset")

    monkeypatch.setattr("obstore.get", fail)
    with pytest.raises(StoreError, match=r"cannot use memory://failing/done/ab/ab/.*: the service"):
        objects.find(KEY)


def test_a_file_url_is_a_directory(tmp_path: Path) -> None:
    saved = Objects(f"file://{tmp_path}").save(OTHER_KEY, image("a"))
    assert Path(saved.uri).read_bytes() == image("a").data
