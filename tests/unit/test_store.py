from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbatch import Image, Prompt, Store, StoreError
from genbatch._store import _plan

pytestmark = pytest.mark.anyio

PNG = Image(
    b"\x89PNG\r\n\x1a\n and the rest", "image/png", "some-model", text="Here it is", cost=0.5
)
JPEG = Image(b"\xff\xd8\xff and the rest", "image/jpeg", "some-model")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_an_image_is_saved_whole_under_its_name_and_true_extension(tmp_path: Path) -> None:
    async with Store(tmp_path / "new" / "out") as store:
        saved = await store.save("0001-cup-abcdef", PNG)
        await store.save("0002-mug-abcdef", JPEG)
    assert names(tmp_path / "new" / "out") == ["0001-cup-abcdef.png", "0002-mug-abcdef.jpg"]
    assert saved.path == tmp_path / "new" / "out" / "0001-cup-abcdef.png"
    assert await anyio.to_thread.run_sync(lambda: saved.data) == PNG.data
    assert saved.sha256 == hashlib.sha256(PNG.data).hexdigest()
    assert saved.size_mb == len(PNG.data) / 1e6
    assert (saved.mime_type, saved.resumed) == ("image/png", False)
    assert (saved.cost, saved.text, saved.model) == (0.5, "Here it is", "some-model")


async def test_an_image_of_an_earlier_run_is_found(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        saved = await store.save("0001-cup-abcdef", PNG)
        assert (await store.find("0001-cup-abcdef")) is not None
    async with Store(tmp_path) as store:
        found = await store.find("0001-cup-abcdef")
        assert await store.find("0002-mug-abcdef") is None
    assert found is not None
    assert found.resumed
    assert (found.path, found.sha256, found.size_mb) == (saved.path, saved.sha256, saved.size_mb)


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        (tmp_path / "0001-cup-abcdef.png").write_text("somebody else's")
        saved = await store.save("0001-cup-abcdef", PNG)
    assert (tmp_path / "0001-cup-abcdef.png").read_text() == "somebody else's"
    assert saved.path.name == "0001-cup-abcdef.2.png"
    assert saved.path.read_bytes() == PNG.data


async def test_a_planted_symlink_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    out = tmp_path / "out"
    async with Store(out) as store:
        (out / "0001-cup-abcdef.png").symlink_to(target)
        assert await store.find("0001-cup-abcdef") is None
        saved = await store.save("0001-cup-abcdef", PNG)
    async with Store(out) as store:
        assert await store.find("0001-cup-abcdef") is None
    assert not target.exists()
    assert saved.path.name == "0001-cup-abcdef.2.png"


async def test_a_file_that_is_no_image_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "0001-cup-abcdef.png").write_text("a text")
    async with Store(tmp_path) as store:
        with pytest.raises(StoreError, match=r"0001-cup-abcdef\.png is in the way"):
            await store.find("0001-cup-abcdef")


async def test_an_image_that_vanished_is_reported(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        saved = await store.save("0001-cup-abcdef", PNG)
        saved.path.unlink()
        with pytest.raises(StoreError, match="cannot read"):
            await store.find("0001-cup-abcdef")


async def test_saving_is_not_cancelled(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.save("0001-cup-abcdef", PNG)
    assert names(tmp_path) == ["0001-cup-abcdef.png"]


async def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    async with Store(tmp_path) as store:
        await store.save("0001-cup-abcdef", PNG)
        await store.save("0001-cup-abcdef", JPEG)
        await store.save("0001-cup-abcdef", PNG)
    assert names(tmp_path) == [f"0001-cup-abcdef{end}" for end in (".2.png", ".jpg", ".png")]


async def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async with Store(tmp_path) as store:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match=r"cannot save .*0001.*: No space left on device"):
            await store.save("0001-cup-abcdef", PNG)
    assert names(tmp_path) == []


async def test_bytes_are_synced_before_they_have_a_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def recording_fsync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync directory" if is_directory else "sync file")
        fsync(descriptor)

    def recording_link(source: str, target: str) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "link", recording_link)
    async with Store(tmp_path) as store:
        await store.save("0001-cup-abcdef", PNG)
    assert steps == ["sync file", "link", "sync directory"]


async def test_a_full_disk_is_reported_by_a_real_one(tmp_path: Path) -> None:
    """A file size limit writes a part and then refuses, as a full disk does."""
    script = f"""
import resource, signal
import anyio
from genbatch import Image, Store, StoreError
async def main():
    async with Store({str(tmp_path)!r}) as store:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (80, 80))
        image = Image(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(92), "image/png", "some-model")
        try:
            await store.save("0001-cup-abcdef", image)
        except StoreError as exc:
            print(exc)
anyio.run(main)
"""
    # Coverage, where it is measured, could not write its own file there.
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    result = await anyio.run_process(
        [sys.executable, "-c", script], stderr=subprocess.STDOUT, env=environment
    )
    assert b"cannot save" in result.stdout
    assert b"File too large" in result.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "below a file"])
async def test_an_unusable_directory_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" if kind == "file" else tmp_path / "file" / "out"
    with pytest.raises(StoreError, match="cannot save images in"):
        async with Store(directory):
            pass


PROMPT = Prompt("Coffee cup on wooden table", model="m")


def test_a_name_has_the_index_the_prompt_and_a_part_of_the_key() -> None:
    name = _plan(7, PROMPT, "")
    start, _, key = name.rpartition("-")
    assert start == "0007-coffee-cup-on-wooden-table"
    assert len(key) == 6
    assert int(key, 16) >= 0


def test_a_name_takes_filename_before_id_before_text() -> None:
    with_id = dataclasses.replace(PROMPT, id="row 9")
    assert _plan(0, with_id, "").startswith("0000-row-9-")
    assert _plan(0, dataclasses.replace(with_id, filename="My Cup"), "").startswith("0000-my-cup-")


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Tea cup"},
        {"id": "1"},
        {"model": "n"},
        {"aspect_ratio": "16:9"},
        {"image_size": "2K"},
        {"seed": 1},
        {"images": (b"GIF89a",)},
    ],
)
def test_the_key_covers_everything_that_changes_the_image(change: dict[str, object]) -> None:
    changed = dataclasses.replace(PROMPT, **change)  # type: ignore[arg-type]
    assert _plan(0, changed, "")[-6:] != _plan(0, PROMPT, "")[-6:]
    assert _plan(0, changed, "") == _plan(0, changed, "")


def test_the_key_covers_the_namespace() -> None:
    assert _plan(0, PROMPT, "a")[-6:] != _plan(0, PROMPT, "b")[-6:]


async def test_the_key_covers_the_content_of_input_images(tmp_path: Path) -> None:
    path = tmp_path / "in.gif"
    prompt = dataclasses.replace(PROMPT, images=(path,))
    path.write_bytes(b"GIF89a one")
    async with Store(tmp_path / "out") as store:
        before = await store.plan(0, prompt)
        path.write_bytes(b"GIF89a two")
        after = await store.plan(0, prompt)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            await store.plan(0, prompt)
    assert before != after


@given(st.text(min_size=1).filter(str.strip), st.integers(0, 10**6))
def test_every_name_is_one_safe_component(text: str, index: int) -> None:
    name = _plan(index, Prompt(text, model="m"), "") + ".png"
    assert len(name) < 80
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert name.count(".") == 1
    assert unicodedata.normalize("NFD", name) == name


@pytest.mark.parametrize("text", ["../../etc/passwd", "CON", "a" * 300, "a\0b", "‮gpj", "☕️"])
def test_a_hostile_prompt_makes_a_harmless_name(text: str) -> None:
    name = _plan(0, Prompt(text, model="m"), "")
    assert os.path.basename(name) == name
    assert name.isascii()
    assert name.isprintable()
